"""The seal of a checkpoint: size and checksum of each of its files, asked before any is read."""

import os
from pathlib import Path

from flaxyolo.base.kept import checksum, read_regular, sealed, unsealed

SEAL = "checksums.json"
"""Beside Orbax's own files."""


def seal(folder: Path) -> None:
    """Write down what the files of a folder are, on the disk at once."""
    with open(folder / SEAL, "xb") as file:
        file.write(sealed({name: checksum(folder / name) for name in _files(folder)}))
        file.flush()
        os.fsync(file.fileno())


def is_sealed(folder: Path) -> bool:
    """Whether there is a seal; checkpoints of before have none."""
    return os.path.lexists(folder / SEAL)


def require_unbroken(folder: Path) -> None:
    """ValueError or OSError names the first file that is not as it was sealed, or is no file."""
    if not is_sealed(folder):
        for name in _files(folder):
            if not (folder / name).is_file():
                raise ValueError(f"{name} is no file")
        return
    try:
        known = {name: tuple(row) for name, row in unsealed(read_regular(folder / SEAL)).items()}
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{SEAL}: {error}") from None
    found = _files(folder)
    for name in sorted(known.keys() - found):
        raise ValueError(f"{name} is missing")
    for name in found:
        if name not in known:
            raise ValueError(f"{name} was not there when it was written")
        try:
            size, crc = checksum(folder / name)
        except ValueError:
            raise ValueError(f"{name} is no file") from None
        if (size, crc) != known[name]:
            grown = f"has {size} bytes, expected {known[name][0]}"
            raise ValueError(f"{name} {grown if size != known[name][0] else 'has other content'}")


def _files(folder: Path) -> list[str]:
    """Everything in a folder and below that is no folder, but for the seal."""
    found: list[str] = []
    for place, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(name for name in found if name != SEAL)
