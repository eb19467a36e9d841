"""What a candidate costs on this device, against its budget."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import LIMITS, Budget, Measurement, measure, memory_mib, tree_bytes
from flaxyolo.data.batches import DevicePixels
from flaxyolo.data.cache import Pixels
from flaxyolo.data.stream import batch_shapes
from flaxyolo.machine.child import run_module
from flaxyolo.nn.detector import Weights
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.loop import compile_step, start
from flaxyolo.training.plan import Plan, plan_run

BORDER = 0.4
"""Share of the budget beyond it within which a latency is measured once more."""
ATTEMPTS = 2
TRAINED_ATTEMPTS = 4
FRESH_SECONDS = 900.0
"""Time of a measurement in a process of its own, its compiling included."""
NOMINAL_BOXES = 16
"""Boxes per image that the memory of training is taken for; four times as many with mosaic."""


def measure_for(
    budget: Budget,
    spec: DetectorSpec,
    images: np.ndarray,
    weights: Weights | None,
    *,
    trained: bool = False,
) -> Measurement:
    """The cost; over the latency budget the quietest of several measurements.

    What else runs on a machine can only add to a latency, so the lowest is nearest the truth. A
    fresh candidate far over the budget is not worth a second look; one whose training is already
    paid for is.
    """
    attempt = partial(measure, spec, weights=weights, images=images)
    return _quietest(budget, attempt, trained)


def measure_in_fresh_process(
    folder: Path,
    images: UInt8[np.ndarray, "n s s 3"],
    budget: Budget,
    *,
    timeout: float = FRESH_SECONDS,
) -> Measurement:
    """`measure_for` of a trained detector's folder, each measurement in a process of its own.

    The memory of training is not in it. InputError where a process fails, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="flaxyolo-") as scratch:
        shown = Path(scratch) / "images.npy"
        np.save(shown, images)

        def attempt() -> Measurement:
            printed = run_module(
                "flaxyolo.measure",
                *(str(folder), "--json", "--no-training", "--images", str(shown)),
                what=f"{folder}: measuring again",
                # Beside a process that has its own share of an accelerator's memory.
                environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
                timeout=timeout,
            )
            return Measurement.from_dict(json.loads(printed), f"{folder}: measured again")

        return _quietest(budget, attempt, trained=True)


def _quietest(budget: Budget, attempt: Callable[[], Measurement], trained: bool) -> Measurement:
    cost = attempt()
    for _ in range((TRAINED_ATTEMPTS if trained else ATTEMPTS) - 1):
        excess = budget.excess(cost).get("latency_ms", 0)
        if excess <= 0 or (excess > BORDER and not trained):
            break
        cost = min(cost, attempt(), key=budget.latency_of)
    return cost


def with_training_memory(
    cost: Measurement,
    spec: DetectorSpec,
    config: TrainConfig,
    pixels: Pixels,
    streamed: bool = False,
) -> Measurement:
    """The cost with the memory of one training step, beside the data set, from its program."""
    plan = plan_run(spec, config, pixels)
    shapes: list[Any] = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in pixels]
    resident = batch_shapes(pixels, config.batch_size) if streamed else DevicePixels(*shapes)
    state = start(plan)
    step = compile_step(plan, jax.eval_shape(lambda: state), resident, streamed=streamed)
    # What a stream holds of the data belongs to the step.
    memory = memory_mib(step) - (0 if streamed else tree_bytes(resident) / 2**20)
    return replace(cost, train_vram_mib=memory, train_batch_size=config.batch_size)


def keep_memory(cost: Measurement, known: Measurement) -> Measurement:
    """A new measurement with what compiling had told: training's memory, and a target's."""
    kept = replace(
        cost,
        train_vram_mib=known.train_vram_mib,
        train_batch_size=known.train_batch_size,
        memory_device=known.memory_device,
    )
    return kept if known.memory_device is None else replace(kept, vram_mib=known.vram_mib)


def nominal_step(spec: DetectorSpec, config: TrainConfig, dtype: Any) -> tuple[Plan, DevicePixels]:
    """The plan of a run on a made-up data set of one batch, and the shapes of that data set."""
    count, size = config.batch_size, spec.image_size
    slots = NOMINAL_BOXES * (4 if config.augmentation.mosaic > 0 else 1)
    plan = Plan(spec, config, steps_per_epoch=100, slots=slots, dtype=dtype)
    pixels = jax.eval_shape(
        lambda: DevicePixels(
            images=jnp.zeros((count, size, size, 3), jnp.uint8),
            boxes=jnp.zeros((count, NOMINAL_BOXES, 4)),
            labels=jnp.zeros((count, NOMINAL_BOXES), jnp.int32),
            valid=jnp.zeros((count, NOMINAL_BOXES), bool),
            content=jnp.zeros((count, 4)),
        )
    )
    return plan, pixels


def cheap_excess(budget: Budget, params: int, gflops: float) -> dict[str, float]:
    """`Budget.excess` of what is known without measuring or compiling."""
    return budget.shares({"params": float(params), "gflops": gflops})


def overrun(budget: Budget, cost: Measurement) -> str:
    """By how much each limit is overstepped, such as `over budget by 1.30 ms and 4.0 MiB`."""
    return _told(budget, budget.known(cost))


def cheap_overrun(budget: Budget, params: int, gflops: float) -> str:
    """`overrun` of what is known without measuring or compiling."""
    return _told(budget, {"params": float(params), "gflops": gflops})


def _told(budget: Budget, values: Mapping[str, float]) -> str:
    parts = []
    for name, limit in budget.limits.items():
        if name not in values or values[name] <= limit:
            continue
        size, unit, decimals = LIMITS[name]
        over = (values[name] - limit) / size
        # Never `0.00 ms`.
        form = f".{decimals}f" if over >= 0.5 * 10**-decimals else ".1g"
        parts.append(f"{over:{form}} {unit}")
    if not parts:
        return "inside the budget"
    *most, last = parts
    return f"over budget by {', '.join(most)} and {last}" if most else f"over budget by {last}"
