"""The static facts of a training run: steps, box slots, optimizer and learning rate."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import box_slots
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.detector import compute_dtype
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.distill import Lesson
from flaxyolo.training.vectors import scale_by_adam

SHORT_RUN_STEPS = 10_000
"""Runs of at most this many steps use AdamW when the optimizer is `auto`."""


@dataclass(frozen=True)
class Plan:
    """The static facts of a run; one compiled step belongs to each."""

    spec: DetectorSpec
    config: TrainConfig
    steps_per_epoch: int
    slots: int
    dtype: Any
    lesson: Lesson | None = None
    """What is learnt of a teacher; None without one."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs


def plan_run(
    spec: DetectorSpec, config: TrainConfig, pixels: Pixels, lesson: Lesson | None = None
) -> Plan:
    """The plan of a run on these images."""
    steps = math.ceil(len(pixels.images) / config.batch_size)
    slots = box_slots(pixels, config.augmentation.mosaic > 0)
    return Plan(spec, config, steps, slots, compute_dtype(), lesson)


def learning_rate(plan: Plan) -> optax.Schedule:
    """Warm-up, stable, linear decay: a run can go on from any point of the stable part."""
    config = plan.config
    peak = config.learning_rate or (
        0.002 * 5 / (4 + plan.spec.num_classes) if uses_adamw(plan) else 0.01
    )
    total = plan.total_steps
    warmup = min(config.warmup_epochs * plan.steps_per_epoch, total / 3)
    decay = config.decay_share * total

    def rate(step: Any) -> Any:
        rising = (step + 1) / max(warmup, 1)
        falling = 1 - (1 - config.final_rate) * (step - (total - decay)) / max(decay, 1)
        return peak * jnp.minimum(jnp.minimum(rising, 1.0), falling)

    return rate


def uses_adamw(plan: Plan) -> bool:
    """Whether this run uses AdamW."""
    if plan.config.optimizer == "auto":
        return plan.total_steps <= SHORT_RUN_STEPS
    return plan.config.optimizer == "adamw"


def make_optimizer(plan: Plan) -> optax.GradientTransformation:
    """Clipped AdamW, or clipped SGD with Nesterov momentum; decay on kernels only."""
    config = plan.config
    rate = learning_rate(plan)

    def kernels(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    if uses_adamw(plan):
        return optax.chain(
            scale_by_adam(config.clip_norm),
            optax.add_decayed_weights(config.weight_decay, kernels),
            optax.scale_by_learning_rate(rate),
        )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.add_decayed_weights(config.weight_decay * config.batch_size / 64, kernels),
        optax.sgd(rate, momentum=config.momentum, nesterov=True),
    )
