"""Writes what tables of trained networks say into the package, as a prior for new studies.

    python -m benchmarks.experience benchmarks/tables/digits.jsonl benchmarks/tables/nuclei.jsonl

With `--judge` it tells instead how each of these would order the networks of another table, beside
their operations: Spearman's correlation with what they have at the end, among networks of one
latency, or among the children of one parent, there also of the share that they inherit.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from benchmarks.landscape import end_of, table, trained
from benchmarks.trained import CURVES, read, rounded
from flaxyolo.base.files import replace_file
from flaxyolo.cost.measure import count_gflops
from flaxyolo.search.experience import FILE, Table
from flaxyolo.search.features import features, matrix
from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.surrogate import predict
from flaxyolo.spec import detector_from_dict

LEAST = 5
"""Networks that a correlation takes."""
UNKNOWN = "log_params"
"""Of what was never measured."""


def seen(row: dict[str, Any]) -> dict[str, float]:
    """What the surrogate sees of a network; by what was expected of it where it is not measured."""
    spec, cost = detector_from_dict(row["spec"]), row.get("cost")
    if cost is not None:
        return features(spec, latency_ms=cost["latency_ms_p95"], params=cost["params"],
                        gflops=cost["gflops"])  # fmt: skip
    told = features(spec, latency_ms=row["predicted_ms"], params=1, gflops=count_gflops(spec))
    return {name: value for name, value in told.items() if name != UNKNOWN}


def expected(own: Sequence[dict[str, float]], told: Table) -> Float[np.ndarray, " n"]:
    """What a table expects of networks, in its own unit."""
    scored = told.scored(own)
    _, values = matrix([*own, *(each.features for each in scored)])
    known, scores = np.arange(len(own), len(values)), np.array([each.score for each in scored])
    return predict(values, known, scores, np.arange(len(own))).mean


def groups(path: Path, budgets: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """Networks that compare: of one band, or children of one parent."""
    settings, networks = read(path)
    parents = settings.get("parents")
    if parents:
        return {
            f"parent {parent}": [
                row for number, row in sorted(networks.items())
                if number >= parents and number % parents == parent and row[CURVES]
            ]
            for parent in range(parents)
        }  # fmt: skip
    rows = trained(path).rows
    times = np.array([row["cost"]["latency_ms_p95"] for row in rows])
    return {f"{ms:g} ms": [rows[place] for place in in_band(times, ms, DEFAULTS.band)]
            for ms in budgets or settings["budget_ms"] if (times <= ms).any()}  # fmt: skip


def judged(
    path: Path, budgets: Sequence[float], tables: Sequence[Table]
) -> dict[str, dict[str, float]]:
    """Correlations by group of networks."""
    found = {}
    for name, rows in groups(path, budgets).items():
        if len(rows) < LEAST:
            print(f"{name}: only {len(rows)} networks")
            continue
        own, ends = [seen(row) for row in rows], [end_of(row) for row in rows]
        scores = {told.data: expected(own, told) for told in tables}
        scores["operations"] = np.array([row["log_gflops"] for row in own])
        if all("share" in row for row in rows):
            scores["share inherited"] = np.array([row["share"] for row in rows])
        correlations = {key: float(spearmanr(score, ends).statistic)
                        for key, score in scores.items()}  # fmt: skip
        found[name] = {"networks": len(rows), **correlations}
    return found


def main() -> None:
    """Write the file, or print correlations."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--judge", type=Path, metavar="TABLE")
    parser.add_argument("--budget-ms", type=float, nargs="+", default=[], help="bands of the judge")
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--json", type=Path, help="also write the correlations there")
    arguments = parser.parse_args()
    tables = [table(path) for path in arguments.tables]
    if arguments.judge is None:
        kept = [rounded(asdict(one)) for one in tables]
        replace_file(arguments.out, json.dumps(kept, separators=(",", ":")) + "\n")
        print("\n".join(f"{one.data}: {len(one.rows)} networks" for one in tables))
        return
    found = judged(arguments.judge, arguments.budget_ms, tables)
    for name, each in found.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in each.items()))
    if arguments.json:
        content = {"judged": str(arguments.judge), "spearman": found}
        replace_file(arguments.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
