import os
from pathlib import Path

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.sources import find_sources


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Images, a video and others in folders."""
    for name in ("a.png", "a.jpg", "A.PNG", "sub/a.png", "sub/deep/b.JPG", "clip.MP4", "notes.md"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def insides(*words):
    return [source.inside for source in find_sources(words).sources]


def test_a_folder_gives_all_images_and_videos_below_it(tree):
    found = find_sources(["in"])
    assert [one.inside for one in found.sources] == [
        "A.PNG", "a.jpg", "a.png", "clip.MP4", "sub/a.png", "sub/deep/b.JPG",
    ]  # fmt: skip
    assert [one.video for one in found.sources].index(True) == 3
    assert found.left_out == ["in: left out 1 other file: notes.md"]
    assert found.problems == []


def test_no_two_outputs_have_one_name(tree):
    (tree / "other" / "sub").mkdir(parents=True)
    for name in ("other/a.png", "other/a-2.png", "other/sub/a.tif"):
        (tree / name).write_bytes(b"")
    found = find_sources(["in", "other", "-"])
    keys = [one.key for one in found.sources]
    assert keys[:3] == ["A", "a-2", "a-3"]
    assert len({key.casefold() for key in keys}) == len(keys) == 10
    assert find_sources(["in", "other", "-"]).sources == found.sources


def test_a_long_name_leaves_room_for_endings(tree):
    names = ["x" * 240 + f"{number}.png" for number in range(2)]
    for name in names:
        Path(name).write_bytes(b"")
    keys = [one.key for one in find_sources(names).sources]
    assert keys == ["x" * 100, "x" * 100 + "-2"]


def test_a_pattern_keeps_the_folders_below_its_plain_part(tree):
    assert insides("in/**/*.png") == ["a.png", "sub/a.png"]
    assert insides("in/*/a.*") == ["sub/a.png"]
    assert insides("in/*") == ["A.PNG", "a.jpg", "a.png", "clip.MP4"]
    found = find_sources(["in/*.gif", "in/*.md"])
    assert [problem.why for problem in found.problems] == [
        "no image and no video has such a name"
    ] * 2


def test_a_file_named_like_a_pattern_is_that_file(tree):
    Path("in/[x].png").write_bytes(b"")
    assert insides("in/[x].png") == ["[x].png"]


def test_a_list_names_files_from_its_folder_from_here_or_absolutely(tree):
    lines = ["a.png", "", "in/sub/a.png", f"{tree}/in/sub/deep/b.JPG", "no.png", "../in/clip.MP4"]
    (tree / "in" / "list.txt").write_text("\ufeff" + "\r\n".join(lines))
    found = find_sources(["in/list.txt"])
    assert [one.inside for one in found.sources] == ["a.png", "in/sub/a.png", "b.JPG", "clip.MP4"]
    (problem,) = found.problems
    assert problem == ("no.png", "listed in in/list.txt, but there is no such file")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the list names no file"),
        (b"\xff\xfe\x00", "expected the list of paths in UTF-8, got other bytes"),
    ],
)
def test_a_list_without_names_is_a_problem(tmp_path, content, why):
    (tmp_path / "list.txt").write_bytes(content)
    (problem,) = find_sources([str(tmp_path / "list.txt")]).problems
    assert problem.why == why


def test_a_file_is_taken_once_however_it_is_named(tree):
    os.symlink(tree / "in" / "a.png", "link.png")
    found = find_sources(
        ["in/a.png", "./in/a.png", "link.png", str(tree / "in" / "a.png"), "-", "-"]
    )
    assert [one.name for one in found.sources] == ["in/a.png", "standard input"]
    assert found.left_out == ["4 named more than once: taken once"]


def test_what_is_not_there_is_named(tree):
    (tree / "empty").mkdir()
    found = find_sources(["nosuch", "empty", "x" * 300, "a\0b"])
    assert [problem.why for problem in found.problems] == [
        "there is no such file or folder",
        "the folder holds no image and no video",
        "there is no such file or folder",
        "there is no such file or folder",
    ]


def test_what_is_no_file_is_a_problem_and_nothing_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "clip.mp4").symlink_to("/dev/zero")
    (tmp_path / "a.png").touch()
    (problem,) = find_sources([str(tmp_path / "pipe.png")]).problems
    assert problem.why == "expected a file or folder, found neither"
    found = find_sources([str(tmp_path)])
    assert [source.inside for source in found.sources] == ["a.png"]
    assert found.left_out == [f"{tmp_path}: left out 2 other files: clip.mp4, pipe.png"]
    with pytest.raises(InputError, match="there is no such user's folder"):
        find_sources(["~no-such-user/x"])
