"""What a network is trained on: a split that lies on the device whole, or a stream of batches."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import (
    EVERY_ROW,
    DevicePixels,
    Picked,
    resident_batches,
    to_device,
)
from flaxyolo.data.cache import Pixels, annotation_arrays, is_cached, load_pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.data.stream import SOURCES, DecodedImages, fits_disk, places, streamed_batches
from flaxyolo.machine.memory import MIB, available_mib

log = logging.getLogger(__name__)

Keep = Literal["auto", "device", "cache", "files"]
"""Where images wait to be trained on: in the device's memory, in the cache of letterboxed pixels on
the disk, or as the files they are; `auto` takes the first that has room."""

DEVICE_SHARE = 0.5
"""Of the device's memory (on a CPU, of what is free of the machine's) that the images may take."""


@dataclass(frozen=True, eq=False)
class Resident:
    """A split that lies on the device whole, where each step picks its images."""

    pixels: Pixels
    parted: ClassVar[bool] = False
    """Whether devices that share a step part its pixels; each has all of them otherwise."""

    @property
    def device_bytes(self) -> int:
        """Bytes that the data take on the device beside a step."""
        return sum(prod(field.shape) * field.dtype.itemsize for field in self.pixels)

    def shapes(self, batch_size: int) -> DevicePixels:
        """Shapes of the pixels that a step is given: those of the whole split."""
        return _shapes(self.pixels, len(self.pixels.images))

    def batches(
        self,
        config: TrainConfig,
        first_epoch: int,
        whole: jax.sharding.Sharding | None = None,
        rows: slice = EVERY_ROW,
    ) -> Iterator[Picked]:
        """These `rows` of the batches of all epochs from `first_epoch` on; the split is copied to
        `whole` now."""
        return resident_batches(to_device(self.pixels, whole), config, first_epoch, rows)

    @staticmethod
    def sources(count: int) -> None:
        """None: a step that has the whole split draws the sources of its images itself."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """A split that is read batch by batch from where it is; the weights are those of `Resident`."""

    pixels: Pixels
    parted: ClassVar[bool] = True
    """Whether devices that share a step part its pixels; each has all of them otherwise."""
    device_bytes: ClassVar[int] = 0
    """Bytes that the data take on the device beside a step: none, a step holds what it reads."""

    def shapes(self, batch_size: int) -> DevicePixels:
        """Shapes of the pixels that a step is given: those that one batch is made of."""
        return _shapes(self.pixels, SOURCES * batch_size)

    def batches(
        self,
        config: TrainConfig,
        first_epoch: int,
        whole: jax.sharding.Sharding | None = None,
        rows: slice = EVERY_ROW,
    ) -> Iterator[Picked]:
        """These `rows` of the batches of all epochs from `first_epoch` on: no others are read, and
        nothing of them lies on `whole`."""
        return streamed_batches(self.pixels, config, first_epoch, rows)

    @staticmethod
    def sources(count: int) -> Int32[Array, "count 4"]:
        """Where in the pixels of a batch of `count` images the sources of each lie."""
        return jnp.asarray(places(count))


Feed = Resident | Streamed


def open_pixels(
    dataset: Dataset,
    split: Literal["train", "val"],
    image_size: int,
    *,
    keep: Keep = "auto",
    cache_dir: Path | None = None,
) -> Pixels:
    """The pixels of a split: those of the cache, or, for `files`, images decoded when needed.

    `auto` is `files` where the split is not cached yet and would take more than half of the disk's
    free room.
    """
    examples = dataset.train if split == "train" else dataset.val
    if keep == "files" or (
        keep == "auto"
        and not is_cached(dataset, split, image_size, cache_dir=cache_dir)
        and not fits_disk(len(examples), image_size, cache_dir)
    ):
        images: Any = DecodedImages(examples, image_size)
        return Pixels(images, **annotation_arrays(examples, image_size))
    return load_pixels(dataset, split, image_size, cache_dir=cache_dir)


def open_feed(
    dataset: Dataset,
    split: Literal["train", "val"],
    image_size: int,
    *,
    keep: Keep = "auto",
    cache_dir: Path | None = None,
) -> Feed:
    """A split to train on, its pixels as of `open_pixels`.

    `auto` streams what is decoded when needed, or would take more than half of the device's memory.
    """
    pixels = open_pixels(dataset, split, image_size, keep=keep, cache_dir=cache_dir)
    resident = Resident(pixels)
    if keep == "auto":
        room, _ = available_mib()
        decoded = isinstance(pixels.images, DecodedImages)
        if decoded or resident.device_bytes > DEVICE_SHARE * room * MIB:
            log.info("the images do not fit into the device's memory: they are streamed")
            return Streamed(pixels)
        return resident
    return resident if keep == "device" else Streamed(pixels)


def _shapes(pixels: Pixels, rows: int) -> DevicePixels:
    shapes: list[Any] = [
        jax.ShapeDtypeStruct((rows, *field.shape[1:]), field.dtype) for field in pixels
    ]
    return DevicePixels(*shapes)
