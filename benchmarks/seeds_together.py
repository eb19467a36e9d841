"""Are several seeds of one network faster as one program than one after the other?

Times a training step of each, in turn, and says by how much the weights differ after a few steps.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optuna

from flaxyolo.cost import device_name, versions
from flaxyolo.data.batches import epoch_indices, to_device
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.sources import read_dataset
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.plan import plan_run
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import load_space, reference_params
from flaxyolo.training import compile_step, start, train_step

COMPARED_STEPS = 5


def timed(step: Callable[[], Any]) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    jax.block_until_ready(step())
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Time both ways, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    data = read_dataset("digits")
    suggest = load_space(None)
    params = reference_params(suggest) | {"image_size": arguments.image_size}
    spec = replace(suggest(optuna.trial.FixedTrial(params)), num_classes=len(data.class_names))
    pixels = load_pixels(data, "train", spec.image_size)
    resident, seeds = to_device(pixels), range(arguments.seeds)
    plans = [plan_run(spec, sweep_training(24, seed=seed), pixels) for seed in seeds]
    # One network's program serves every seed.
    plan = replace(plans[0], config=replace(plans[0].config, seed=0))
    order = [
        epoch_indices(len(pixels.images), plan.config.batch_size, seed=seed, epoch=0)
        for seed in seeds
    ]
    one = compile_step(plan, start(plan), resident)

    def all_of(state: Any, indices: Any, seed: Any) -> Any:
        return jax.vmap(lambda s, i, n: train_step(plan, s, resident, i, n))(state, indices, seed)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *map(start, plans))
    numbers = jnp.arange(arguments.seeds, dtype=jnp.int32)
    began = time.perf_counter()
    many = compile_ahead(jax.jit(all_of), stacked, jnp.stack([each[0] for each in order]), numbers)
    compile_s = time.perf_counter() - began

    apart = [start(each) for each in plans]
    for step in range(COMPARED_STEPS):
        for seed in seeds:
            apart[seed], _, _ = one(apart[seed], resident, order[seed][step], np.int32(seed))
        rows = jnp.stack([each[step] for each in order])
        stacked, _, _ = many(stacked, rows, numbers)
    difference = max(
        float(jnp.abs(together[seed] - alone).max())
        for seed in seeds
        for together, alone in zip(
            jax.tree.leaves(stacked.weights.params),
            jax.tree.leaves(apart[seed].weights.params),
            strict=True,
        )
    )
    alone_ms, together_ms = [], []
    for step in range(COMPARED_STEPS, COMPARED_STEPS + arguments.steps):

        def one_by_one(step: int = step) -> Any:
            for seed in seeds:
                apart[seed], _, _ = one(apart[seed], resident, order[seed][step], np.int32(seed))
            return apart

        def together(step: int = step) -> Any:
            nonlocal stacked
            stacked, _, _ = many(stacked, jnp.stack([each[step] for each in order]), numbers)
            return stacked

        alone_ms.append(timed(one_by_one))
        together_ms.append(timed(together))
    result = {
        "what": f"a step of {arguments.seeds} seeds of the baseline at {spec.image_size} px",
        "one_by_one_ms": statistics.median(alone_ms),
        "together_ms": statistics.median(together_ms),
        "ratio": statistics.median(together_ms) / statistics.median(alone_ms),
        "compile_s": compile_s,
        "largest_difference": difference,
        "steps_compared": COMPARED_STEPS,
        "device": device_name(),
        "versions": versions(),
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
