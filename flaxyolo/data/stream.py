"""Batches of data too large for the device or for memory, read through Grain by threads."""

import os
import shutil
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32, UInt8

from flaxyolo.base.files import cache_root
from flaxyolo.config import TrainConfig
from flaxyolo.data.augment import mosaic_sources
from flaxyolo.data.batches import EVERY_ROW, DevicePixels, Picked, epoch_indices, step_seed
from flaxyolo.data.cache import Pixels, load_square
from flaxyolo.data.sources import Example

SOURCES = 4
"""Images that one of a batch is made of, at most."""

DISK_SHARE = 0.5
"""Of the free room on the disk of the cache that one split may take."""


def fits_disk(count: int, image_size: int, cache_dir: Path | None = None) -> bool:
    """Whether that many letterboxed images may be kept in the cache."""
    needed = count * image_size**2 * 3
    return needed <= DISK_SHARE * shutil.disk_usage(cache_root(cache_dir)).free


class DecodedImages:
    """The images of a split, decoded and letterboxed whenever they are asked for.

    It stands where `Pixels.images` would hold an array of shape n s s 3.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, examples: tuple[Example, ...], size: int):
        self.examples, self.size = examples, size
        self.shape = (len(examples), size, size, 3)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, rows: Any) -> UInt8[np.ndarray, "..."]:
        chosen = np.arange(len(self.examples))[rows]
        images = [load_square(self.examples[row], self.size) for row in np.atleast_1d(chosen)]
        stacked = np.stack(images) if images else np.zeros((0, *self.shape[1:]), np.uint8)
        return stacked if np.ndim(chosen) else stacked[0]


def places(count: int) -> Int32[np.ndarray, "count 4"]:
    """Where in a streamed batch of `count` images the sources of each lie."""
    return np.arange(SOURCES * count, dtype=np.int32).reshape(count, SOURCES)


def streamed_batches(
    pixels: Pixels, config: TrainConfig, first_epoch: int, rows: slice = EVERY_ROW
) -> Iterator[Picked]:
    """These rows of the batches of all epochs from `first_epoch` on, the same as those of data on
    the device.

    Every batch depends on its number alone, so the stream goes on anywhere exactly.
    """
    import grain

    # One image a thread: OpenCV's own threads would only compete.
    cv2.setNumThreads(0)
    cores = os.cpu_count() or 1
    source = _Steps(pixels, config, rows)
    steps = grain.MapDataset.source(source)[first_epoch * source.steps :]
    options = grain.ReadOptions(num_threads=cores, prefetch_buffer_size=2 * cores)
    yield from steps.to_iter_dataset(options)


class _Steps:
    """Every batch of a run by its number, as Grain's threads ask for it."""

    def __init__(self, pixels: Pixels, config: TrainConfig, rows: slice):
        self.pixels, self.config, self.rows = pixels, config, rows
        self.count = len(pixels.images)
        self.steps = -(-self.count // config.batch_size)
        # Threads are at most in two epochs at a time.
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        return self.steps * self.config.epochs

    def __getitem__(self, index: int) -> Picked:
        epoch, step = divmod(int(index), self.steps)
        order, sources = self.epoch(epoch)
        rows = sources[step].reshape(-1)
        # Equal neighbours (an image without mosaic) are read once.
        read, back = np.unique(rows, return_inverse=True)
        images = np.asarray(self.pixels.images[read])[back]
        arrays: list[Any] = [images, *(np.asarray(field[rows]) for field in self.pixels[1:])]
        return Picked(DevicePixels(*arrays), order[step], step_seed(self.config.seed))

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        config = self.config
        whole = epoch_indices(self.count, config.batch_size, seed=config.seed, epoch=epoch)
        order = whole[:, self.rows]
        mosaic = epoch < config.epochs - config.augmentation.close_mosaic_epochs
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            sources = _sources(
                jnp.asarray(order.reshape(-1)),
                config.seed,
                epoch,
                self.count,
                config.augmentation.mosaic,
                mosaic,
            )
        return order, np.asarray(sources).reshape(*order.shape, SOURCES)


@partial(jax.jit, static_argnames=("count", "share"))
def _sources(indices: Any, seed: Any, epoch: Any, count: int, share: float, mosaic: Any) -> Any:
    epoch_key = jax.random.fold_in(jax.random.key(seed), epoch)
    return mosaic_sources(indices, epoch_key, count, share, mosaic)
