"""Files from anywhere, read with care: only regular ones, of a sane size, and never for ever."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from flaxyolo.base.errors import InputError

MIB = 1 << 20
LABELS = 4 * MIB
"""Bytes of the labels of one image at most: real ones have a few thousand."""
YAML = MIB
"""Bytes of a YAML file at most."""
LIST = 256 * MIB
"""Bytes of a list of names at most."""
JSON = 4096 * MIB
"""Bytes of a JSON file at most: COCO's largest has 450 MiB."""
ENDS = 4096
"""Bytes at both ends of a large JSON file that are looked at first."""
DEPTH = 64
"""Levels of lists and mappings in each other that a YAML file may have."""
VALUES = 1_000_000
"""Values that a YAML file may stand for: a list that is named and repeated counts each time."""

FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, where PyYAML has it."""
NO_FILES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Without it, opening a pipe waits for a writer.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def read_file(path: Path | str, most: int = LABELS) -> bytes:
    """All bytes of a regular file; an OSError where it is none, or has more than `most` bytes.

    A pipe, a device or a socket is not opened: it may have no end, or do something.
    """
    _check(os.stat(path), path, most)
    with open(os.open(path, _FLAGS), "rb", buffering=0) as file:
        state = os.fstat(file.fileno())
        _check(state, path, most)
        pieces, total = [], 0
        while piece := _more(file, path, MIB if pieces else state.st_size + 1):
            pieces.append(piece)
            total += len(piece)
            if total > most:
                raise _too_large(path, most, total)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_json(path: Path | str) -> bytes:
    """The bytes of a JSON file; of a large one both ends are looked at before it is read."""
    size = os.stat(path).st_size
    if size > 16 * MIB and os.path.isfile(path):
        with open(path, "rb") as file:
            first = file.read(ENDS).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(-ENDS, os.SEEK_END)
            last = file.read(ENDS).rstrip()
        if first[:1] not in (b"{", b"[") or last[-1:] not in (b"}", b"]"):
            raise OSError(
                errno.EINVAL, f"expected JSON, found {size:,} bytes of another form", str(path)
            )
    return read_file(path, JSON)


def read_lines(path: Path | str, what: str, most: int = LIST) -> list[str]:
    """The lines of a text in UTF-8, without space around them; InputError in one line."""
    try:
        content = read_file(path, most)
        return [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected {what} in UTF-8, got other bytes") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read {what}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """Why a file cannot be read, without its name."""
    return getattr(error, "strerror", None) or str(error)


def expanded(path: Path | str) -> Path:
    """The path with `~` replaced; InputError where it names the home of nobody."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such user's folder") from None


def load_yaml(content: str | bytes, loader: Any = None) -> Any:
    """The value of YAML that stays small: yaml.YAMLError where it is too deep, or names itself.

    Without a loader it is the fastest safe one.
    """
    _check_yaml(content)
    return yaml.load(content, loader or FAST)


def _more(file: Any, path: Path | str, count: int) -> bytes:
    """The next bytes; of a system's own file there may be none until something happens."""
    piece: bytes | None = file.read(count)
    if piece is None:
        told = "expected a regular file, found one that keeps its reader waiting"
        raise OSError(errno.EINVAL, told, str(path))
    return piece


def _check(state: os.stat_result, path: Path | str, most: int) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for is_kind, name in NO_FILES if is_kind(state.st_mode)), "another thing")
        raise OSError(errno.EINVAL, f"expected a regular file, found {kind}", str(path))
    if state.st_size > most:
        raise _too_large(path, most, state.st_size)


def _too_large(path: Path | str, most: int, size: int) -> OSError:
    told = f"expected at most {_bytes(most)}, found {_bytes(size)} or more"
    return OSError(errno.EFBIG, told, str(path))


def _bytes(count: int) -> str:
    return f"{count / MIB:,.0f} MiB" if count >= MIB else f"{count:,} bytes"


def _check_yaml(content: str | bytes) -> None:
    """Refuse what would take for ever to build or to walk through, by its events alone."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in _events(content):
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
            if len(open_nodes) > DEPTH:
                raise _yaml_error(f"more than {DEPTH} levels in each other", event)
            continue
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise _yaml_error("an alias of nothing, or of what it stands in", event)
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor is not None and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        above, total = open_nodes[-1]
        open_nodes[-1] = above, total + size
        if total + size > VALUES:
            raise _yaml_error(f"it stands for more than {VALUES:,} values", event)


def _events(content: str | bytes) -> Iterator[Any]:
    return yaml.parse(content, Loader=FAST)


def _yaml_error(problem: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
