"""The search on a published table of detectors, against others at equal training.

A table has one score of a cheap and one of a full run of each network and no score between, so
there are no rungs to leave a network at and no luck of seeds: what is judged is which networks are
proposed and which of them are trained fully. A full run counts as one cheap run; the others may
spend what ours spends on both:

  random_band    full runs of random networks in the band under the budget
  random_whole   the same of all that fit
  tpe            Optuna's TPE over full runs of those that fit
  ridge          cheap runs in the band, half of them the best by a plain ridge, the best trained
                 fully: as many of both as ours
  cheap_only     the same of random ones
  slowest        the slowest that fits, one run
  best_of_all    the best in the band, which no search in it can exceed

Each ships the best that it trained fully. Leads are in points of 100 and in standard deviations of
the full scores in the band, means over the budgets, with 95 % intervals by bootstrap over families
and networks within them.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from jaxtyping import Int

from benchmarks.leads import OURS, Shipped, lead_row, on_other_tables
from benchmarks.replay_variants import part
from flaxyolo.base.files import replace_file
from flaxyolo.replay import QUANTILES
from flaxyolo.search import strategies
from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.known import Known, read_table
from flaxyolo.search.strategies import Search, Strategy

CANDIDATES = (6, 12, 24, 48)
FINALISTS = 3
FAMILY = 0
"""Column of the codes that names a network's family: the table's first."""
FEWEST = 4
"""Networks in a band, below which there is nothing to choose from."""


def best_of_all(search: Search) -> Int[np.ndarray, " k"]:
    """The best in the band, as only the table knows."""
    rows = in_band(search.known.latency_ms, search.budget_ms, DEFAULTS.band)
    return rows[[search.known.full[rows].argmax()]]


SHORT_AND_FULL: dict[str, Strategy] = {
    OURS: strategies.funnel,
    "ridge": strategies.ridge,
    "cheap_only": strategies.cheap_only,
}
FULL: dict[str, Strategy] = {
    "random_band": strategies.random_band_full,
    "random_whole": strategies.random_full,
    "tpe": strategies.tpe,
    "slowest": strategies.slowest_that_fits,
    "best_of_all": best_of_all,
}
OTHERS = [name for name in (*SHORT_AND_FULL, *FULL) if name != OURS]


def searched(
    known: Known, budget_ms: float, candidates: int, repeats: int, seed: int, names: list[str]
) -> Shipped:
    """Searches with other draws; each strategy begins with the same ones."""
    quality = {name: np.zeros(repeats) for name in (OURS, *names)}
    for name, values in quality.items():
        runs = candidates if name in SHORT_AND_FULL else candidates + FINALISTS
        strategy = (SHORT_AND_FULL | FULL)[name]
        for repeat in range(repeats):
            rng = np.random.default_rng([seed, candidates, repeat, round(1000 * budget_ms)])
            rows = strategy(Search(known, budget_ms, runs, FINALISTS, rng))
            values[repeat] = known.full[rows].max()
    band = in_band(known.latency_ms, budget_ms, DEFAULTS.band)
    return Shipped(quality, float(known.full[band].std()))


def resampled(known: Known, rng: np.random.Generator) -> Known:
    """Families drawn with replacement, and networks within each; what is drawn is there once."""
    families = known.codes[:, FAMILY]
    names = np.unique(families)
    rows: set[int] = set()
    for name in rng.choice(names, len(names)):
        own = np.flatnonzero(families == name)
        rows |= set(rng.choice(own, len(own)).tolist())
    return part(known, np.array(sorted(rows)))


def enough(known: Known, budgets: list[float]) -> bool:
    """Whether there is something to choose from under every budget."""
    return min(budgets) > known.latency_ms.min() and all(
        len(in_band(known.latency_ms, ms, DEFAULTS.band)) > FEWEST for ms in budgets
    )


def main() -> None:
    """Print and keep the leads, by number of candidates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("table", type=Path, help="a CSV file; its first column is the family")
    parser.add_argument("--cheap-column", default="map_cheap")
    parser.add_argument("--full-column", default="map_full")
    parser.add_argument("--latency-columns", nargs="+",
                        default=["latency_ms_x86_openvino", "latency_ms_jetson_nano"])  # fmt: skip
    parser.add_argument("--candidates", type=int, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=60, help="searches for each budget")
    parser.add_argument("--tpe-repeats", type=int, default=10, help="of those by TPE")
    parser.add_argument("--tables", type=int, default=100, help="resampled, for intervals")
    parser.add_argument("--each", type=int, default=6, help="searches on each of these, a budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    quick = [name for name in OTHERS if name != "tpe"]
    result: dict[str, Any] = {"table": arguments.table.name, "finalists": FINALISTS, "rows": []}
    print("| latency | candidates | against | lead, points | 95 % | lead, SD of band | 95 % |"
          "\n|---|---:|---|---:|---|---:|---|")  # fmt: skip
    for column in arguments.latency_columns:
        known = read_table(arguments.table, cheap=arguments.cheap_column,
                           full=arguments.full_column, latency=column)  # fmt: skip
        budgets = [float(ms) for ms in np.quantile(known.latency_ms, QUANTILES)]
        if not enough(known, budgets):
            raise SystemExit(f"{arguments.table}: too few networks in a band of {column}")
        for count in arguments.candidates:
            found = [searched(known, ms, count, arguments.repeats, arguments.seed, quick)
                     for ms in budgets]  # fmt: skip
            by_tpe = [searched(known, ms, count, min(arguments.tpe_repeats, arguments.repeats),
                               arguments.seed, ["tpe"]) for ms in budgets]  # fmt: skip

            other = on_other_tables(
                arguments.tables,
                np.random.default_rng([arguments.seed, count]),
                partial(resampled, known),
                partial(enough, budgets=budgets),
                lambda drawn, number, count=count, budgets=budgets: [
                    searched(drawn, ms, count, arguments.each, number, quick) for ms in budgets
                ],
            )
            for name in OTHERS:
                mine, others = (by_tpe, []) if name == "tpe" else (found, other)
                row, told = lead_row(mine, others, name, "points", 2)
                result["rows"].append({"latency": column, "candidates": count, **row})
                print(f"| {column} | {count} | {told}", flush=True)
    if arguments.json:
        result["date"] = time.strftime("%Y-%m-%d")
        replace_file(arguments.json, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
