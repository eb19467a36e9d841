"""What tables of trained networks say of them, as a search may see it."""

import math
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.trained import CURVES, read
from flaxyolo.search.earlier import Scored
from flaxyolo.search.experience import Table
from flaxyolo.search.features import family, features, matrix
from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.known import Known
from flaxyolo.search.simulation import named
from flaxyolo.search.spending import rungs
from flaxyolo.spec import detector_from_dict

SEEDS = 3
"""Of a network that are drawn for a search."""
LEAST = 4
"""Networks with several seeds, which tell what luck is."""


class Curves(NamedTuple):
    """Of each network, after each rung."""

    objective: Float[np.ndarray, "n r"]
    box: Float[np.ndarray, "n r"]
    """Loss of the epoch."""
    mean_box: Float[np.ndarray, "n r"]
    """Of all epochs up to it."""
    first_box: Float[np.ndarray, "n r"]
    """Of the first epoch, at every rung."""
    error: Float[np.ndarray, "n r"]


class Landscape(NamedTuple):
    """What a table says of its networks, and what a seed adds to that."""

    features: Float[np.ndarray, "n f"]
    codes: Int[np.ndarray, "n a"]
    ordered: tuple[bool, ...]
    latency_ms: Float[np.ndarray, " n"]
    families: Int[np.ndarray, " n"]
    rungs: tuple[int, ...]
    work: Float[np.ndarray, " n"]
    """Logarithms of the operations."""
    curves: Curves
    """Means over the seeds there are."""
    residuals: Float[np.ndarray, "k 4 r"]
    """Of single seeds from their network's mean: objective, box loss, mean box loss and that of the
    first epoch."""
    elsewhere: tuple[Scored, ...] = ()
    """What another table says, in this one's features."""

    def part(self, rows: Int[np.ndarray, " m"]) -> "Landscape":
        """Some of its networks; a seed adds what it adds."""
        return self._replace(
            features=self.features[rows],
            codes=self.codes[rows],
            latency_ms=self.latency_ms[rows],
            families=self.families[rows],
            work=self.work[rows],
            curves=Curves(*(each[rows] for each in self.curves)),
        )

    def shown(self, rng: np.random.Generator, *, mean_box: bool = False) -> Known:
        """The table as one search sees it: every run has a seed's luck.

        With `mean_box` the box losses at a rung are the means of all epochs up to it.
        """
        drawn = self.residuals[rng.integers(len(self.residuals), size=(SEEDS, len(self.features)))]
        first = drawn[0]
        truth = self.curves.objective[:, -1]
        seeds = truth[:, None] + drawn[:, :, 0, -1].T
        return Known(
            features=self.features,
            codes=self.codes,
            ordered=self.ordered,
            latency_ms=self.latency_ms,
            rungs=self.rungs,
            curves=self.curves.objective + first[:, 0],
            full=truth,
            seeds=seeds,
            boxes=self.curves.mean_box + first[:, 2] if mean_box else self.curves.box + first[:, 1],
            first_boxes=self.curves.first_box[:, 0] + first[:, 3, 0],
            errors=self.curves.error,
        )


class Trained(NamedTuple):
    """The networks of a table that were measured and trained to the end."""

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    features: list[dict[str, float]]

    @property
    def end(self) -> int:
        """Epochs of a run."""
        return int(self.settings["epochs"])


def trained(path: Path) -> Trained:
    """Read a table; what is left out is counted."""
    settings, networks = read(path)
    rows = [
        row
        for row in networks.values()
        if "cost" in row and 0 in row[CURVES] and row[CURVES][0][-1]["epoch"] == settings["epochs"]
    ]
    if len(rows) < len(networks):
        print(f"{path}: {len(networks) - len(rows)} networks are left out: not measured, or not "
              "trained to the end")  # fmt: skip
    seen = [
        features(detector_from_dict(row["spec"]), latency_ms=row["cost"]["latency_ms_p95"],
                 params=row["cost"]["params"], gflops=row["cost"]["gflops"])
        for row in rows
    ]  # fmt: skip
    return Trained(settings, rows, seen)


def table(path: Path) -> Table:
    """Of a table's networks what the surrogate sees, and their means at the end."""
    found = trained(path)
    names = sorted({name for row in found.features for name in row})
    settings = found.settings
    return Table(
        data=settings["data"],
        objective=settings["objective"],
        epochs=found.end,
        device=settings["device"],
        date=settings["date"],
        names=tuple(names),
        # A choice that was not made is none of its shares, and another absent number is unknown.
        rows=tuple(
            tuple(row.get(name, 0.0 if "=" in name else None) for name in names)
            for row in found.features
        ),
        scores=tuple(end_of(row) for row in found.rows),
    )


def end_of(row: dict[str, Any]) -> float:
    """The objective at the end, the mean over the seeds there are."""
    return fmean(curve[-1]["objective"] for curve in row[CURVES].values())


def landscape(
    path: Path, at: tuple[int, ...] = (), before: Path | None = None
) -> tuple[dict[str, Any], Landscape]:
    """A table's settings, and its networks that were trained to the end and measured.

    Their curves are known after the epochs `at`, by default the rungs of a sweep as long. The ends
    of another table, `before`, are what other data have shown.
    """
    own = trained(path)
    settings, rows, end = own.settings, own.rows, own.end
    at = at or rungs(end)
    if sum(len(row[CURVES]) > 1 for row in rows) < LEAST:
        raise SystemExit(f"{path}: too few networks with several seeds, of {len(rows)} in all")
    kept, residuals = [], []
    for row in rows:
        several = [seed_curve(curve, at) for curve in row[CURVES].values()
                   if curve and curve[-1]["epoch"] == end]  # fmt: skip
        mean = np.mean(several, axis=0)
        kept.append(mean)
        if len(several) > 1:
            factor = math.sqrt(len(several) / (len(several) - 1))
            residuals += [factor * (one - mean)[:4] for one in several]
    scored = [] if before is None else table(before).scored(own.features)
    columns_of_all = matrix([*own.features, *(each.features for each in scored)])[1]
    elsewhere = [
        each._replace(features=row)
        for each, row in zip(scored, named(columns_of_all[len(rows) :]), strict=True)
    ]
    curves = np.array(kept)
    names = sorted({name for row in rows for name in row["params"]})
    columns = [[str(row["params"].get(name)) for row in rows] for name in names]
    ordered = tuple(all(is_number(cell) for cell in column) for column in columns)
    codes = [codes_of(column, number) for column, number in zip(columns, ordered, strict=True)]
    kinds = [blocks_of(row["spec"]) for row in rows]
    return settings, Landscape(
        features=columns_of_all[: len(rows)],
        elsewhere=tuple(elsewhere),
        codes=np.stack(codes, axis=1),
        ordered=ordered,
        latency_ms=np.array([row["cost"]["latency_ms_p95"] for row in rows]),
        families=np.unique(kinds, return_inverse=True)[1],
        rungs=at,
        work=np.array([each["log_gflops"] for each in own.features]),
        curves=Curves(*curves.swapaxes(0, 1)),
        residuals=np.array(residuals),
    )


def seed_curve(curve: list[dict[str, Any]], at: tuple[int, ...]) -> Float[np.ndarray, "5 r"]:
    """Objective, box loss, its mean so far, its first, and standard error at the rungs."""
    by_epoch = {point["epoch"]: point for point in curve}
    boxes = [np.mean([by_epoch[epoch]["box"] for epoch in by_epoch if epoch <= rung])
             for rung in at]  # fmt: skip
    objective, box, error = ([by_epoch[rung][key] for rung in at]
                             for key in ("objective", "box", "objective_se"))  # fmt: skip
    return np.array([objective, box, boxes, [by_epoch[1]["box"]] * len(at), error])


def is_number(cell: str) -> bool:
    """Whether a cell is one, or empty."""
    try:
        float("nan" if cell == "None" else cell)
    except ValueError:
        return False
    return True


def codes_of(column: list[str], number: bool) -> Int[np.ndarray, " n"]:
    """Place of each value among the column's own."""
    values = [float("-inf" if cell == "None" else cell) for cell in column] if number else column
    return np.unique(values, return_inverse=True)[1]


def blocks_of(spec: dict[str, Any]) -> str:
    """Families of the first and of the last stage's blocks."""
    stages = spec["backbone"]["stages"]
    return f"{family(stages[0]['block'])}, {family(stages[-1]['block'])}"


def resampled(land: Landscape, rng: np.random.Generator) -> Landscape:
    """Families drawn with replacement, and networks within each; what is drawn is there once."""
    rows: set[int] = set()
    names = np.unique(land.families)
    for name in rng.choice(names, len(names)):
        own = np.flatnonzero(land.families == name)
        rows |= set(rng.choice(own, len(own)).tolist())
    return land.part(np.array(sorted(rows)))


def enough(land: Landscape, budgets: list[float]) -> bool:
    """Whether there is something to choose from under every budget."""
    return all(
        len(in_band(land.latency_ms, ms, DEFAULTS.band)) > 4 for ms in budgets
        if (land.latency_ms <= ms).any()
    ) and bool(min(budgets) > land.latency_ms.min())  # fmt: skip
