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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from jaxtyping import Float, Int

from benchmarks.landscape import Landscape, enough, landscape, resampled
from benchmarks.leads import OURS, Shipped, lead_row, on_other_tables
from flaxyolo.base.files import replace_file
from flaxyolo.search.funnel import DEFAULTS, in_band, merits
from flaxyolo.search.known import Known
from flaxyolo.search.simulation import Simulation
from flaxyolo.search.strategies import Search, ridge_scores, tpe
from flaxyolo.search.surrogate import one_scale

CANDIDATES = (6, 12, 24, 48)
FINALISTS = 3


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
    firsts = None if known.first_boxes is None else known.first_boxes[rows]
    return int(rows[merits(known.curves[rows, 0], boxes, firsts).argmax()])


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


def main() -> None:
    """Print and keep the leads, by number of candidates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--budget-ms", type=float, nargs="+", help="others than the table's")
    parser.add_argument("--before", type=Path, help="a table of other data, ours' experience")
    parser.add_argument("--networks", type=int, help="so many of the table, drawn by the seed: "
                        "what a smaller table would have said")  # fmt: skip
    parser.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=60, help="searches for each budget")
    parser.add_argument("--tables", type=int, default=100, help="resampled, for intervals")
    parser.add_argument("--each", type=int, default=6, help="searches on each of these, a budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings, land = landscape(arguments.table, before=arguments.before)
    if arguments.networks is not None:
        drawn = np.random.default_rng(arguments.seed).permutation(len(land.features))
        land = land.part(np.sort(drawn[: arguments.networks]))
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

        other = on_other_tables(
            arguments.tables,
            np.random.default_rng([arguments.seed, count]),
            partial(resampled, land),
            partial(enough, budgets=budgets),
            lambda drawn, number, count=count, budgets=budgets: [
                searched(drawn, ms, count, arguments.each, number, quick) for ms in budgets
            ],
        )
        epochs = float(np.mean([one.epochs for one in found]))
        for name in names:
            row, told = lead_row(found, other if name in quick else [], name, "objective", 3)
            result["rows"].append({"candidates": count, **row, "epochs": epochs})
            print(f"| {count} | {epochs:.0f} | {told}", flush=True)
    if arguments.json:
        result["date"] = time.strftime("%Y-%m-%d")
        replace_file(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
