"""What networks of the default space have shown on other data: a prior for a study's surrogate.

`experience.json` holds of some tables of trained networks (benchmarks/tables/, each network trained
from fresh weights on one data set) what the surrogate sees of a network, and its score at the end.
A new study takes each table as an earlier one whose scores are alike, though not the same: how
alike is one of the surrogate's own questions, and its own scores soon answer it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

from pydantic import TypeAdapter

from flaxyolo.search.earlier import Scored
from flaxyolo.search.growth import Number

FILE = Path(__file__).with_name("experience.json")
SIZE = "log_"
"""What the name of a feature that is a size begins with."""


@dataclass(frozen=True)
class Table:
    """Networks trained on one data set."""

    data: str
    objective: str
    epochs: int
    device: str
    date: str
    names: tuple[str, ...]
    """Features, in the order of the columns."""
    rows: tuple[tuple[float | None, ...], ...]
    scores: tuple[float, ...]
    """At the end, means over the seeds there are."""

    def scored(self, own: Sequence[Mapping[str, Number]]) -> list[Scored]:
        """Its networks as scored candidates, beside the features of a study's `own` candidates."""
        features = [
            {name: value for name, value in zip(self.names, row, strict=True) if value is not None}
            for row in self.rows
        ]
        return [
            Scored(-1 - number, row, score, 1.0)
            for number, (row, score) in enumerate(
                zip(as_large(features, own), self.scores, strict=True)
            )
        ]


@cache
def experience() -> tuple[Table, ...]:
    """The tables that come with the package."""
    return TypeAdapter(tuple[Table, ...]).validate_python(json.loads(FILE.read_text()))


def as_large(
    rows: Sequence[Mapping[str, float]], own: Sequence[Mapping[str, Number]]
) -> list[dict[str, float]]:
    """Rows with sizes (logarithms) moved to the mean of a study's own.

    Networks of another budget and input size compare by what each has more than those beside it.
    """
    shift = {
        name: fmean(row[name] for row in own) - fmean(row[name] for row in rows)
        for name in rows[0]
        if name.startswith(SIZE) and all(name in row for row in (*own, *rows))
    }
    return [{name: value + shift.get(name, 0.0) for name, value in row.items()} for row in rows]
