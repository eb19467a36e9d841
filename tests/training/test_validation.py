"""The validation loss against the training's own loss of the same images."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.boxes import anchor_points
from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import compiled_network
from flaxyolo.data.batches import box_slots, epoch_indices, plain_batch, to_device
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.detector import Weights, fuse, initial_weights, predict
from flaxyolo.training.assign import AssignConfig, Objects
from flaxyolo.training.loss import LossTerms, detection_loss
from flaxyolo.training.validation import MOST_IMAGES, validation_loss, weighted_sum
from tests.small import tiny_spec

CONFIG = TrainConfig(batch_size=4)


def pixels_of(count, size=64, slots=3):
    """Noise with up to three boxes an image; in one image none, in one with a gap before it."""
    random = np.random.default_rng(0)
    corners = random.uniform(0, size - 30, (count, slots, 2))
    boxes = np.concatenate([corners, corners + random.uniform(8, 30, (count, slots, 2))], -1)
    valid = np.arange(slots) < random.integers(1, slots + 1, count)[:, None]
    valid[0], valid[1] = False, [False, True, True]
    return Pixels(
        images=random.integers(0, 256, (count, size, size, 3)).astype(np.uint8),
        boxes=np.where(valid[..., None], boxes, 0).astype(np.float32),
        labels=np.where(valid, random.integers(0, 2, (count, slots)), 0).astype(np.int32),
        valid=valid,
        content=np.tile(np.float32([0, 0, size, size]), (count, 1)),
    )


def trained_weights(spec):
    """Weights whose running statistics are not those of the start."""
    weights = initial_weights(spec, 0)
    stats = jax.tree.map(lambda x: x + 0.1 * jnp.arange(x.size).reshape(x.shape) / x.size,
                         weights.stats)  # fmt: skip
    return Weights(weights.params, stats)


def by_training(spec, weights, pixels, topk):
    """The mean of the training's loss over batches as they are, with running statistics."""
    points, strides = map(jnp.asarray, anchor_points(spec.image_size, spec.strides))
    config = AssignConfig(topk, CONFIG.tal_alpha, CONFIG.tal_beta)
    device, slots = to_device(pixels), box_slots(pixels, mosaic=False)
    losses = []
    for indices in epoch_indices(len(pixels.images), 4, seed=0, epoch=0):
        batch = plain_batch(device, jnp.asarray(indices), slots=slots)
        predictions = predict(spec, weights, batch.images, jnp.float32)
        if predictions.one_to_one is not None:
            predictions = predictions.one_to_one
        objects = Objects(batch.boxes, batch.labels, batch.valid)
        losses.append(
            weighted_sum(detection_loss(predictions, points, strides, objects, config), CONFIG)
        )
    return np.mean(losses)


def spec_of(**head):
    spec = tiny_spec(image_size=64)
    return replace(spec, num_classes=2, head=replace(spec.head, **head))


@pytest.mark.parametrize(
    ("head", "topk"),
    [({}, CONFIG.tal_topk), ({"objectness": True}, CONFIG.tal_topk), ({"one_to_one": True}, 1)],
)
def test_it_is_the_trainings_loss_of_the_pair_that_detects(head, topk):
    spec, pixels = spec_of(**head), pixels_of(6)
    weights = trained_weights(spec)
    network = partial(compiled_network(spec), fuse(spec, weights))
    loss = validation_loss(network, spec, pixels, CONFIG)
    assert loss == pytest.approx(by_training(spec, weights, pixels, topk), rel=1e-4)
    assert loss != pytest.approx(by_training(spec, weights, pixels, 11 - topk), rel=1e-3)


def test_the_terms_have_their_gains():
    config = TrainConfig(box_gain=2.0, class_gain=3.0, dfl_gain=5.0)
    terms = LossTerms(jnp.float32(1), jnp.float32(10), jnp.float32(100))
    assert weighted_sum(terms, config) == 2 + 30 + 500


def test_of_many_images_some_from_first_to_last_are_taken():
    spec, count = spec_of(), 2 * MOST_IMAGES
    pixels = Pixels(
        *(np.tile(field, (count // 2, *[1] * (field.ndim - 1))) for field in pixels_of(2))
    )
    numbered = np.zeros((count, 64, 64, 3), np.uint8)
    numbered[:, 0, 0, 0], numbered[:, 0, 0, 1] = np.divmod(np.arange(count), 256)
    network = partial(compiled_network(spec), fuse(spec, initial_weights(spec, 0)))
    seen = []

    def noted(image):
        seen.append(int(image[0, 0, 0, 0]) * 256 + int(image[0, 0, 0, 1]))
        return network(image)

    validation_loss(noted, spec, pixels._replace(images=numbered), CONFIG)
    assert len(set(seen)) == MOST_IMAGES
    assert (min(seen), max(seen)) == (0, count - 1)
