import unicodedata
from pathlib import Path

import pytest

from flaxyolo.data.readers.paths import Listing


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("written", "there"),
    [
        ("images/a.jpg", "images/a.jpg"),
        ("images\\a.jpg", "images/a.jpg"),
        ("C:\\Users\\me\\set\\images\\a.jpg", "images/a.jpg"),
        ("/home/me/set/images/a.jpg", "images/a.jpg"),
        ("file:///home/me/images/a.jpg", "images/a.jpg"),
        ("data/images/a.jpg", "images/a.jpg"),
        ("./images/./a.jpg", "images/a.jpg"),
        ("../../images/a.jpg", "images/a.jpg"),
        ("/data/local-files/?d=set%2Fimages%2Fa.jpg", "images/a.jpg"),
        ("images/caf%C3%A9.jpg", "images/café.jpg"),
        ("images/café.jpg", "images/caf%C3%A9.jpg"),
        (unicodedata.normalize("NFD", "images/café.jpg"), "images/café.jpg"),
        ("Images/A.JPG", "images/a.jpg"),
        ("images/100%.jpg", "images/100%.jpg"),
    ],
)
def test_a_path_of_another_system_is_found(tmp_path, written, there):
    touch(tmp_path, there, "images/other.jpg")
    assert Listing().find(written, [tmp_path]) == tmp_path / there


def test_the_longest_tail_that_is_there_is_meant(tmp_path):
    touch(tmp_path, "a.jpg", "images/a.jpg", "set/images/a.jpg")
    assert (
        Listing().find("/x/set/images/a.jpg", [tmp_path]) == tmp_path / "set" / "images" / "a.jpg"
    )
    assert Listing().find("/x/images/a.jpg", [tmp_path]) == tmp_path / "images" / "a.jpg"


def test_folders_are_tried_in_order_and_what_is_written_so_comes_first(tmp_path):
    touch(tmp_path, "near/x/A.jpg", "far/x/a.jpg")
    folders = [tmp_path / "near", tmp_path / "far"]
    assert Listing().find("x/a.jpg", folders) == tmp_path / "far" / "x" / "a.jpg"
    assert Listing().find("y/x/a.JPG", folders) == tmp_path / "near" / "x" / "A.jpg"


@pytest.mark.parametrize("written", ["../secret.jpg", "../../secret.jpg", "x/../../secret.jpg"])
def test_nothing_outside_the_folders_is_found(tmp_path, written):
    touch(tmp_path, "secret.jpg", "set/x/a.jpg")
    assert Listing().find(written, [tmp_path / "set", tmp_path / "set" / "x"]) is None


def test_steps_upwards_inside_the_folders_are_right(tmp_path):
    touch(tmp_path, "lists/x.txt", "images/a.jpg")
    found = Listing().find("../images/a.jpg", [tmp_path, tmp_path / "lists"])
    assert found is not None
    assert found.resolve() == tmp_path / "images" / "a.jpg"


@pytest.mark.parametrize("written", ["a.jpg", "", "/", "a\0b", "x" * 300, "..", "C:\\"])
def test_what_is_nowhere_is_not_found(tmp_path, written):
    found = Listing().find(written, [tmp_path / "set"])
    assert found is None or found in (Path("/"), tmp_path / "set")


def test_a_name_that_is_spelled_like_several_is_none_of_them(tmp_path):
    touch(tmp_path, "A.jpg", "a.JPG")
    assert Listing().find("a.jpg", [tmp_path]) is None
    assert Listing().find("A.jpg", [tmp_path]) == tmp_path / "A.jpg"


def test_two_names_do_not_lead_to_one_file(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    names = ["x/a.jpg", "y/a.jpg", "x/b.jpg", "b.jpg", "x/c.jpg", "x/c.jpg"]
    found = Listing().find_all(names, [tmp_path])
    a, b, c = None, tmp_path / "b.jpg", tmp_path / "c.jpg"
    assert found == [a, a, None, b, c, c]


@pytest.mark.parametrize(
    ("written", "there", "found"),
    [
        ("images/val", "images/valid/x", "images/valid"),
        ("../validation/images", "val/images/x", "val/images"),
        ("data/val.txt", "Val.txt", "Val.txt"),
        ("/home/me/set/images", "images/x", "images"),
        ("../valid/images", "images/x", None),
        ("images/val", "images/test/x", None),
    ],
)
def test_a_split_may_have_another_name_but_is_no_other_split(tmp_path, written, there, found):
    touch(tmp_path, there)
    expected = None if found is None else tmp_path / found
    assert Listing().find_split(written, tmp_path) == expected
