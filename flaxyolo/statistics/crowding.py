"""How much the boxes of an image overlap one another."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

PAIRS_AT_ONCE = 2**20
"""Keeps the arrays of pairs at a few megabytes, near the processor."""

PAIR_BINS = 10_000
"""IoU of pairs is kept as counts, so that memory does not grow with the pairs."""


class Overlaps(NamedTuple):
    """Largest IoU of every box with another of its image, and all overlapping pairs."""

    largest: Float32[np.ndarray, " n"]
    """With any box."""
    same_class: Float32[np.ndarray, " n"]
    """With a box of its class: only those suppress each other in class-wise NMS."""
    earlier: Float32[np.ndarray, " n"]
    """With a box of its class that comes before it in the list."""
    pairs: int
    """Pairs of boxes of one image."""
    pair_counts: Int64[np.ndarray, " bins"]
    """Pairs that overlap, in equal bins of IoU from 0 to 1."""
    pair_sum: float
    """Sum of the IoU of all pairs."""

    @property
    def overlapping(self) -> int:
        """Pairs that overlap."""
        return int(self.pair_counts.sum())

    def pair_quantile(self, share: float) -> float:
        """IoU that this share of the overlapping pairs does not exceed, to 1/10,000."""
        place = np.searchsorted(np.cumsum(self.pair_counts), share * self.overlapping)
        return min(1.0, (int(place) + 0.5) / PAIR_BINS)


def overlaps(
    boxes: Float32[np.ndarray, "n 4"],
    labels: Int64[np.ndarray, " n"],
    image: Int64[np.ndarray, " n"],
) -> Overlaps:
    """Compare the xyxy boxes of each image; `image` rises, so that its boxes stand together.

    Images with the same number of boxes are compared at once, in bounded chunks.
    """
    largest, same_class, earlier = (np.zeros(len(boxes), np.float32) for _ in range(3))
    pair_counts, pair_sum, pairs = np.zeros(PAIR_BINS, np.int64), 0.0, 0
    sides = [np.ascontiguousarray(boxes[:, side]) for side in range(4)]
    counts = np.bincount(image) if len(image) else np.zeros(0, np.int64)
    firsts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 1]).tolist():
        starts = firsts[counts == count]
        pairs += len(starts) * count * (count - 1) // 2
        for rows, columns, first in _chunks(starts, count):
            iou = _iou([side[rows] for side in sides], [side[columns] for side in sides])
            own = np.arange(rows.shape[1])
            iou[:, own, first + own] = 0
            before = (first + own)[:, None] > np.arange(count)[None]
            largest[rows] = iou.max(2)
            counted = iou[:, before]
            counted = counted[counted > 0]
            bins = np.minimum((counted * PAIR_BINS).astype(np.int64), PAIR_BINS - 1)
            pair_counts += np.bincount(bins, minlength=PAIR_BINS)
            pair_sum += float(counted.sum(dtype=np.float64))
            iou *= labels[rows][:, :, None] == labels[columns][:, None]
            same_class[rows] = iou.max(2)
            earlier[rows] = _zero_unless(before, iou).max(2)
    return Overlaps(largest, same_class, earlier, pairs, pair_counts, pair_sum)


def _chunks(
    starts: Int64[np.ndarray, " m"], count: int
) -> list[tuple[Int64[np.ndarray, "c r"], Int64[np.ndarray, "c n"], int]]:
    """Rows of boxes, the boxes they are compared with, and the place of the first row."""
    images = max(1, PAIRS_AT_ONCE // count**2)
    step = max(1, min(count, PAIRS_AT_ONCE // count))
    chunks = []
    for begin in range(0, len(starts), images):
        columns = starts[begin : begin + images, None] + np.arange(count)[None]
        chunks += [(columns[:, top : top + step], columns, top) for top in range(0, count, step)]
    return chunks


def _iou(one: list[np.ndarray], other: list[np.ndarray]) -> Float32[np.ndarray, "c r n"]:
    """IoU of left, top, right, bottom of (c, r) boxes with those of (c, n)."""
    left, top, right, bottom = (side[:, :, None] for side in one)
    left2, top2, right2, bottom2 = (side[:, None] for side in other)
    shared = np.maximum(np.minimum(right, right2) - np.maximum(left, left2), 0)
    shared *= np.maximum(np.minimum(bottom, bottom2) - np.maximum(top, top2), 0)
    union = (right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - shared
    return shared / np.maximum(union, np.float32(1e-9))


def _zero_unless(
    keep: Bool[np.ndarray, "r n"], values: Float32[np.ndarray, "c r n"]
) -> Float32[np.ndarray, "c r n"]:
    return values * keep[None]
