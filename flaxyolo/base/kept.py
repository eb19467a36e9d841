"""Files that the project keeps for itself, which may be damaged when they are read again."""

import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flaxyolo.base.reading import JSON, read_file

DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError,
          RecursionError, EOFError)  # fmt: skip
"""What reading a damaged file may raise."""

CHUNK_BYTES = 1 << 22
SHOWN = 160
"""Characters of an error that a line about a damaged file shows."""

_HEAD, _MIDDLE, _END = b'{"digest": "', b'", "content": ', b"}"
_DIGITS = 64


def sealed(content: Any) -> bytes:
    """A value as JSON with a digest of itself, so that any change is noticed."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END


def unsealed(data: bytes) -> Any:
    """The value that `sealed` was given, or of plain JSON; ValueError where it is damaged."""
    start = len(_HEAD) + _DIGITS + len(_MIDDLE)
    head, digest = data[: len(_HEAD)], data[len(_HEAD) : len(_HEAD) + _DIGITS]
    if head != _HEAD or data[start - len(_MIDDLE) : start] != _MIDDLE:
        return json.loads(data)
    body = data[start : -len(_END)]
    if not data.endswith(_END) or hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its content has another digest than was written")
    return json.loads(body)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; OSError or ValueError at once for a folder, pipe or device."""
    return read_file(path, JSON)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """The descriptor of a regular file, to be read from; never waits, as for a pipe's writer."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        yield file
    finally:
        os.close(file)


def checksum(path: Path) -> tuple[int, int]:
    """Bytes and CRC-32 of a regular file; OSError or ValueError where it is none."""
    size, crc = 0, 0
    with open_regular(path) as file:
        while block := os.read(file, CHUNK_BYTES):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def brief(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error)[: 4 * SHOWN].split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
