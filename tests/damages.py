"""What happens to files: the ways in which tests and the fuzz of own files harm one."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, random.Random], None]


def flip(path: Path, drawn: random.Random) -> None:
    """Another bit of one byte."""
    content = bytearray(path.read_bytes())
    if content:
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    else:
        content = bytearray(b"\1")
    path.write_bytes(content)


def cut(path: Path, drawn: random.Random) -> None:
    """Only a beginning is left; of an empty file, one with more."""
    content = path.read_bytes()
    path.write_bytes(content[: drawn.randrange(len(content))] if content else b"more")


def zero(path: Path, drawn: random.Random) -> None:
    """A stretch of zero bytes, as a power cut leaves it."""
    content = bytearray(path.read_bytes())
    begin = drawn.randrange(len(content) + 1)
    end = min(len(content), begin + drawn.choice((1, 16, 512, 4096)))
    content[begin:end] = bytes(end - begin)
    path.write_bytes(bytes(content) or b"\0")


def empty(path: Path, drawn: random.Random) -> None:
    """No byte is left; of an empty file, one is there."""
    path.write_bytes(b"" if path.stat().st_size else b"\0")


def remove(path: Path, drawn: random.Random) -> None:
    """It is gone."""
    path.unlink()


def to_folder(path: Path, drawn: random.Random) -> None:
    """A folder of its name is there."""
    path.unlink()
    path.mkdir()


def swap(path: Path, drawn: random.Random) -> None:
    """Two stretches have changed places."""
    content = path.read_bytes()
    if len(content) < 4:
        path.write_bytes(content + b"x")
        return
    a, b = sorted(drawn.sample(range(1, len(content)), 2))
    path.write_bytes(content[b:] + content[a:b] + content[:a])


def nonsense(path: Path, drawn: random.Random) -> None:
    """Other content of the same kind, for JSON; otherwise other bytes of as many."""
    texts = ("{}", "[]", "null", "NaN", '{"version": 2, "images": {"/a.png": [[1, 2], null]}}',
             '{"pieces": {"a": NaN}}', "[" * 100_000)  # fmt: skip
    text = drawn.choice(texts)
    path.write_bytes(text.encode() if drawn.random() < 0.7 else drawn.randbytes(64))


DAMAGES: dict[str, Damage] = {
    each.__name__: each
    for each in (flip, cut, zero, empty, remove, to_folder, swap, nonsense)
}  # fmt: skip


def copied(source: Path, to: Path) -> Path:
    """A fresh copy of a file or folder, in the place of whatever is there."""
    if to.is_dir():
        shutil.rmtree(to)
    elif to.exists():
        to.unlink()
    if source.is_dir():
        shutil.copytree(source, to)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, to)
    return to
