"""The command `replay`: search strategies on a table of known results, without any training.

The funnel is what a sweep's workers are told, job by job, with lines of the table for trainings.
Regret is what the best network that a strategy trained fully lacks against the best of all in the
budget.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import optuna
import tyro
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.search.known import Known, read_table
from flaxyolo.search.strategies import STRATEGIES, Search

log = logging.getLogger("flaxyolo.replay")

QUANTILES = np.linspace(0.2, 0.9, 8)
"""Of the table's latencies: the budgets."""
TPE_REPEATS = 10
"""Repeats of TPE at most, since asking it takes longer than everything else."""


@dataclass(frozen=True)
class Flags:
    """Flags of `replay`."""

    table: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TABLE.csv")]
    """A line for each network; columns that no flag names describe the architecture."""
    cheap_column: str
    """Score of a cheap run."""
    full_column: str
    """Score of a full run, as a share of 1 or of 100."""
    latency_column: str
    """Latency that the budget limits; the budgets are 8 quantiles from 0.2 to 0.9 of it."""
    rung_columns: tuple[str, ...] = ()
    """Scores of a cheap run after a third of it, or after a ninth and a third, if they are known:
    then candidates wait at these rungs as in a sweep."""
    ignore_columns: tuple[str, ...] = ()
    """Columns that are no architecture; others that start with `latency` never are."""
    cheap_runs: int = 20
    """Cheap runs of a search, or full ones where a strategy has only these."""
    finalists: int = 3
    """Of the cheap runs, those that are trained fully."""
    repeats: int = 60
    """Searches for each budget."""
    seed: int = 0
    """Of all draws."""
    json: bool = False
    """Print the figures as JSON."""


def replay(
    known: Known, *, runs: int, finalists: int, repeats: int, seed: int
) -> dict[str, Float[np.ndarray, "b r"]]:
    """Regret of each strategy in points of 100, by budget and repeat."""
    budgets = np.quantile(known.latency_ms, QUANTILES)
    best = [known.full[known.latency_ms <= budget].max() for budget in budgets]
    found = {}
    for name, strategy in STRATEGIES.items():
        began = time.perf_counter()
        count = min(repeats, {"tpe": TPE_REPEATS, "slowest_that_fits": 1}.get(name, repeats))
        regret = np.zeros((len(budgets), count))
        for place, budget in enumerate(budgets):
            for repeat in range(count):
                rng = np.random.default_rng([seed, place, repeat])
                rows = strategy(Search(known, float(budget), runs, finalists, rng))
                regret[place, repeat] = best[place] - known.full[rows].max()
        found[name] = regret
        log.info("%s: %d searches in %.1f s", name, regret.size, time.perf_counter() - began)
    return found


def summary(regret: Float[np.ndarray, "b r"]) -> dict[str, float | int | list[float]]:
    """Figures of a strategy over all budgets and repeats."""
    return {
        "mean_regret": float(regret.mean()),
        "p90_regret": float(np.quantile(regret, 0.9)),
        "std": float(regret.std()),
        "by_budget": [float(value) for value in regret.mean(1)],
        "repeats": regret.shape[1],
    }


def _run(flags: Flags) -> None:
    cli.least_one(flags, "cheap_runs", "finalists", "repeats")
    if flags.seed < 0:
        raise InputError(f"--seed: expected 0 or more, got {flags.seed}")
    known = read_table(
        flags.table,
        cheap=flags.cheap_column,
        full=flags.full_column,
        latency=flags.latency_column,
        early=flags.rung_columns,
        ignore=flags.ignore_columns,
    )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = replay(
        known,
        runs=flags.cheap_runs,
        finalists=flags.finalists,
        repeats=flags.repeats,
        seed=flags.seed,
    )
    figures = {name: summary(regret) for name, regret in found.items()}
    if flags.json:
        print(json.dumps(figures, indent=1))
        return
    lines = Table(
        title=f"regret in points of 100, {len(known.full)} networks, {len(QUANTILES)} budgets, "
        f"{flags.cheap_runs} runs, {flags.finalists} finalists",
        box=box.SIMPLE,
    )
    lines.add_column("strategy")
    for heading in ("mean", "std", "p90", "repeats"):
        lines.add_column(heading, justify="right")
    for name, each in figures.items():
        numbers = (f"{each[key]:.2f}" for key in ("mean_regret", "std", "p90_regret"))
        lines.add_row(name, *numbers, str(each["repeats"]))
    Console(highlight=False, markup=False, width=100).print(lines)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.replay",
        description="Search strategies on a table of known results, without any training.",
    )
    return cli.run(partial(_run, flags))


if __name__ == "__main__":
    sys.exit(main())
