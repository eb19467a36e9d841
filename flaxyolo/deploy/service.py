"""A detector that answers many callers: images are decoded in threads and detected in together."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import jax
import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.deploy.uploads import Prepared
from flaxyolo.nn.detector import TrainedDetector, detect_batches

MOST_DECODERS = 4
MOST_AT_ONCE = 256
"""Requests that are read, decoded or waiting; more are asked to come again."""


@dataclass(frozen=True)
class Limits:
    """What a server takes, and how long it waits."""

    max_bytes: int = 20_000_000
    """Of an image file."""
    max_pixels: int = 50_000_000
    """Of an image."""
    batch: int = 8
    """Most images that are detected in together."""
    wait: float = 0.005
    """Seconds that an image waits for others that are on their way."""
    min_score: float = 0.25
    """Least score of a detection, where the client names none."""


@dataclass
class Counts:
    """Images since the start."""

    answered: int = 0
    refused: int = 0
    """Too large, broken, or none: what a client can mend."""
    cancelled: int = 0
    """Whose client left before the answer."""
    failed: int = 0
    """A fault of the server."""


@dataclass(frozen=True, eq=False)
class Service:
    """A detector with its limits, its threads and what it has done."""

    detector: TrainedDetector
    model: str
    """Name that clients are told."""
    limits: Limits = field(default_factory=Limits)
    counts: Counts = field(default_factory=Counts)
    decoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(
            min(MOST_DECODERS, os.cpu_count() or 1), thread_name_prefix="decode"
        )
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images in a batch that a program is compiled for: powers of two, and the most."""
        most = self.limits.batch
        return (*(1 << power for power in range((most - 1).bit_length())), most)

    def compile(self) -> Iterator[int]:
        """Compile and run each of `sizes` once; each is given when it is ready."""
        size = self.detector.spec.image_size
        black = Prepared(np.zeros((size, size, 3), np.uint8), size, size)
        for count in self.sizes:
            self.detect([black] * count)
            yield count

    def detect(self, images: Sequence[Prepared]) -> list[Detections]:
        """What is found in each, from the lowest score on that the network gives, best first."""
        found: list[Detections] = []
        fill = jax.default_backend() != "cpu"
        for size in shares(len(images), self.sizes, fill=fill):
            part = images[len(found) : len(found) + size]
            squares = np.stack([one.square for one in part])
            shapes = [(one.height, one.width) for one in part]
            found += detect_batches(self.detector, [(squares, shapes)], size)
        return found


def shares(count: int, sizes: Sequence[int], *, fill: bool) -> list[int]:
    """Batches of these sizes for so many images, in order.

    With `fill` the last may be too large, as a call of an accelerator costs more than black images
    in it. On a CPU each black image would cost as much as another.
    """
    left, chosen = count, []
    while left > 0:
        whole = max(size for size in sizes if size <= left)
        size = min((size for size in sizes if size >= left), default=whole) if fill else whole
        chosen.append(size)
        left -= size
    return chosen
