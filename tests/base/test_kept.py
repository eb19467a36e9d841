import os

import pytest

from flaxyolo.base import kept
from flaxyolo.base.files import blaming, make_room, remove, set_aside
from flaxyolo.base.kept import DAMAGE, brief, checksum, read_regular, sealed, unsealed

CONTENT = {"a": [1, 2.5, None], "ü": "text"}


def test_what_is_sealed_comes_back_and_plain_json_is_read():
    assert unsealed(sealed(CONTENT)) == CONTENT
    assert unsealed(b'{"a": 1}') == {"a": 1}


def test_every_flipped_bit_is_noticed():
    whole = sealed(CONTENT)
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            try:
                found = unsealed(bytes(changed))
            except DAMAGE:
                continue
            # The seal's own name is changed: nothing of the content is at the top.
            assert set(found) & set(CONTENT) == set()
            assert place < len(kept._HEAD) + kept._DIGITS + len(kept._MIDDLE)


def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "loop", "folder", "missing"):
        for read in (read_regular, checksum):
            with pytest.raises((OSError, ValueError)):
                read(tmp_path / name)
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="expected a regular file, found a device"):
        read_regular(tmp_path / "device")


def test_an_error_is_one_short_line():
    assert brief(ValueError("a\n  b")) == "a b"
    assert brief(KeyError("x")) == "'x' is missing"
    assert brief(ValueError()) == "ValueError"
    assert len(brief(ValueError("x" * 10**7))) < 200


def test_what_is_no_file_is_moved_out_of_the_way(tmp_path):
    path = tmp_path / "table.json"
    assert make_room(path) is None
    path.write_text("")
    assert make_room(path) is None
    path.unlink()
    path.mkdir()
    assert make_room(path) == tmp_path / "table.json.damaged"
    path.mkdir()
    assert set_aside(path) == tmp_path / "table.json.damaged-2"
    for left in list(tmp_path.iterdir()):
        remove(left)
    remove(path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_blamed_on_the_file_that_was_written(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, blaming(tmp_path / "a"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as named, blaming(tmp_path / "a"):
        (tmp_path / "b").read_text()
    assert named.value.filename == str(tmp_path / "b")
