import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.readers.listing import SUFFIXES, files_below


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def below(root: Path) -> list[list[str]]:
    return [[str(path.relative_to(root)) for path in paths] for paths in files_below(root)]


def test_images_texts_and_others_are_parted_by_name(tmp_path):
    touch(
        tmp_path,
        "b.JPG",
        "sub/a.jfif",
        "a.txt",
        "README",
        "c.heic",
        "d",
        *(".hidden.jpg", "Thumbs.db"),
    )
    hidden = [".hidden.jpg", "Thumbs.db"]
    assert below(tmp_path) == [
        ["b.JPG", "sub/a.jfif"],
        ["README", "a.txt"],
        ["c.heic", "d"],
        hidden,
    ]


def test_links_are_followed_and_each_folder_is_taken_once(tmp_path):
    root = touch(tmp_path / "set", "train/real/a.jpg", "val/c.jpg") / "train"
    touch(tmp_path / "far", "b.jpg", "deep/d.jpg")
    (root / "link").symlink_to(tmp_path / "far")
    (root / "again").symlink_to(root / "real")
    (root / "up").symlink_to(tmp_path / "set")
    (tmp_path / "far" / "loop").symlink_to(root / "link")
    (root / "file.jpg").symlink_to(tmp_path / "far" / "b.jpg")
    images = ["file.jpg", "link/b.jpg", "link/deep/d.jpg", "real/a.jpg"]
    assert below(root) == [images, [], [], []]


def test_a_link_that_leads_nowhere_is_an_image_and_a_pipe_is_none(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    assert below(tmp_path) == [["a.jpg"], [], ["pipe.jpg", "zero.jpg"], []]


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(InputError, match=r"gone: cannot list the folder: No such file"):
        files_below(tmp_path / "gone")


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "bmp", "tiff", "gif", "avif", "pgm", "ras"])
def test_what_an_image_may_end_in_is_decoded(tmp_path, form):
    pixels = np.full((24, 32, 1 if form == "pgm" else 3), 90, np.uint8)
    content = cv2.imencode(f".{form}", pixels)[1]
    (tmp_path / "x").write_bytes(content.tobytes())
    assert f".{form}" in SUFFIXES
    # A GIF has few colours.
    assert decode(tmp_path / "x").mean() == pytest.approx(90, abs=5)
