"""Are several seeds of one network faster side by side than one after the other?

Times a training step of every seed in three ways: one after the other, as one program (`vmap` over
the seeds), and in processes that share the device, which is what `--workers` of `ablate` does. Says
by how much the weights differ after a few steps.

    python -m benchmarks.seeds_together --json benchmarks/results/seeds_together-cpu.json
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optuna

from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.batches import DevicePixels, epoch_indices, to_device
from flaxyolo.data.cache import load_pixels
from flaxyolo.data.feeds import Resident
from flaxyolo.data.sources import read_dataset
from flaxyolo.machine.devices import SHARED_MEMORY
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import load_space, reference_params
from flaxyolo.training.plan import Plan, plan_run
from flaxyolo.training.step import TrainState, compile_step, start, train_step

COMPARED_STEPS = 5


class Setting(NamedTuple):
    """What every way trains: a plan for each seed, and the images."""

    plans: list[Plan]
    feed: Resident
    pixels: DevicePixels
    """Those of the feed, on the device."""
    order: list[np.ndarray]
    """Of each seed, the images of every step."""


def setting(seeds: int, image_size: int, steps: int) -> Setting:
    """The baseline of the default space on the digits."""
    data = read_dataset("digits")
    suggest = load_space(None)
    params = reference_params(suggest) | {"image_size": image_size}
    spec = replace(suggest(optuna.trial.FixedTrial(params)), num_classes=len(data.class_names))
    pixels = load_pixels(data, "train", image_size)
    plans = [plan_run(spec, sweep_training(24, seed=seed), pixels) for seed in range(seeds)]
    batch, epochs = plans[0].config.batch_size, -(-steps // plans[0].steps_per_epoch)
    order = [
        np.concatenate(
            [epoch_indices(len(pixels.images), batch, seed=seed, epoch=e) for e in range(epochs)]
        )
        for seed in range(seeds)
    ]
    return Setting(plans, Resident(pixels), to_device(pixels), order)


def milliseconds(step: Callable[[int], Any], steps: range) -> float:
    """The median time of a call."""
    times = []
    for number in steps:
        began = time.perf_counter()
        jax.block_until_ready(step(number))
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


class Alone:
    """One seed, trained by the step that `train` compiles."""

    def __init__(self, setting: Setting, seed: int):
        self.setting, self.seed = setting, seed
        self.state = start(setting.plans[seed])
        self.compiled = compile_step(setting.plans[0], self.state, setting.feed)

    def step(self, number: int) -> TrainState:
        """Train on the batch of this number."""
        indices = jnp.asarray(self.setting.order[self.seed][number])
        self.state, _, _ = self.compiled(
            self.state, self.setting.pixels, indices, np.int32(self.seed)
        )
        return self.state


class Together:
    """All seeds as one program."""

    def __init__(self, setting: Setting):
        self.setting = setting
        # One network's program serves every seed.
        plan = replace(setting.plans[0], config=replace(setting.plans[0].config, seed=0))
        pixels = setting.pixels

        def all_of(state: Any, indices: Any, seed: Any) -> Any:
            return jax.vmap(lambda s, i, n: train_step(plan, s, pixels, i, n))(state, indices, seed)

        self.state = jax.tree.map(lambda *x: jnp.stack(x), *map(start, setting.plans))
        self.numbers = jnp.arange(len(setting.plans), dtype=jnp.int32)
        self.compiled = compile_ahead(
            jax.jit(all_of, donate_argnums=0), self.state, self._rows(0), self.numbers
        )

    def step(self, number: int) -> TrainState:
        """Train every seed on its batch of this number."""
        self.state, _, _ = self.compiled(self.state, self._rows(number), self.numbers)
        return self.state

    def _rows(self, number: int) -> Any:
        return jnp.stack([jnp.asarray(each[number]) for each in self.setting.order])


def in_a_process(
    arguments: argparse.Namespace, seed: int, barrier: Any, times: "multiprocessing.Queue[float]"
) -> None:
    """Train one seed while others do, and tell the median time of a step."""
    steps = COMPARED_STEPS + arguments.steps
    alone = Alone(setting(arguments.seeds, arguments.image_size, steps), seed)
    jax.block_until_ready(alone.step(0))
    barrier.wait()
    times.put(milliseconds(alone.step, range(1, steps)))


def in_processes(arguments: argparse.Namespace) -> float:
    """Milliseconds in which every seed makes a step, in processes that share the device."""
    # Each takes its share of a GPU's memory; this process has not taken any yet.
    os.environ.setdefault(
        "XLA_PYTHON_CLIENT_MEM_FRACTION", f"{SHARED_MEMORY / arguments.seeds:.2f}"
    )
    spawn = multiprocessing.get_context("spawn")
    barrier, times = spawn.Barrier(arguments.seeds), spawn.Queue()
    workers = [
        spawn.Process(target=in_a_process, args=(arguments, seed, barrier, times))
        for seed in range(arguments.seeds)
    ]
    for worker in workers:
        worker.start()
    slowest = max(times.get(timeout=900) for _ in workers)
    for worker in workers:
        worker.join()
    return slowest


def main() -> None:
    """Time the three ways, and print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    shared_ms = in_processes(arguments)
    steps = COMPARED_STEPS + arguments.steps
    made = setting(arguments.seeds, arguments.image_size, steps)
    apart = [Alone(made, seed) for seed in range(arguments.seeds)]
    began = time.perf_counter()
    together = Together(made)
    compile_s = time.perf_counter() - began
    for step in range(COMPARED_STEPS):
        together.step(step)
        for each in apart:
            each.step(step)
    difference = max(
        float(jnp.abs(many[seed] - alone).max())
        for seed in range(arguments.seeds)
        for many, alone in zip(
            jax.tree.leaves(together.state.weights.params),
            jax.tree.leaves(apart[seed].state.weights.params),
            strict=True,
        )
    )
    timed = range(COMPARED_STEPS, steps)
    alone_ms = milliseconds(lambda step: [each.step(step) for each in apart], timed)
    together_ms = milliseconds(together.step, timed)
    spec = made.plans[0].spec
    result = {
        "what": f"a step of {arguments.seeds} seeds of the baseline at {spec.image_size} px",
        "one_by_one_ms": alone_ms,
        "one_program_ms": together_ms,
        "one_program_ratio": together_ms / alone_ms,
        "one_program_compile_s": compile_s,
        "one_program_largest_difference": difference,
        "processes_ms": shared_ms,
        "processes_ratio": shared_ms / alone_ms,
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
