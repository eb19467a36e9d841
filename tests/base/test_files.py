import re
from pathlib import Path

import pytest

import flaxyolo
from flaxyolo.base.files import beside, replace_file, replacing


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["größer\n", b"\x00\xff"])
def test_a_file_is_replaced_whole(tmp_path, content):
    path = tmp_path / "a.txt"
    path.write_text("before")
    replace_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == ["a.txt"]


def test_until_the_end_a_file_is_the_one_of_before(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "before"
        assert partial.parent == tmp_path
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_half_written_stays(tmp_path, error):
    def begin_file(partial):
        partial.write_text("half")
        raise error

    def begin_folder(partial):
        (partial / "inner").mkdir(parents=True)
        raise error

    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(error), replacing(path) as partial:
        begin_file(partial)
    with pytest.raises(error), replacing(tmp_path / "folder") as partial:
        begin_folder(partial)
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_an_empty_one_alone(tmp_path):
    def fill(folder):
        with replacing(folder) as partial:
            partial.mkdir()
            (partial / "content").touch()

    (tmp_path / "a").mkdir()
    fill(tmp_path / "a")
    assert names(tmp_path / "a") == ["content"]
    with pytest.raises(OSError, match="not empty"):
        fill(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_an_error_is_told_as_it_is_where_nothing_could_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), replacing(tmp_path / "file" / "a.txt") as partial:
        partial.write_text("half")


def test_two_writers_of_one_process_do_not_meet(tmp_path):
    assert beside(tmp_path / "a.txt") != beside(tmp_path / "a.txt")
    with replacing(tmp_path / "a.txt") as first, replacing(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_files_of_the_package_are_renamed_into_place_by_one_function():
    package = Path(flaxyolo.__file__).parent
    renaming = re.compile(r"os\.(replace|rename)\(|partial\.(replace|rename)\(|\.rename\(")
    # Folders that two processes may make, or that are swapped for one with content; a video, which
    # grows while others are written.
    others = {"base/files.py", "data/cache.py", "deploy/videos.py", "weights/checkpoint.py"}
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if renaming.search(path.read_text(encoding="utf-8"))
    }
    assert found == others
