"""Measurements kept in a file, and given again instead of measuring: one sweep, twice the same.

No two measurements are alike, so no two sweeps are, though they draw with one seed. With
$FLAXYOLO_MEASUREMENTS=FILE whatever is timed is taken from that file where it is there, and else
measured and added to it: a second sweep with the file, one worker and a fresh $FLAXYOLO_CACHE tries
the same networks in the same order. A line of the file is JSON: what was measured, and its value.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flaxyolo.base.errors import InputError
from flaxyolo.cost.measurement import Measurement

MEASUREMENTS = "FLAXYOLO_MEASUREMENTS"
"""Environment variable with the path of the file."""


class Recorded:
    """What a file of measurements holds."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, Any] = {}
        try:
            lines = path.read_text().splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}; name another file in "
                             f"{MEASUREMENTS}") from None  # fmt: skip
        for number, line in enumerate(lines, 1):
            what, value = _parsed(line, f"{path}, line {number}")
            self.known.setdefault(what, value)

    def value(self, what: str, measure: Callable[[], Any]) -> Any:
        """What was measured, as plain data; what is asked for twice is measured once."""
        if what not in self.known:
            self.known[what] = measure()
            line = json.dumps([what, self.known[what]], separators=(",", ":"))
            # One write at the end of the file: several processes may add to it.
            with open(self.path, "a") as file:
                file.write(f"{line}\n")
        return self.known[what]


def recorded() -> Recorded | None:
    """The file that the environment names; None without one."""
    path = os.environ.get(MEASUREMENTS)
    if not path:
        return None
    if path not in _OPEN:
        _OPEN[path] = Recorded(Path(path))
    return _OPEN[path]


_OPEN: dict[str, Recorded] = {}
"""Read once in a process, by name."""


def cost_of(what: str, measure: Callable[[], Measurement]) -> Measurement:
    """The cost of a network, recorded or measured; `what` names it and how it is measured."""
    kept = recorded()
    if kept is None:
        return measure()
    value = kept.value(f"network {what}", lambda: measure().to_dict())
    return Measurement.from_dict(value, f"{kept.path}: network {what}")


def times_of(keys: Sequence[str], measure: Callable[[list[int]], list[float]]) -> list[float]:
    """Milliseconds of pieces; `measure` is given the places of those that are not recorded."""
    kept = recorded()
    if kept is None:
        return measure(list(range(len(keys))))
    missing = [place for place, key in enumerate(keys) if f"piece {key}" not in kept.known]
    measured = dict(zip(missing, measure(missing) if missing else [], strict=True))
    return [
        float(kept.value(f"piece {key}", lambda place=place: measured[place]))
        for place, key in enumerate(keys)
    ]


def count_of(what: str, measure: Callable[[], int]) -> int:
    """A number that hangs on a clock, recorded or as it is now."""
    kept = recorded()
    return measure() if kept is None else int(kept.value(f"count {what}", measure))


def _parsed(line: str, where: str) -> tuple[str, Any]:
    try:
        what, value = json.loads(line)
        if isinstance(what, str):
            return what, value
    except (ValueError, TypeError):
        pass
    raise InputError(
        f"{where}: expected a measurement, as a list of its name and its value, got {line:.60}; "
        f"name another file in {MEASUREMENTS}"
    )
