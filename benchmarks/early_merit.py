"""How networks from fresh weights should be told apart early in their schedule, from tables.

Learns what score, box loss of the first epoch and box loss of the last so far say of the score at
the end: a ridge of each table's networks, in units of their spreads, after a ninth and a third of
the schedule. Each table is then judged by the weights that the others give, in the bands of its
budgets: Spearman's correlation with the end, beside that of score and last box loss alike, with
95 % intervals of the difference by bootstrap over networks.

    python -m benchmarks.early_merit benchmarks/tables/digits.jsonl@0.7,0.9,1.1 \\
        benchmarks/tables/nuclei.jsonl@1.1,1.5 benchmarks/tables/bccd.jsonl --json merit.json
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from benchmarks.rank_correlation import correlations, read
from flaxyolo.search.funnel import DEFAULTS, in_band

AT = (9, 3)
"""Parts of the schedule after the first of which it is learnt and judged."""
RIDGE = 30.0
RESAMPLES = 1000
ALIKE = np.array([0.5, 0.0, 0.5])


class Told(NamedTuple):
    """What networks show after an epoch, and their scores at the end."""

    shown: Float[np.ndarray, "n 3"]
    """Score, box loss of the first epoch and of the last so far; the losses turned round."""
    end: Float[np.ndarray, " n"]


def told(rows: Sequence[dict[str, Any]], epoch: int) -> Told:
    """Of some networks of a table."""
    curves = [row["curve"] for row in rows]
    shown = [(curve[epoch - 1]["objective"], -curve[0]["box"], -curve[epoch - 1]["box"])
             for curve in curves]  # fmt: skip
    return Told(np.array(shown), np.array([curve[-1]["objective"] for curve in curves]))


def in_spreads(values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """Less the mean, in units of the spread."""
    return (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)


def weights(tables: Sequence[Told]) -> Float[np.ndarray, "3"]:
    """What each shown number weighs; in all they are 1."""
    shown = np.concatenate([in_spreads(one.shown) for one in tables])
    end = np.concatenate([in_spreads(one.end) for one in tables])
    found = np.linalg.solve(shown.T @ shown + RIDGE * np.eye(3), shown.T @ end)
    return found / found.sum()


def orders(
    one: Told, weigh: Float[np.ndarray, "3"], rows: Int[np.ndarray, " k"]
) -> tuple[float, float]:
    """Of some networks Spearman's correlation with the end, by score and box loss alike and by the
    weights."""
    merit, end = in_spreads(one.shown[rows]), one.end[rows]
    return correlations(merit @ ALIKE, end)[0], correlations(merit @ weigh, end)[0]


class Table(NamedTuple):
    """The networks of a file, and the places of those in its bands by their names."""

    name: str
    rows: list[dict[str, Any]]
    at: dict[int, Told]
    """By part of the schedule."""
    bands: dict[str, Int[np.ndarray, " k"]]


def table(named: str) -> Table:
    """Of a file with budgets in milliseconds, `FILE@0.7,0.9`; without any it is one band."""
    file, _, limits = named.partition("@")
    settings, rows = read(Path(file))
    bands = {"all": np.arange(len(rows))}
    if limits:
        times = np.array([row.get("cost", {}).get("latency_ms_p95", np.inf) for row in rows])
        bands = {f"{ms} ms": in_band(times, float(ms), DEFAULTS.band) for ms in limits.split(",")}
    at = {part: told(rows, settings["epochs"] // part) for part in AT}
    return Table(settings["data"], rows, at, bands)


def learnt(tables: Sequence[Table]) -> list[float]:
    """The weights that tables give together."""
    found = weights([one.at[part] for one in tables for part in AT])
    return [round(value, 2) for value in found.tolist()]


class Judged(NamedTuple):
    """A band of a table: both orders, and what ours has more where its networks are drawn anew."""

    band: str
    networks: int
    alike: float
    merit: float
    gains: Float[np.ndarray, " r"]


def judged(one: Table, weigh: Sequence[float], part: int, rng: np.random.Generator) -> list[Judged]:
    """The bands of a table, which share the draws: a network may be in several."""
    by, at = np.array(weigh), one.at[part]
    draws = rng.integers(len(one.rows), size=(RESAMPLES, len(one.rows)))
    found = []
    for name, places in one.bands.items():
        inside = np.isin(draws, places)
        again = np.array([orders(at, by, draw[mine]) for draw, mine in
                          zip(draws, inside, strict=True)])  # fmt: skip
        gains = again[:, 1] - again[:, 0]
        found.append(Judged(name, len(places), *orders(at, by, places), gains))
    return found


def interval(gains: Float[np.ndarray, " r"]) -> list[float]:
    """95 % of the draws."""
    return [round(value, 3) for value in np.percentile(gains, [2.5, 97.5]).tolist()]


def main() -> None:
    """Print and keep the weights, and how well each table is ordered by those of the others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("tables", nargs="+", metavar="FILE[@MS,MS]", help="two or more")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    tables, rng = [table(named) for named in arguments.tables], np.random.default_rng(0)
    if len(tables) < 2:
        parser.error("expected at least two tables: each is judged by the others")
    found: list[dict[str, Any]] = []
    for part in AT:
        bands = []
        for one in tables:
            weigh = learnt([other for other in tables if other is not one])
            for band in judged(one, weigh, part, rng):
                bands.append(band)
                found.append({"after": f"1/{part}", "data": one.name, "band": band.band,
                              "networks": band.networks, "weights": weigh, "alike": band.alike,
                              "merit": band.merit, "gain": interval(band.gains)})  # fmt: skip
        alike, merit = np.mean([(band.alike, band.merit) for band in bands], axis=0).tolist()
        gains = np.mean([band.gains for band in bands], axis=0)
        found.append({"after": f"1/{part}", "data": "all", "band": "mean", "alike": alike,
                      "merit": merit, "gain": interval(gains)})  # fmt: skip
    for row in found:
        print("after {after}, {data}, {band}: {merit:.2f} instead of {alike:.2f} "
              "({gain[0]:+.2f} to {gain[1]:+.2f})".format_map(row))  # fmt: skip
    all_of_them = learnt(tables)
    print(f"all tables together: score, first and last box loss weigh {all_of_them}")
    if arguments.json:
        kept = {"weights": all_of_them, "rows": found, "date": time.strftime("%Y-%m-%d"),
                "networks": {one.name: len(one.rows) for one in tables}}  # fmt: skip
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
