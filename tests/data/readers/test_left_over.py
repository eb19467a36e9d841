"""Every file in the folders of a data set is read, or counted and named."""

import logging
import os
from pathlib import Path

import pytest

from benchmarks.sound_data import write_sound
from flaxyolo.base.errors import InputError
from flaxyolo.data.__main__ import main
from flaxyolo.data.images import name_of
from flaxyolo.data.readers.listing import files_below
from flaxyolo.data.sources import SOURCES, read_dataset

UNREAD = ("a.heic", "b.psd", "pipe.png", "folder.png", "noname")
UNLISTED = ("c.gif", "d.avif", "e.jp2", "f.png", "nowhere.png", "deep/g.png")
LITTER = (".DS_Store", "Thumbs.db", "._h.png", "desktop.ini")
TEXT = ("notes.md", "i.csv", "labels.cache")


def strangers(folder: Path) -> None:
    (folder / "deep").mkdir()
    for name in ("a.heic", "b.psd", "noname", "c.gif", "d.avif", "e.jp2", "f.png", "deep/g.png"):
        (folder / name).write_bytes(b"no image")
    for name in (*LITTER, *TEXT):
        (folder / name).touch()
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "nowhere.png").symlink_to("gone.png")


def told(root: Path, form: str) -> tuple[set[str], dict[str, set[str]]]:
    """What is read, and what is named by kind, below the root."""
    source = SOURCES[form](str(root))
    records = [one for one in (source.train, source.val) if one is not None]
    images = {os.path.relpath(name_of(one.image), root) for each in records for one in each.images}
    named: dict[str, set[str]] = {}
    for each in records:
        for aside in each.asides:
            named.setdefault(aside.kind, set()).update(
                os.path.relpath(place, root) for place in aside.places
            )
    return images, named


@pytest.mark.parametrize(
    ("form", "folder"),
    [
        ("coco", "images"),
        ("yolo", "images/train"),
        ("yolo", "images/val"),
        ("yolo", "images"),
        ("yolo", "labels/train"),
        ("voc", "JPEGImages"),
        ("voc", "Annotations"),
    ],
)
def test_a_stranger_is_named_by_its_kind(tmp_path, form, folder):
    root = tmp_path / "set"
    write_sound(root, form)
    before, nothing = told(root, form)
    assert not nothing
    strangers(root / folder)
    images, named = told(root, form)
    places = {kind: {f"{folder}/{name}" for name in names} for kind, names in
              (("unread", UNREAD), ("litter", LITTER), ("text", TEXT))}  # fmt: skip
    assert {kind: named[kind] for kind in places} == places
    # A folder that is taken as a whole holds images; of others it says which.
    read = {f"{folder}/{name}" for name in UNLISTED}
    assert images - before | named.get("unlisted", set()) == read
    assert bool(images - before) == (folder in ("images/train", "images/val"))


def test_labels_that_lead_nowhere_are_faults_and_not_background(tmp_path):
    write_sound(tmp_path, "yolo")
    label = tmp_path / "labels" / "train" / "train0.txt"
    label.unlink()
    label.symlink_to("gone.txt")
    with pytest.raises(InputError, match=r"train0\.txt: cannot read the labels: No such file"):
        read_dataset(f"yolo:{tmp_path}")


def test_images_of_a_test_split_are_named_as_such(tmp_path):
    write_sound(tmp_path, "yolo")
    for folder in ("images/test", "images/held"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").touch()
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("test: images/held\n")
    _, named = told(tmp_path, "yolo")
    assert named == {"unused": {"images/test/x.png", "images/held/x.png"}}


def test_the_same_file_by_another_way_is_not_left_over(tmp_path):
    write_sound(tmp_path, "coco")
    (tmp_path / "images").rename(tmp_path / "store")
    (tmp_path / "images").mkdir()
    for path in sorted((tmp_path / "store").iterdir()):
        (tmp_path / "images" / path.name).symlink_to(path)
    assert told(tmp_path, "coco")[1] == {}


def test_quiet_files_are_told_by_the_audit_alone(tmp_path, capsys, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flaxyolo"), "propagate", True)
    write_sound(tmp_path, "coco")
    (tmp_path / "images" / ".DS_Store").touch()
    (tmp_path / "images" / "a.heic").touch()
    read_dataset(f"coco:{tmp_path}")
    assert "a.heic" in caplog.text
    assert ".DS_Store" not in caplog.text
    assert not main(["audit", f"coco:{tmp_path}"])
    printed = capsys.readouterr().out
    assert "1 files that are hidden or a system's own: left out" in printed
    assert str(tmp_path / "images" / ".DS_Store") in printed


@pytest.mark.parametrize("place", ["/proc", "/dev", "/sys/kernel"])
def test_the_systems_own_folders_are_no_data(tmp_path, place):
    with pytest.raises(InputError, match=f"{place}: expected a folder of data, got the system's"):
        files_below(Path(place))
    write_sound(tmp_path, "yolo")
    (tmp_path / "images" / "train" / "link").symlink_to(place)
    assert told(tmp_path, "yolo")[1] == {"unread": {"images/train/link"}}
