"""Whether the surrogate that is fitted on a bounded number of runs finds as good networks.

A table of networks is made up: drawn from the default space, with the latencies of a device by
formula, and scores by a smooth law of their features with the noise of a training. The command
`replay`'s funnel searches it again and again, fitted on all runs of its study and on so many at
most; the draws are the same. Regret is what the best network trained fully lacks against the best
inside the budget, in points of 100. Searches are short and the bound is lower than a sweep's in the
same proportion, so that minutes are enough.

    python -m benchmarks.bounded_fit --runs 60 --most 20 --out runs/bounded_fit.json
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.made_up_devices import TWO_CORES, latency
from flaxyolo.cost.measurement import versions
from flaxyolo.search import funnel
from flaxyolo.search.features import features, matrix
from flaxyolo.search.funnel import FunnelSettings
from flaxyolo.search.known import Known
from flaxyolo.search.screen import draw
from flaxyolo.search.space import Ranges, suggest_detector, with_ranges
from flaxyolo.search.strategies import Search
from flaxyolo.search.strategies import funnel as search_funnel

NETWORKS = 600
RANGES = Ranges((96, 128, 160, 192), (16, 32, 8), 6, (2, 4, 4, 2))
QUANTILES = (0.3, 0.5, 0.7, 0.9)
NOISE = 0.01
"""Of a full score, against a spread of some 0.04; a short one has three times as much."""


def made_table(seed: int) -> Known:
    """The table."""
    rng = np.random.default_rng(seed)
    drawn = draw(with_ranges(suggest_detector, RANGES), NETWORKS, seed).drawn
    times = np.array([latency(TWO_CORES, one.spec) for one in drawn])
    seen = [
        features(one.spec, latency_ms=ms, params=1e5 * ms, gflops=0.2 * ms)
        for one, ms in zip(drawn, times, strict=True)
    ]
    values = np.nan_to_num(matrix(seen)[1])
    scaled = (values - values.mean(0)) / (values.std(0) + 1e-9)
    slopes = rng.normal(0, 1, scaled.shape[1]) / math.sqrt(scaled.shape[1])
    bent = np.sin(scaled @ rng.normal(0, 1, (scaled.shape[1], 4)) / 3).sum(1)
    quality = 0.4 + 0.02 * scaled @ slopes + 0.01 * bent + 0.03 * np.log(times)

    def noisy(share: float, noise: float) -> np.ndarray:
        return share * quality + rng.normal(0, noise, NETWORKS)

    names = sorted({name for one in drawn for name in one.params})
    codes = [
        np.unique([str(one.params.get(name)) for one in drawn], return_inverse=True)[1]
        for name in names
    ]
    return Known(
        features=values,
        codes=np.stack(codes, 1),
        ordered=(False,) * len(names),
        latency_ms=times,
        rungs=(3, 9),
        curves=np.stack([noisy(0.6, 3 * NOISE), noisy(0.9, NOISE)], 1),
        full=100 * noisy(1.0, NOISE / 2),
    )


def regrets(known: Known, most: int, runs: int, repeats: int) -> np.ndarray:
    """Of each budget and repeat, with at most so many runs in a fit."""
    settings = FunnelSettings(most_own=most)
    for function in (funnel.propose, funnel.next_finalist, funnel.next_finalists):
        assert function.__kwdefaults__ is not None, "settings are given by name"
        function.__kwdefaults__["settings"] = settings
    found = np.zeros((len(QUANTILES), repeats))
    for place, budget in enumerate(np.quantile(known.latency_ms, QUANTILES)):
        best = known.full[known.latency_ms <= budget].max()
        for repeat in range(repeats):
            rng = np.random.default_rng([place, repeat])
            rows = search_funnel(Search(known, float(budget), runs, 2, rng))
            found[place, repeat] = best - known.full[rows].max()
    return found


def main() -> None:
    """Search, and print the regret with and without the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--most", type=int, nargs="+", default=[20])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--tables", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/bounded_fit.json"))
    arguments = parser.parse_args()
    told: dict[str, Any] = {
        "what": "regret in points of 100 of searches whose surrogate is fitted on so many runs",
        "runs": arguments.runs,
        "tables": arguments.tables,
        "repeats": arguments.repeats,
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
        "rows": [],
    }
    tables = [made_table(seed) for seed in range(arguments.tables)]
    whole = None
    for most in (10**9, *arguments.most):
        began = time.process_time()
        found = np.stack([regrets(one, most, arguments.runs, arguments.repeats) for one in tables])
        whole = found if whole is None else whole
        apart = (found - whole).ravel()
        row = {
            "most": None if most == 10**9 else most,
            "regret": round(float(found.mean()), 3),
            "more_than_all": round(float(apart.mean()), 3),
            "standard_error": round(float(apart.std(ddof=1) / math.sqrt(len(apart))), 3),
            "cpu_seconds": round(time.process_time() - began, 1),
        }
        told["rows"].append(row)
        print(json.dumps(row), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
