"""The names of a run's figures, the same wherever they are logged, and the epochs of a run in them.

Of a trial of a sweep as a whole the names are those of the study's attributes, such as
`latency_ms_p50`.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from flaxyolo.config import TrainConfig
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.distill import Taught, weighted
from flaxyolo.training.plan import Plan, learning_rate

TRAIN = "train/"
VAL = "val/"
TOTAL = f"{TRAIN}loss"
"""The terms times their gains: what is made small."""
TERMS = {
    "box": f"{TRAIN}box_loss",
    "cls": f"{TRAIN}class_loss",
    "dfl": f"{TRAIN}dfl_loss",
    "taught_cls": f"{TRAIN}taught_class_loss",
    "taught_box": f"{TRAIN}taught_box_loss",
    "taught_features": f"{TRAIN}taught_feature_loss",
}
"""Mean over an epoch, before gains; the last three of a run with a teacher."""
VAL_LOSS = f"{VAL}loss"
RATE = "learning_rate"
"""Of the last step of an epoch."""
SPEED = "images_per_second"
"""Training images, without evaluation."""
SCORES = ("map", "mar")
"""What the names of COCO's numbers begin with."""


def epoch_metrics(
    epoch: int,
    known: Mapping[str, Any],
    seconds: float,
    spec: DetectorSpec,
    config: TrainConfig,
    images: int,
) -> dict[str, float]:
    """The figures of an epoch (from 1) that took so long, of so many training images.

    `known` has the terms of the loss, and any of COCO's twelve numbers by their own names; other
    entries, and numbers that are None, are left out.
    """
    terms = {name: float(known[name]) for name in TERMS if known.get(name) is not None}
    metrics = {TERMS[name]: value for name, value in terms.items()}
    if {"box", "cls", "dfl"} <= terms.keys():
        metrics[TOTAL] = total_loss(terms, config)
    for name, value in known.items():
        if name.startswith(SCORES) and value is not None:
            metrics[f"{VAL}{name}"] = float(value)
    metrics[RATE] = rate_after(epoch, spec, config, images)
    if seconds > 0:
        metrics[SPEED] = images / seconds
    return metrics


def total_loss(terms: Mapping[str, float], config: TrainConfig) -> float:
    """The terms of an epoch, times their gains."""
    own = (
        config.box_gain * terms["box"]
        + config.class_gain * terms["cls"]
        + config.dfl_gain * terms["dfl"]
    )
    if "taught_cls" not in terms:
        return own
    parts = (terms[name] for name in ("taught_cls", "taught_box", "taught_features"))
    taught = Taught(*map(jnp.float32, parts))
    return own + float(weighted(taught, config.distillation))


def rate_after(epoch: int, spec: DetectorSpec, config: TrainConfig, images: int) -> float:
    """The learning rate of the last step of an epoch (from 1)."""
    steps = math.ceil(images / config.batch_size)
    # The rate does not depend on box slots or on a number's width.
    rate: Any = learning_rate(Plan(spec, config, steps, slots=0, dtype=None))
    return float(rate(epoch * steps - 1))
