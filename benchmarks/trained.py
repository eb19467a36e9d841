"""Files of trained networks: one line of JSON for settings, then what is known of each network.

A line holds any of a network's facts: what it is, its cost, or the curve of one seed; lines of the
same number are one network. Several processes may add to a file, and one that is killed leaves at
most half a line, which is cut off. Curves are kept column by column.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

DIGITS = 4
"""Of a number in the file."""
BESIDE = {"device", "date", "fingerprint"}
"""Settings that tell where, when and on which copy of the data a table was begun: another device
may go on with it, and every cost says where it was measured."""
CURVES = "curves"
"""Of a network: a curve for each seed."""


class File:
    """The lines of a table; several processes may add to it."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.lock = FileLock(f"{path}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            # A line that was being written when the command was killed has no end.
            whole = [line for line in lines if line.endswith(b"\n")]
            if not whole:
                path.write_text("")
                self._append(settings)
            elif differ := differing(json.loads(whole[0]), rounded(settings)):
                raise SystemExit(f"{path}: made with other settings: {', '.join(sorted(differ))}")
            elif len(whole) < len(lines):
                path.write_bytes(b"".join(whole))

    @property
    def networks(self) -> dict[int, dict[str, Any]]:
        """The networks that are there now, by their numbers."""
        with self.lock:
            return read(self.path).networks

    def add(self, number: int, **facts: Any) -> None:
        """Append what has become known of a network."""
        with self.lock:
            self._append({"number": number, **facts})

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(rounded(line), separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Read(NamedTuple):
    """A table as it was read."""

    settings: dict[str, Any]
    networks: dict[int, dict[str, Any]]
    """By number: `spec`, `cost` and so on, and `curves` by seed, each a list of points."""


def read(path: Path) -> Read:
    """A table; half a line at its end is left out."""
    lines = path.read_text().splitlines(keepends=True)
    settings, *rows = [json.loads(line) for line in lines if line.endswith("\n")]
    networks: dict[int, dict[str, Any]] = {}
    for row in rows:
        network = networks.setdefault(row["number"], {CURVES: {}})
        if "curve" in row:
            # A point for every epoch, from the first on.
            curve = enumerate(points(row.pop("curve")), 1)
            network[CURVES][row.pop("seed")] = [{"epoch": at, **point} for at, point in curve]
        network.update(row)
    return Read(settings, networks)


def columns(curve: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Points as columns of the same length, None where a point has no such number."""
    names = list(dict.fromkeys(name for point in curve for name in point))
    return {name: [point.get(name) for point in curve] for name in names}


def differing(found: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Names of the settings by which two tables could not be one."""
    names = {**settings, **found}.keys() - BESIDE
    return [name for name in names if settings.get(name) != found.get(name)]


def points(curve: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The inverse of `columns`; a number that a point lacks has no entry."""
    return [
        {name: value for name, value in zip(curve, values, strict=True) if value is not None}
        for values in zip(*curve.values(), strict=True)
    ]


def rounded(value: Any) -> Any:
    """The same with fewer digits, as JSON gives it back."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(name): rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value
