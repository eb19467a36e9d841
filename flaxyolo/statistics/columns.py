"""The boxes of a split in columns, and how a quantity over them is summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Num

from flaxyolo.data.sources import Example


class Columns(NamedTuple):
    """All boxes of a split, without crowd boxes, and the sizes of its images."""

    heights: Int64[np.ndarray, " i"]
    widths: Int64[np.ndarray, " i"]
    image: Int64[np.ndarray, " n"]
    """Index of each box's image; it rises."""
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy in pixels of the original image."""
    labels: Int64[np.ndarray, " n"]
    areas: Float64[np.ndarray, " n"]
    """As annotated, in square pixels."""
    crowd_boxes: int
    """Left out."""

    @property
    def boxes_per_image(self) -> Int64[np.ndarray, " i"]:
        """How many boxes each image has."""
        return np.bincount(self.image, minlength=len(self.heights))

    @property
    def longest_sides(self) -> Int64[np.ndarray, " i"]:
        """Of the images, in pixels."""
        return np.maximum(self.heights, self.widths)


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; the first and last bin also hold what lies beyond them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Quantiles:
    """How a quantity is spread."""

    mean: float
    min: float
    p5: float
    p50: float
    p95: float
    p99: float
    max: float

    def over(self, unit: int | float) -> "Quantiles":
        """The same in another unit."""
        return Quantiles(*(value / unit for value in vars(self).values()))


def columns_of(examples: Sequence[Example]) -> Columns:
    """Gather the boxes of a split."""
    counts = np.array([len(example.labels) for example in examples], np.int64)
    crowd = _joined([example.crowd for example in examples], bool)
    kept = ~crowd
    return Columns(
        heights=np.array([example.height for example in examples], np.int64),
        widths=np.array([example.width for example in examples], np.int64),
        image=np.repeat(np.arange(len(examples)), counts)[kept],
        boxes=_joined([example.boxes for example in examples], np.float32).reshape(-1, 4)[kept],
        labels=_joined([example.labels for example in examples], np.int64)[kept],
        areas=_joined([example.areas for example in examples], np.float64)[kept],
        crowd_boxes=int(crowd.sum()),
    )


def histogram(values: Num[np.ndarray, " n"], edges: Num[np.ndarray, " e"]) -> Histogram:
    """How many values lie between two edges; a value on an edge belongs to the bin above it."""
    place = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(np.clip(place, 0, len(edges) - 2), minlength=len(edges) - 1)
    return Histogram(tuple(map(float, edges)), tuple(map(int, counts)))


def quantiles(values: Num[np.ndarray, " n"]) -> Quantiles | None:
    """None where there are no values."""
    if not len(values):
        return None
    values = np.asarray(values, np.float64)
    at = np.quantile(values, (0, 0.05, 0.5, 0.95, 0.99, 1))
    return Quantiles(float(values.mean()), *map(float, at))


def share(chosen: Bool[np.ndarray, " n"]) -> float | None:
    """Of all, those that are True; None where there are none."""
    return float(chosen.mean()) if len(chosen) else None


def _joined(arrays: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(arrays).astype(kind) if arrays else np.zeros(0, kind)


def percent(part: float) -> str:
    """A share in words, with as many digits as it needs."""
    if 0 < part < 0.001:
        return "<0.1 %"
    return f"{100 * part:.1f} %" if 0 < part < 0.095 else f"{100 * part:.0f} %"
