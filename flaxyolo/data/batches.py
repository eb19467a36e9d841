"""Batches of a fixed shape, and epochs as arrays of image indices."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data.augment import DevicePixels, augment
from flaxyolo.data.cache import Pixels

SLOT_MULTIPLE = 16
SIMULATED_MOSAICS = 20_000
EVERY_ROW = slice(None)
"""Of a batch that no other process has a part of."""


class Batch(NamedTuple):
    """Images with their boxes, as one training step sees them; `g` slots, padded."""

    images: Float32[Array, "b s s 3"]
    """RGB in 0..1."""
    boxes: Float32[Array, "b g 4"]
    """xyxy in input pixels."""
    labels: Int32[Array, "b g"]
    valid: Bool[Array, "b g"]
    dropped: Int32[Array, ""]
    """Boxes of the whole batch that found no slot."""


class Picked(NamedTuple):
    """What a step is given: pixels that hold its images, the indices of those in the data, a seed.

    The seed is no constant of the step, so runs that differ in it alone share one program.
    """

    pixels: DevicePixels
    indices: Int32[Array, " b"] | np.ndarray
    seed: Int32[Array, ""] | np.ndarray


def step_seed(seed: int) -> Int32[np.ndarray, ""]:
    """A run's seed as its steps take it: the low 32 bits, which is what a key is made of."""
    return np.asarray(seed & 0xFFFFFFFF, np.uint32).astype(np.int32)


def to_device(pixels: Pixels, sharding: jax.sharding.Sharding | None = None) -> DevicePixels:
    """Copy a split to the device (or devices), where the training step picks from it."""
    if sharding is not None and not sharding.is_fully_addressable:
        # Devices of other processes, which bring the same split to them.
        return DevicePixels(*(
            jax.make_array_from_process_local_data(sharding, np.asarray(field), field.shape)
            for field in pixels
        ))  # fmt: skip
    arrays = DevicePixels(*(jnp.asarray(np.asarray(field)) for field in pixels))
    return arrays if sharding is None else jax.device_put(arrays, sharding)


def resident_batches(
    pixels: DevicePixels, config: TrainConfig, first_epoch: int, rows: slice = EVERY_ROW
) -> Iterator[Picked]:
    """These rows of the batches of all epochs from `first_epoch` on, of data on the device."""
    seed = step_seed(config.seed)
    for epoch in range(first_epoch, config.epochs):
        order = epoch_indices(len(pixels.images), config.batch_size, seed=config.seed, epoch=epoch)
        for indices in order[:, rows]:
            yield Picked(pixels, jnp.asarray(indices), seed)


def box_slots(pixels: Pixels, mosaic: bool) -> int:
    """Boxes that an image of a batch has room for, a multiple of 16.

    Without mosaic the largest count of one image. With it, the largest sum of four among 20,000
    mosaics drawn from these counts; the rare one beyond it loses its last boxes, which
    `Batch.dropped` counts.
    """
    counts = np.asarray(pixels.valid).sum(1)
    needed = int(counts.max(initial=0))
    if mosaic and len(counts):
        drawn = np.random.default_rng(0).choice(counts, (SIMULATED_MOSAICS, 4))
        needed = max(needed, int(drawn.sum(1).max()))
    return max(1, -(-needed // SLOT_MULTIPLE)) * SLOT_MULTIPLE


def epoch_indices(count: int, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order of one epoch: int32 (steps, batch_size), every image once.

    The last batch is filled up from the start of the same order.
    """
    order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
    steps = -(-count // batch_size)
    return np.resize(order, (steps, batch_size))


def make_batch(
    pixels: DevicePixels,
    indices: Int[Array, " b"],
    *,
    seed: Int[Array, ""] | int,
    epoch: Int[Array, ""] | int,
    config: Augmentation,
    mosaic: Bool[Array, ""] | bool,
    slots: int,
    sources: Int[Array, "b 4"] | None = None,
) -> Batch:
    """Augment the images `indices`; each depends on (seed, epoch, its index) alone.

    `mosaic` switches the mosaic for the epoch; `config.mosaic` is its share while it is on. Of a
    stream, `pixels` holds only what the batch reads, at the places that `sources` names.
    """
    epoch_key = jax.random.fold_in(jax.random.key(seed), epoch)
    made = augment(pixels, indices, epoch_key, config, jnp.asarray(mosaic), slots, sources)
    return Batch(made.images, made.boxes, made.labels, made.valid, made.dropped.sum())


def plain_batch(pixels: DevicePixels, indices: Int[Array, " b"], *, slots: int) -> Batch:
    """The images `indices` as they are; valid boxes come first, those beyond `slots` count."""
    valid = pixels.valid[indices]
    order = jnp.argsort(~valid, axis=1, stable=True)[:, :slots]
    order = jnp.pad(order, ((0, 0), (0, slots - order.shape[1])))
    found = valid.sum(1)
    kept = jnp.arange(slots)[None] < found[:, None]
    boxes = jnp.take_along_axis(pixels.boxes[indices], order[..., None], 1)
    labels = jnp.take_along_axis(pixels.labels[indices], order, 1)
    return Batch(
        images=pixels.images[indices].astype(jnp.float32) * (1 / 255),
        boxes=jnp.where(kept[..., None], boxes, 0),
        labels=jnp.where(kept, labels, 0),
        valid=kept,
        dropped=jnp.maximum(found - slots, 0).sum(dtype=jnp.int32),
    )
