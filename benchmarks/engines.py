"""Latency of one image on JAX, onnxruntime and OpenVINO, in turn on the same cores, NMS inside.

Every round gives each engine a few calls in a row, in an order that turns, so that what slows the
machine for a while slows all of them. A call is from a letterboxed uint8 image to rows of boxes. A
ratio is of an engine's median to JAX's in the same round. A large matrix product has its turns too:
what operations a network has per second of an engine, over what the product has in the same round,
is the engine's share of the device's peak; `network` is JAX's without NMS. The figures hold for the
machine; run it where nothing else is done.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo.base.files import replace_file
from flaxyolo.cost.engine import EngineName, where
from flaxyolo.cost.measure import compiled_network, count_gflops, photographs
from flaxyolo.deploy.engines import program, read_engine
from flaxyolo.measure import read_detector, resized
from flaxyolo.nn.detector import compiled_detect, fuse, initial_weights

ENGINES: tuple[EngineName, ...] = ("jax", "onnxruntime", "openvino")
CALLS = 8
"""In a row, of an engine in a round; the first finds another's data in the cache: left out."""
NETWORK, PRODUCT = "network", "product"
"""What has turns beside the engines: JAX's network alone, and a matrix product."""
SIDE = 1536
"""Of the matrices of the product, float32."""
PRODUCT_GFLOPS = 2e-9 * SIDE**3

Detect = Callable[[int], Any]
"""Runs a detector on the image of a number."""


def engines_of(path: Path, image_size: int | None) -> tuple[str, float, dict[str, Detect]]:
    """A network in words, its GFLOPs, and what runs in turn: engines, network and product."""
    spec, _, weights = read_detector(path)
    if image_size is not None:
        spec = resized(spec, image_size)
    weights = initial_weights(spec, 0) if weights is None else weights
    images = photographs(spec.image_size)
    placed = [jax.device_put(image[None]) for image in images]
    compiled, fused = compiled_detect(spec, 1, images.dtype), jax.device_put(fuse(spec, weights))

    def in_jax(number: int) -> Any:
        return jax.block_until_ready(compiled(fused, placed[number % len(placed)]))

    alone = compiled_network(spec)
    product, square = jax.jit(jnp.matmul), jnp.ones((SIDE, SIDE))
    runs: dict[str, Detect] = {
        "jax": in_jax,
        NETWORK: lambda number: jax.block_until_ready(alone(fused, placed[number % len(placed)])),
        PRODUCT: lambda number: jax.block_until_ready(product(square, square)),
    }
    for name in ENGINES[1:]:
        timed = program(read_engine(name), spec, weights)
        runs[name] = lambda number, timed=timed: timed.detect(images[number % len(images)][None])
    return f"{path.stem} at {spec.image_size} px", count_gflops(spec), runs


def rounds(runs: dict[str, Detect], number: int) -> dict[str, np.ndarray]:
    """Milliseconds (rounds, calls) of each engine."""
    names, taken = list(runs), {name: [] for name in runs}
    for turn in range(number):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times = []
            for call in range(CALLS):
                began = time.perf_counter()
                runs[name](call)
                times.append(1000 * (time.perf_counter() - began))
            taken[name].append(times[1:])
    return {name: np.array(times) for name, times in taken.items()}


def figures(times: dict[str, np.ndarray], gflops: float) -> dict[str, dict[str, float]]:
    """Of each engine: its calls, its ratio to JAX with what spread it has over rounds, and its
    share of the peak."""
    ours, product = np.median(times["jax"], axis=1), np.median(times[PRODUCT], axis=1)
    rows = {}
    for name, of_engine in times.items():
        each = np.median(of_engine, axis=1)
        ratios = each / ours
        speeds = (PRODUCT_GFLOPS if name == PRODUCT else gflops) / each
        rows[name] = {
            "ms_min": float(of_engine.min()),
            "ms_p50": float(np.median(of_engine)),
            "ms_p95": float(np.percentile(of_engine, 95)),
            "ratio_to_jax": float(np.median(ratios)),
            "ratio_p10": float(np.percentile(ratios, 10)),
            "ratio_p90": float(np.percentile(ratios, 90)),
            "gflop_per_s": float(1000 * np.median(speeds)),
            "share_of_peak": float(np.median(speeds * product / PRODUCT_GFLOPS)),
        }
    return rows


def main() -> None:
    """Time each network of the arguments on every engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="+", help="configs or checkpoints, such as X.yaml@640")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    found = {}
    for network in arguments.networks:
        path, _, size = network.partition("@")
        what, gflops, runs = engines_of(Path(path), int(size) if size else None)
        rounds(runs, 2)
        found[what] = figures(rounds(runs, arguments.rounds), gflops)
        for name, row in found[what].items():
            print(f"{what}, {name}: {row['ms_p50']:.2f} ms (least {row['ms_min']:.2f}, p95 "
                  f"{row['ms_p95']:.2f}), {row['ratio_to_jax']:.2f} of JAX "
                  f"({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f}), "
                  f"{row['share_of_peak']:.0%} of the peak", flush=True)  # fmt: skip
    if arguments.json is not None:
        machines = [where(read_engine(name)) for name in ENGINES]
        told = {
            "date": time.strftime("%Y-%m-%d"),
            "device": machines[0].device,
            "versions": {key: value for one in machines for key, value in one.versions.items()},
            "rounds": arguments.rounds,
            "calls_in_a_row": CALLS,
            "networks": found,
        }
        replace_file(arguments.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
