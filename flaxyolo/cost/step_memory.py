"""What a candidate costs on this device, against its budget."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import memory_mib
from flaxyolo.cost.measurement import Measurement
from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import Feed, Resident
from flaxyolo.machine.memory import MIB
from flaxyolo.nn.detector import compute_dtype
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.plan import Plan, plan_run
from flaxyolo.training.step import compile_step, start

NOMINAL_BOXES = 16
"""Boxes per image that the memory of training is taken for; four times as many with mosaic."""


def with_training_memory(
    cost: Measurement, spec: DetectorSpec, config: TrainConfig, feed: Feed
) -> Measurement:
    """The cost with the memory of one training step, beside the data set, from its program."""
    plan = plan_run(spec, config, feed.pixels)
    step = compile_step(plan, jax.eval_shape(lambda: start(plan)), feed)
    memory = memory_mib(step) - feed.device_bytes / MIB
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


def nominal_step(spec: DetectorSpec, config: TrainConfig, dtype: Any) -> tuple[Plan, Resident]:
    """The plan of a run on a made-up data set of one batch, and that data set."""
    count, size = config.batch_size, spec.image_size
    slots = NOMINAL_BOXES * (4 if config.augmentation.mosaic > 0 else 1)
    plan = Plan(spec, config, steps_per_epoch=100, slots=slots, dtype=dtype)
    pixels = Pixels(
        images=np.zeros((count, size, size, 3), np.uint8),
        boxes=np.zeros((count, NOMINAL_BOXES, 4), np.float32),
        labels=np.zeros((count, NOMINAL_BOXES), np.int32),
        valid=np.zeros((count, NOMINAL_BOXES), bool),
        content=np.zeros((count, 4), np.float32),
    )
    return plan, Resident(pixels)


def compile_nominal_step(
    spec: DetectorSpec, config: TrainConfig
) -> tuple[jax.stages.Compiled, int]:
    """The training step for a made-up data set of one batch, and the bytes of that data set."""
    plan, feed = nominal_step(spec, config, compute_dtype())
    step = compile_step(plan, jax.eval_shape(lambda: start(plan)), feed)
    return step, feed.device_bytes
