"""Compile and step time of random draws of a search space: none may be pathological.

Each draw is trained for a few steps on `digits` as a sweep would, in this process, with a fresh
compile. "Step ms per GFLOP" is the step's time over the forward GFLOPs of its batch.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import optuna

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.batches import epoch_indices, to_device
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.feeds import Resident
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.space import load_space
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import compile_step, start


def time_draw(spec: DetectorSpec, steps: int) -> dict[str, float]:
    """Compile seconds, and the median of the steps after the first in milliseconds."""
    dataset = read_dataset("digits")
    pixels = load_pixels(dataset, "train", spec.image_size)
    config = TrainConfig(batch_size=16, augmentation=Augmentation(mosaic=0.0))
    plan = plan_run(spec, config, pixels)
    state, device_pixels = start(plan), to_device(pixels)
    began = time.perf_counter()
    step = compile_step(plan, state, Resident(pixels))
    compile_s = time.perf_counter() - began
    times = []
    for indices in epoch_indices(len(pixels.images), 16, seed=0, epoch=0)[: steps + 1]:
        began = time.perf_counter()
        state, terms, _ = step(state, device_pixels, jnp.asarray(indices), jnp.int32(0))
        jax.block_until_ready((state, terms))
        times.append(1000 * (time.perf_counter() - began))
    return {"compile_s": compile_s, "step_ms": statistics.median(times[1:])}


def main() -> None:
    """Time the draws and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", type=Path, default=Path("sweeps/default.py"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    jax.config.update("jax_enable_compilation_cache", False)
    suggest = load_space(arguments.space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=arguments.seed))
    rows = []
    print("| draw | px | params | GFLOPs | compile s | step ms | step ms per GFLOP |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for number in range(arguments.draws):
        spec = replace(suggest(study.ask()), num_classes=10)
        row = {"image_size": spec.image_size, "params": count_params(spec)}
        row |= {"gflops": count_gflops(spec)} | time_draw(spec, arguments.steps)
        row["step_ms_per_gflop"] = row["step_ms"] / (16 * row["gflops"])
        rows.append(row)
        print(
            f"| {number} | {row['image_size']} | {row['params']:,} | {row['gflops']:.3f} "
            f"| {row['compile_s']:.1f} | {row['step_ms']:.0f} | {row['step_ms_per_gflop']:.1f} |",
            flush=True,
        )
    costs = [row["step_ms_per_gflop"] for row in rows]
    result = {
        "what": "training step of random draws, batch 16, digits",
        "space": str(arguments.space),
        "seed": arguments.seed,
        "rows": rows,
        "slowest_over_median_per_gflop": max(costs) / statistics.median(costs),
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(f"slowest per GFLOP over the median: {result['slowest_over_median_per_gflop']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
