"""What a candidate costs on this device, against its budget."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import memory_mib, tree_bytes
from flaxyolo.cost.measurement import Measurement
from flaxyolo.data.batches import DevicePixels
from flaxyolo.data.cache import Pixels
from flaxyolo.data.stream import batch_shapes
from flaxyolo.nn.detector import compute_dtype
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.loop import compile_step, start
from flaxyolo.training.plan import Plan, plan_run

NOMINAL_BOXES = 16
"""Boxes per image that the memory of training is taken for; four times as many with mosaic."""


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


def compile_nominal_step(
    spec: DetectorSpec, config: TrainConfig
) -> tuple[jax.stages.Compiled, int]:
    """The training step for a made-up data set of one batch, and the bytes of that data set."""
    plan, pixels = nominal_step(spec, config, compute_dtype())
    state = jax.eval_shape(lambda: start(plan))
    return compile_step(plan, state, pixels), tree_bytes(pixels)
