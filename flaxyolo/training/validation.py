"""The training loss on validation images: smooth where average precision is still 0."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.boxes import anchor_points
from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import epoch_indices
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.head import Predictions
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.assign import AssignConfig, Objects
from flaxyolo.training.loss import LossTerms, detection_loss

MOST_IMAGES = 500
"""Images that are taken, from first to last: they give a mean over many more to 2 % or so."""


def validation_loss(
    network: Callable[[UInt8[np.ndarray, "1 s s 3"]], Predictions],
    spec: DetectorSpec,
    pixels: Pixels,
    config: TrainConfig,
) -> float:
    """Mean loss of batches of images as they are, its terms weighted as in training.

    `network` is the folded one of `spec`, which runs on one image: a program that whoever measures
    a latency has already, where the network as it is trained would have to be compiled. So batch
    statistics are the running ones, nothing is dropped, and of two pairs of branches the
    one-to-one pair counts, which is the one that detects, with its own assignment.
    """
    count = len(pixels.images)
    rows = np.linspace(0, count - 1, min(MOST_IMAGES, count)).round().astype(int)
    batches = rows[epoch_indices(len(rows), config.batch_size, seed=0, epoch=0)]
    topk = 1 if spec.head.one_to_one else config.tal_topk
    assignment = AssignConfig(topk, config.tal_alpha, config.tal_beta)
    losses = []
    for picked in batches:
        images = np.asarray(pixels.images[picked])
        predictions = tuple(network(image[None]) for image in images)
        objects = Objects(*(jnp.asarray(field[picked]) for field in pixels[1:4]))
        terms = batch_loss(predictions, objects, spec.image_size, spec.strides, assignment)
        losses.append(weighted_sum(terms, config))
    return float(np.mean(losses))


def weighted_sum(terms: LossTerms, config: TrainConfig) -> float:
    """The terms of a loss, times their gains."""
    box, cls, dfl = map(float, terms)
    return config.box_gain * box + config.class_gain * cls + config.dfl_gain * dfl


@partial(jax.jit, static_argnames=("image_size", "strides", "config"))
def batch_loss(
    predictions: tuple[Predictions, ...],
    objects: Objects,
    image_size: int,
    strides: tuple[int, ...],
    config: AssignConfig,
) -> LossTerms:
    """The loss of one pair of branches; `predictions` are those of one image each.

    Networks of the same size, levels and form of boxes share this program.
    """
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *predictions)
    points, of_points = anchor_points(image_size, strides)
    return detection_loss(together, jnp.asarray(points), jnp.asarray(of_points), objects, config)
