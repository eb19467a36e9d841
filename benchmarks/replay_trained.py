"""The whole loop of a sweep on tables of trained networks, against others at equal training.

A table of make_table.py has curves of some hundred networks, and of some of them for several seeds.
A search sees of each network its curve and, drawn anew in every search, what one seed's curve
differed by from the mean of its network's seeds; it ships what shows the best mean, and is judged
by the table's own mean, which no draw has touched. With `--before` it begins with what the
networks of another table have shown on other data, as a new study does. What a sweep's workers are
told decides (`next_job`: rungs, racing of seeds); the others train as many epochs:

  random_band    whole runs of random networks in the band under the budget, the best is shipped
  random_whole   the same of all that fit
  tpe            Optuna's TPE over whole runs of those that fit
  ridge          whole runs in the band, every one after half of them the best by a plain ridge
  ninth          random networks in the band for a ninth of the schedule, the best one to the end
  slowest        the slowest that fits, one run
  most_work      that with the most operations in the band, one run
  best_of_all    the best in the band by the table's own mean, which no search can exceed

Leads are in the objective and in standard deviations of it among the networks in the band, with
95 % intervals by bootstrap over families of blocks and networks within them: another table might
have held others.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import optuna
from jaxtyping import Float, Int

from benchmarks.trained import CURVES, read
from flaxyolo.base.files import replace_file
from flaxyolo.search.earlier import Scored
from flaxyolo.search.experience import as_large
from flaxyolo.search.features import family, features, matrix
from flaxyolo.search.funnel import DEFAULTS, in_band, merits
from flaxyolo.search.known import Known
from flaxyolo.search.simulation import Simulation, named
from flaxyolo.search.spending import rungs
from flaxyolo.search.strategies import Search, ridge_scores, tpe
from flaxyolo.search.surrogate import one_scale
from flaxyolo.spec import detector_from_dict

CANDIDATES = (6, 12, 24, 48)
FINALISTS, SEEDS = 3, 3
OURS = "sweep"
LEAST = 4
"""Networks with several seeds, which tell what luck is."""


class Curves(NamedTuple):
    """Of each network, after each rung."""

    objective: Float[np.ndarray, "n r"]
    box: Float[np.ndarray, "n r"]
    """Loss of the epoch."""
    mean_box: Float[np.ndarray, "n r"]
    """Of all epochs up to it."""
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
    residuals: Float[np.ndarray, "k 3 r"]
    """Of single seeds from their network's mean: objective, box loss and mean box loss."""
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


def landscape(
    path: Path, at: tuple[int, ...] = (), before: Path | None = None
) -> tuple[dict[str, Any], Landscape]:
    """A table's settings, and its networks that were trained to the end and measured.

    Their curves are known after the epochs `at`, by default the rungs of a sweep as long. The ends
    of another table, `before`, are what other data have shown.
    """
    table = trained(path)
    settings, rows, end = table.settings, table.rows, table.end
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
            residuals += [factor * (one - mean)[:3] for one in several]
    other = None if before is None else trained(before)
    others = [] if other is None else as_large(other.features, table.features)
    columns_of_all = matrix([*table.features, *others])[1]
    elsewhere = [] if other is None else [
        Scored(-1 - place, row, fmean(curve[-1]["objective"] for curve in told[CURVES].values()), 1)
        for place, (row, told) in enumerate(
            zip(named(columns_of_all[len(rows) :]), other.rows, strict=True))
    ]  # fmt: skip
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
        work=np.array([each["log_gflops"] for each in table.features]),
        curves=Curves(*curves.swapaxes(0, 1)),
        residuals=np.array(residuals),
    )


def seed_curve(curve: list[dict[str, Any]], at: tuple[int, ...]) -> Float[np.ndarray, "4 r"]:
    """Objective, box loss, its mean so far, and standard error at the rungs."""
    by_epoch = {point["epoch"]: point for point in curve}
    boxes = [np.mean([by_epoch[epoch]["box"] for epoch in by_epoch if epoch <= rung])
             for rung in at]  # fmt: skip
    objective, box, error = ([by_epoch[rung][key] for rung in at]
                             for key in ("objective", "box", "objective_se"))  # fmt: skip
    return np.array([objective, box, boxes, error])


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


class Task(NamedTuple):
    """One search at as much training as ours took."""

    known: Known
    budget_ms: float
    epochs: int
    rng: np.random.Generator
    work: Float[np.ndarray, " n"]
    """Logarithms of the operations."""

    @property
    def runs(self) -> int:
        """Whole runs that its epochs are enough for."""
        return max(1, self.epochs // self.known.rungs[-1])

    @property
    def band(self) -> Int[np.ndarray, " k"]:
        """Networks in the band under the budget."""
        return in_band(self.known.latency_ms, self.budget_ms, DEFAULTS.band)

    def best(self, rows: Int[np.ndarray, " k"]) -> int:
        """Of these the one whose first run shows most at its end."""
        return int(rows[self.known.cheap[rows].argmax()])


def random_band(task: Task) -> int:
    """The best of random networks in the band."""
    return task.best(task.rng.permutation(task.band)[: task.runs])


def random_whole(task: Task) -> int:
    """The best of random networks that fit."""
    rows = np.flatnonzero(task.known.latency_ms <= task.budget_ms)
    return task.best(task.rng.permutation(rows)[: task.runs])


def optuna_tpe(task: Task) -> int:
    """The best that TPE finds by whole runs."""
    seen = task.known._replace(full=task.known.cheap)
    return task.best(tpe(Search(seen, task.budget_ms, task.runs, 1, task.rng)))


def plain_ridge(task: Task) -> int:
    """The best of whole runs, of which the second half is what a ridge expects most of."""
    scaled, rest, tried = one_scale(task.known.features), task.band, []
    while len(tried) < task.runs and len(rest):
        if len(tried) < max(2, task.runs / 2):
            place = int(task.rng.integers(len(rest)))
        else:
            scores = task.known.cheap[tried]
            place = int(ridge_scores(scaled[tried], scores, scaled[rest]).argmax())
        tried.append(int(rest[place]))
        rest = np.delete(rest, place)
    return task.best(np.array(tried))


def ninth(task: Task) -> int:
    """Many for a ninth of the schedule, and of these the one of most merit to its end."""
    known = task.known
    first, last = known.rungs[0], known.rungs[-1]
    count = max(1, (task.epochs - (last - first)) // first)
    rows = task.rng.permutation(task.band)[:count]
    boxes = np.full(len(rows), np.nan) if known.boxes is None else known.boxes[rows, 0]
    return int(rows[merits(known.curves[rows, 0], boxes).argmax()])


def slowest(task: Task) -> int:
    """The slowest that fits."""
    latency = task.known.latency_ms
    return int(np.where(latency <= task.budget_ms, latency, -np.inf).argmax())


def most_work(task: Task) -> int:
    """That with the most operations in the band."""
    return int(task.band[task.work[task.band].argmax()])


def best_of_all(task: Task) -> int:
    """The best in the band, as only the table knows."""
    return int(task.band[task.known.full[task.band].argmax()])


OTHERS: dict[str, Callable[[Task], int]] = {
    "random_band": random_band,
    "random_whole": random_whole,
    "tpe": optuna_tpe,
    "ridge": plain_ridge,
    "ninth": ninth,
    "slowest": slowest,
    "most_work": most_work,
    "best_of_all": best_of_all,
}


class Shipped(NamedTuple):
    """What the searches of a budget and a number of candidates shipped."""

    quality: dict[str, Float[np.ndarray, " repeats"]]
    """Of each strategy, in the objective, by the table's means."""
    spread: float
    """Standard deviation of that among the networks in the band."""
    epochs: float
    """Trained in each, on average."""


def searched(
    land: Landscape, budget_ms: float, candidates: int, repeats: int, seed: int, names: list[str]
) -> Shipped:
    """Searches with other draws and other luck of seeds, each strategy on the same luck."""
    truth = land.curves.objective[:, -1]
    quality = {name: np.zeros(repeats) for name in (OURS, *names)}
    epochs = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, candidates, repeat, round(1000 * budget_ms)])
        known = land.shown(rng)
        ours = Simulation(known, budget_ms, runs=candidates, finalists=FINALISTS, rng=rng,
                          elsewhere=[land.elsewhere] if land.elsewhere else [])  # fmt: skip
        ours.run()
        quality[OURS][repeat] = truth[ours.chosen()]
        epochs.append(ours.trained_epochs())
        task = Task(known, budget_ms, epochs[-1], rng, land.work)
        for name in names:
            quality[name][repeat] = truth[OTHERS[name](task)]
    band = in_band(land.latency_ms, budget_ms, DEFAULTS.band)
    return Shipped(quality, float(truth[band].std()), float(np.mean(epochs)))


def resampled(land: Landscape, rng: np.random.Generator) -> Landscape:
    """Families drawn with replacement, and networks within each; what is drawn is there once."""
    rows: set[int] = set()
    names = np.unique(land.families)
    for name in rng.choice(names, len(names)):
        own = np.flatnonzero(land.families == name)
        rows |= set(rng.choice(own, len(own)).tolist())
    return land.part(np.array(sorted(rows)))


def leads(found: list[Shipped], name: str) -> tuple[float, float]:
    """Ours less another's, as a mean over budgets: in the objective, and in spreads of the band."""
    ahead = [float((one.quality[OURS] - one.quality[name]).mean()) for one in found]
    return float(np.mean(ahead)), float(np.mean([a / one.spread for a, one in
                                                 zip(ahead, found, strict=True)]))  # fmt: skip


def enough(land: Landscape, budgets: list[float]) -> bool:
    """Whether there is something to choose from under every budget."""
    return all(
        len(in_band(land.latency_ms, ms, DEFAULTS.band)) > 4 for ms in budgets
        if (land.latency_ms <= ms).any()
    ) and bool(min(budgets) > land.latency_ms.min())  # fmt: skip


def main() -> None:
    """Print and keep the leads, by number of candidates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--budget-ms", type=float, nargs="+", help="others than the table's")
    parser.add_argument("--before", type=Path, help="a table of other data, ours' experience")
    parser.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=60, help="searches for each budget")
    parser.add_argument("--tables", type=int, default=100, help="resampled, for intervals")
    parser.add_argument("--each", type=int, default=6, help="searches on each of these, a budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, land = landscape(arguments.table, before=arguments.before)
    budgets = arguments.budget_ms or settings["budget_ms"]
    if not enough(land, budgets):
        raise SystemExit(f"{arguments.table}: too few networks in a band of {budgets} ms")
    names = list(OTHERS)
    quick = [name for name in names if name != "tpe"]
    print(f"{len(land.features)} networks, {len(np.unique(land.families))} families; a seed adds "
          f"{land.residuals[:, 0, -1].std():.3f} to the objective at the end")  # fmt: skip
    result: dict[str, Any] = {"settings": settings, "before": str(arguments.before or ""),
                              "networks": len(land.features),
                              "budget_ms": budgets,
                              "noise": float(land.residuals[:, 0, -1].std()),
                              "rows": []}  # fmt: skip
    print("\n| candidates | epochs | against | lead, objective | 95 % | lead, SD of band | 95 % |"
          "\n|---:|---:|---|---:|---|---:|---|")  # fmt: skip
    for count in arguments.candidates:
        found = [searched(land, ms, count, arguments.repeats, arguments.seed, names)
                 for ms in budgets]  # fmt: skip
        other: list[list[Shipped]] = []
        rng = np.random.default_rng([arguments.seed, count])
        while len(other) < arguments.tables:
            drawn = resampled(land, rng)
            if enough(drawn, budgets):
                other.append([searched(drawn, ms, count, arguments.each, len(other), quick)
                              for ms in budgets])  # fmt: skip
        for name in names:
            absolute, relative = leads(found, name)
            epochs = float(np.mean([one.epochs for one in found]))
            row: dict[str, Any] = {"candidates": count, "against": name, "objective": absolute,
                                   "spreads": relative, "epochs": epochs}  # fmt: skip
            ends = ["", ""]
            if name in quick and other:
                pairs = np.array([leads(one, name) for one in other])
                limits = np.percentile(pairs, [2.5, 97.5], axis=0)
                row["objective_interval"], row["spreads_interval"] = limits.T.tolist()
                ends = [f"{low:.3f} to {high:.3f}" for low, high in limits.T]
            result["rows"].append(row)
            print(f"| {count} | {epochs:.0f} | {name} | {absolute:+.3f} | {ends[0]} "
                  f"| {relative:+.2f} | {ends[1]} |", flush=True)  # fmt: skip
    if arguments.json:
        result["date"] = time.strftime("%Y-%m-%d")
        replace_file(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
