"""The funnel on a table of known results, on disguises of it, and on made-up tables.

No setting of the funnel may suit one table only, so it is replayed where the winners differ: fewer
families, half of the lines, noisy cheap scores, cheap and full scores changing places, full scores
that leave the cheap ones in another way, and made-up response surfaces of other shapes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flaxyolo.search.known import Known, read_table
from flaxyolo.search.strategies import STRATEGIES, Search
from flaxyolo.search.surrogate import (
    matern,
    mean_squared_distance,
    one_scale,
    squared_distances,
)

DEVICES = ("latency_ms_x86_openvino", "latency_ms_jetson_nano")
COMPARED = ("funnel", "ridge", "cheap_only", "random_band_full")
SPENDING = ((20, 3), (40, 3), (40, 5))


def smooth(known: Known, rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """A random smooth function of the architecture, of variance 1."""
    scaled = one_scale(known.features)
    kernel = matern(squared_distances(scaled, scaled, mean_squared_distance(scaled)))
    values, vectors = np.linalg.eigh(kernel)
    return vectors @ (np.sqrt(np.maximum(values, 0.0)) * rng.normal(size=len(values)))


def part(known: Known, keep: np.ndarray) -> Known:
    """Some lines of a table."""
    return Known(
        features=known.features[keep],
        codes=known.codes[keep],
        ordered=known.ordered,
        latency_ms=known.latency_ms[keep],
        rungs=known.rungs,
        curves=known.curves[keep],
        full=known.full[keep],
    )


def with_cheap(known: Known, scores: Float[np.ndarray, " n"]) -> Known:
    """The table with other scores of cheap runs, which have no rung before their end."""
    return known._replace(rungs=(1,), curves=scores[:, None])


def disguised(known: Known, rng: np.random.Generator) -> dict[str, Known]:
    """The table with other winners; its first column of codes is the family."""
    count = len(known.full)
    families = rng.permutation(known.codes[:, 0].max() + 1)
    slope, offset = np.polyfit(known.cheap, known.full, 1)
    expected = slope * known.cheap + offset
    left = float((known.full - expected).std())
    return {
        "as it is": known,
        "half of the families": part(known, np.isin(known.codes[:, 0], families[::2])),
        "other half of the families": part(known, np.isin(known.codes[:, 0], families[1::2])),
        "half of the lines": part(known, rng.random(count) < 0.5),
        "cheap with noise of 1 point": with_cheap(
            known,
            known.cheap + rng.normal(size=count) * known.cheap.std() / known.full.std(),
        ),
        "cheap and full changed": with_cheap(known, known.full)._replace(full=100 * known.cheap),
        "full leaves cheap otherwise": known._replace(
            full=expected + left * (0.9 * smooth(known, rng) + 0.3 * rng.normal(size=count))
        ),
    }


def made_up(rng: np.random.Generator, *, stages: int, count: int = 600) -> Known:
    """A device and a response surface: power laws in sizes, kinds of block, and quirks.

    With one stage a network is family, depth, width and resolution; with four each has its own.
    """
    kinds = int(rng.integers(3, 8))
    kind = rng.integers(kinds, size=(count, stages))
    depth, width = rng.integers(1, 7, (count, stages)), rng.integers(1, 17, (count, stages))
    resolution = rng.choice(np.arange(160, 640, 32), count) / 320
    price, gain = rng.lognormal(0, 0.3, kinds), rng.normal(size=(kinds, 4))
    work = (price[kind] * (depth + 1) * (width / 8) ** 1.6).sum(1) * resolution**1.9
    latency = work / np.median(work) * 15 * rng.lognormal(0, 0.05, count) + rng.uniform(0.5, 4)
    strength = rng.uniform(0.5, 2, (3, stages)) / stages
    power = -0.5 + 0.1 * gain[kind, 1:]
    lost = (
        14 * strength[0] * resolution[:, None] ** power[..., 0]
        + 6 * strength[1] * (width / 8) ** power[..., 1]
        + 5 * strength[2] * (depth / 2) ** power[..., 2]
    ).sum(1)
    features = np.concatenate(
        [
            (kind[..., None] == np.arange(kinds)).reshape(count, -1).astype(float),
            np.log(np.concatenate([depth, width, resolution[:, None], latency[:, None]], axis=1)),
        ],
        axis=1,
    )
    quality = 70 - lost + gain[kind, 0].mean(1)
    known = Known(
        features=features,
        codes=np.concatenate([kind, depth, width], axis=1),
        ordered=(False,) * stages + (True,) * (2 * stages),
        latency_ms=latency,
        rungs=(1,),
        curves=(quality + 0.4 * rng.normal(size=count))[:, None],
        full=0.8 * quality + 15,
    )
    return known._replace(full=known.full + 0.7 * smooth(known, rng))


def main() -> None:
    """Replay all tables and print mean regret, a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    tables: dict[str, Known] = {}
    for device in DEVICES:
        known = read_table(arguments.table, cheap="map_cheap", full="map_full", latency=device)
        for name, each in disguised(known, rng).items():
            tables[f"{device.removeprefix('latency_ms_')}, {name}"] = each
    for stages in (1, 1, 1, 4, 4, 4):
        tables[f"made up {len(tables)}, {stages} stages"] = made_up(rng, stages=stages)
    found = {}
    for name, known in tables.items():
        began = time.perf_counter()
        budgets = np.quantile(known.latency_ms, np.linspace(0.2, 0.9, 8))
        found[name] = {}
        for runs, finalists in SPENDING:
            figures = {}
            for strategy in COMPARED:
                regret = [
                    known.full[known.latency_ms <= budget].max()
                    - known.full[
                        STRATEGIES[strategy](
                            Search(
                                known,
                                float(budget),
                                runs,
                                finalists,
                                np.random.default_rng([arguments.seed, place, repeat]),
                            )
                        )
                    ].max()
                    for place, budget in enumerate(budgets)
                    for repeat in range(arguments.repeats)
                ]
                figures[strategy] = round(float(np.mean(regret)), 3)
            found[name][f"{runs}+{finalists}"] = figures
        line = "  ".join(
            f"{spent}: " + " ".join(f"{value:.2f}" for value in figures.values())
            for spent, figures in found[name].items()
        )
        print(f"{name:46s} {line}  {time.perf_counter() - began:.0f} s", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
