"""What the zero-cost scores of random draws cost, and what they say that size does not.

Draws of a space are kept if their GFLOPs lie in a narrow band, as those of a latency budget do.
Nothing is trained: Kendall's tau of the scores with sizes and with each other; what is left of a
score when the size behind it is taken away, as its spread over draws beside that over seeds (other
weights, other images); and seconds for each.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optuna
from scipy.stats import kendalltau

from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.space import load_space
from flaxyolo.search.zero_cost import draw_batches, nwot, size_scores, zico
from flaxyolo.spec import DetectorSpec

SIZES = {"nwot": "log_units", "zico": "log_kernels"}
"""The size behind each score."""
NAMES = (*SIZES, *SIZES.values(), "log_params", "log_gflops", "image_size")


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """The result and its seconds."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def draws_in_band(arguments: argparse.Namespace) -> list[DetectorSpec]:
    """As many draws as asked for inside the band, different ones."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    suggest = load_space(arguments.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=arguments.seed))
    low, high = arguments.band
    found: dict[DetectorSpec, None] = {}
    while len(found) < arguments.draws:
        spec = replace(suggest(study.ask()), num_classes=10)
        if low <= count_gflops(spec) <= high:
            found[spec] = None
    return list(found)


def score(spec: DetectorSpec, seeds: int) -> dict[str, Any]:
    """Both scores for every seed, with seconds, and the draw's size."""
    pixels = load_pixels(read_dataset("digits"), "train", spec.image_size)
    row: dict[str, Any] = {
        "image_size": spec.image_size,
        "log_params": float(np.log2(count_params(spec))),
        "log_gflops": float(np.log2(count_gflops(spec))),
        "nwot": [],
        "zico": [],
    }
    began = time.perf_counter()
    row |= size_scores(spec) | {"sizes_s": time.perf_counter() - began}
    for seed in range(seeds):
        batches = draw_batches(pixels, seed=seed)
        images = jnp.concatenate([batch.images for batch in batches])
        for name, function in (
            ("nwot", lambda images=images, seed=seed: nwot(spec, images, seed=seed)),
            ("zico", lambda batches=batches, seed=seed: zico(spec, batches, seed=seed)),
        ):
            value, seconds = timed(function)
            row[name].append(value)
            row.setdefault(f"{name}_s", seconds)
    return row


def spread(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Standard deviation of a score: over draws; of what a line in its size leaves; over seeds."""
    scores = np.array([np.mean(row[name]) for row in rows])
    sizes = np.array([row[SIZES[name]] for row in rows])
    line = np.polyfit(sizes, scores, 1)
    return {
        "draws": float(scores.std(ddof=1)),
        "draws_beyond_size": float((scores - np.polyval(line, sizes)).std(ddof=2)),
        "seeds": float(np.mean([np.std(row[name], ddof=1) for row in rows])),
    }


def main() -> None:
    """Score the draws and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", type=Path, default=Path("sweeps/default.py"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--band", type=float, nargs=2, default=(0.20, 0.30), help="GFLOPs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for spec in draws_in_band(arguments):
        rows.append(score(spec, arguments.seeds))
        print({name: value for name, value in rows[-1].items()}, flush=True)
    columns = {name: [float(np.mean(row[name])) for row in rows] for name in NAMES}
    taus = {
        f"{a}, {b}": float(kendalltau(columns[a], columns[b]).statistic)
        for number, a in enumerate(SIZES)
        for b in NAMES[number + 1 :]
    }
    result = {
        "what": "zero-cost scores of random draws in a band of GFLOPs, digits",
        "space": str(arguments.space),
        "band_gflops": list(arguments.band),
        "kendall_tau": taus,
        "spread": {name: spread(rows, name) for name in SIZES},
        "median_seconds": {
            name: float(np.median([row[f"{name}_s"] for row in rows])) for name in (*SIZES, "sizes")
        },
        "rows": rows,
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
