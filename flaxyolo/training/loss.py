"""The three terms of the training loss. Takes arrays; knows nothing of the model."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from flaxyolo.base.boxes import xyxy_to_ltrb
from flaxyolo.nn.head import Predictions
from flaxyolo.nn.mesh import summed_over_devices
from flaxyolo.training.assign import AssignConfig, Assignment, Objects, assign, ciou

LAST_BIN_MARGIN = 0.01
"""Targets stop this far (in strides) before the last bin, so that both bins exist."""


class LossTerms(NamedTuple):
    """Terms of the loss, before their gains; each divided by the sum of the target scores."""

    box: Float32[Array, ""]
    cls: Float32[Array, ""]
    dfl: Float32[Array, ""]


def detection_loss(
    predictions: Predictions,
    points: Float[Array, "a 2"],
    strides: Float[Array, " a"],
    objects: Objects,
    config: AssignConfig,
) -> LossTerms:
    """CIoU, classification and DFL loss against the task-aligned assignment.

    Boxes and points are in input pixels; `strides` are input pixels per cell of each point.
    One-to-one branches add their own loss, against the assignment with a single point for each
    object: same `alpha` and `beta`, so that both pairs agree on the best (arXiv 2405.14458).
    """
    first = pair_loss(predictions, points, strides, objects, config)
    if predictions.one_to_one is None:
        return first
    single = replace(config, topk=1)
    second = pair_loss(predictions.one_to_one, points, strides, objects, single)
    return jax.tree.map(jnp.add, first, second)


def pair_loss(
    predictions: Predictions,
    points: Float[Array, "a 2"],
    strides: Float[Array, " a"],
    objects: Objects,
    config: AssignConfig,
) -> LossTerms:
    """The loss of one pair of branches; no DFL where the boxes have no bins."""
    alone = predictions._replace(one_to_one=None)
    predictions = jax.tree.map(lambda part: part.astype(jnp.float32), alone)
    logits, boxes, distances = predictions[:3]
    targets = assign(predictions.scores, boxes, points, objects, config)
    weights = targets.scores.sum(-1)
    total = jnp.maximum(summed_over_devices(weights.sum()), 1)
    ltrb = xyxy_to_ltrb(targets.boxes, points[None]) / strides[None, :, None]
    return LossTerms(
        box=jnp.sum((1 - ciou(boxes, targets.boxes)) * weights) / total,
        cls=class_loss(logits, predictions.objectness, targets) / total,
        dfl=(
            jnp.sum(distribution_focal_loss(distances, ltrb).mean(-1) * weights) / total
            if distances.shape[-1] > 1
            else jnp.zeros((), jnp.float32)
        ),
    )


def class_loss(
    logits: Float32[Array, "b a k"], objectness: Float32[Array, "b a"] | None, targets: Assignment
) -> Float32[Array, ""]:
    """Sum of the cross-entropies of the classes against the aligned scores.

    With objectness, YOLOX's form (arXiv 2107.08430): classes on the positives alone, and the
    objectness of all points against who is positive.
    """
    classes = binary_cross_entropy(logits, targets.scores)
    if objectness is None:
        return jnp.sum(classes)
    positive = targets.positive.astype(jnp.float32)
    objects = jnp.sum(binary_cross_entropy(objectness, positive))
    return objects + jnp.sum(classes * positive[..., None])


def binary_cross_entropy(
    logits: Float[Array, "*n"], targets: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Cross-entropy of sigmoid(logits) against targets in 0..1."""
    return jax.nn.softplus(logits) - logits * targets


def distribution_focal_loss(
    logits: Float[Array, "*n r"], targets: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """DFL (arXiv 2006.04388): cross-entropy of the bins' softmax against the two nearest bins.

    `targets` are distances in strides; those outside the bins are moved to the nearest end.
    """
    reg_max = logits.shape[-1]
    targets = jnp.clip(targets, 0, reg_max - 1 - LAST_BIN_MARGIN)
    bins = jnp.arange(reg_max, dtype=logits.dtype).reshape((1,) * targets.ndim + (-1,))
    # The hat function is 1 - distance on the two bins around the target and 0 on all others.
    # It fuses with the sum, where picking the two logits would be a gather and its scatter back.
    weights = jnp.maximum(1 - jnp.abs(targets[..., None] - bins), 0)
    return jax.nn.logsumexp(logits, axis=-1) - jnp.sum(weights * logits, -1)
