import os
import socket
from pathlib import Path

import pytest
import yaml

from flaxyolo.base import reading
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import read_yaml
from flaxyolo.base.reading import expanded, load_yaml, read_file, read_json, read_lines


def other_kind(path: Path, kind: str) -> Path:
    """Something at the path that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(path))
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    return path


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("pipe", "expected a regular file, found a pipe"),
        ("folder", "Is a directory"),
        ("device", "expected a regular file, found a device"),
        ("loop", "Too many levels of symbolic links"),
        ("socket", "expected a regular file, found a socket"),
        ("huge", "expected at most 4 MiB, found 1,048,576 MiB or more"),
        ("none", "No such file or directory"),
    ],
)
def test_only_regular_files_of_a_sane_size_are_read(tmp_path, kind, why):
    path = other_kind(tmp_path / "x", kind)
    with pytest.raises(OSError, match=why):
        read_file(path)


def test_a_file_is_read_whole_and_no_further(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert read_file(tmp_path / "x", 3000) == b"abc" * 1000
    with pytest.raises(OSError, match="expected at most 2,999 bytes, found 3,000 bytes or more"):
        read_file(tmp_path / "x", 2999)
    (tmp_path / "empty").touch()
    assert read_file(tmp_path / "empty", 1) == b""
    # Its size is said to be 0.
    with pytest.raises(OSError, match="expected at most 5 bytes"):
        read_file("/proc/self/status", 5)


def test_a_file_that_keeps_its_reader_waiting_is_none(tmp_path, monkeypatch):
    # As /proc/kmsg does, which is a regular file by its kind.
    os.mkfifo(tmp_path / "x")
    writer = os.open(tmp_path / "x", os.O_RDWR)
    monkeypatch.setattr(reading, "_check", lambda *_: None)
    with pytest.raises(OSError, match="found one that keeps its reader waiting"):
        read_file(tmp_path / "x")
    os.close(writer)


def test_a_large_json_file_is_looked_at_before_it_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"images": []}')
    assert read_json(path) == b'{"images": []}'
    os.truncate(path, 3 << 30)  # the rest is zeros, as after a power cut
    with pytest.raises(OSError, match="expected JSON, found 3,221,225,472 bytes of another form"):
        read_json(path)


def test_lines_are_told_from_other_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf a \r\n\nb")
    assert read_lines(tmp_path / "x", "the list") == ["a", "", "b"]
    (tmp_path / "x").write_bytes(b"\xff\xfe\0")
    with pytest.raises(InputError, match=r"x: expected the list in UTF-8, got other bytes"):
        read_lines(tmp_path / "x", "the list")
    with pytest.raises(InputError, match="cannot read the list: expected a regular file, found a"):
        read_lines(other_kind(tmp_path / "p", "pipe"), "the list")


def test_the_home_of_nobody_is_told():
    assert expanded("~") == Path.home()
    with pytest.raises(InputError, match="~no-such-user-here/x: there is no such user's folder"):
        expanded("~no-such-user-here/x")


def bomb(form: str) -> str:
    """Ten levels, each of ten times the one before."""
    lines = ["k0: &k0 {a: b}"]
    for level in range(1, 11):
        lines.append(f"k{level}: &k{level} " + form % ", ".join([f"*k{level - 1}"] * 10))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (bomb("[%s]"), "stands for more than 1,000,000 values"),
        (bomb("{<<: [%s]}"), "stands for more than 1,000,000 values"),
        ("a: &a [*a]", "an alias of nothing, or of what it stands in"),
        ("a: " + "[" * 500, "more than 64 levels"),
        ("a: " + "[" * 100_000, "more than 64 levels|maximum nesting depth"),
        ("- " * 100_000, "more than 64 levels"),
    ],
)
def test_yaml_that_would_grow_or_never_end_is_refused(text, why):
    with pytest.raises(yaml.YAMLError, match=why):
        load_yaml(text)


def test_anchors_that_stay_small_are_fine():
    assert load_yaml("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}") == {
        "a": {"x": 1}, "b": [{"x": 1}, {"x": 1}], "c": {"x": 1, "y": 2}
    }  # fmt: skip


def test_a_config_is_told_in_one_line_whatever_it_is(tmp_path):
    with pytest.raises(InputError, match="cannot read the plan: expected a regular file, found a"):
        read_yaml(other_kind(tmp_path / "p.yaml", "pipe"), "plan")
    path = tmp_path / "x.yaml"
    path.write_text(bomb("[%s]"))
    with pytest.raises(InputError, match=r"x.yaml, line \d+: not valid YAML: it stands for more"):
        read_yaml(path, "plan")
    path.write_text("a: " + "b" * (2 << 20))
    with pytest.raises(InputError, match="cannot read the plan: expected at most 1 MiB"):
        read_yaml(path, "plan")
