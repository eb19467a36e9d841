"""Which images are learnt by heart, and which of their boxes show that they are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from flaxyolo.checks.probe import PROBED
from flaxyolo.data.cache import Pixels

CROWDED = 0.6
"""Overlap of two boxes of a class from which suppression may take one for the other."""
EASY_CELLS = 2
"""Cells of the finest stride that the shorter side of an easy box covers."""
COVERED = 0.3
"""Share of a box under another one from which the other may be given all its anchor points."""
COCO_SIDES = (32, 96)
"""Sides in pixels that part small, medium and large."""
LEAST_EASY = 4
"""Easy boxes from which these alone are judged."""


class Ease(NamedTuple):
    """What stands in the way of learning each box of an image."""

    hopeless: Bool[np.ndarray, " n"]
    """No anchor point lies in it, or suppression would take it for another."""
    contested: Bool[np.ndarray, " n"]
    """That, or others lie on it."""
    cells: Float32[np.ndarray, " n"]
    """Of the finest level, that its shorter side covers."""

    @property
    def hard(self) -> Bool[np.ndarray, " n"]:
        """Contested, or of so few cells that a pixel decides whether it is found."""
        return np.asarray(self.contested | (self.cells < EASY_CELLS))

    @property
    def judged(self) -> Bool[np.ndarray, " n"]:
        """Neither contested nor smaller than a cell: a sound network learns it in the end."""
        return np.asarray(~self.contested & (self.cells >= 1))


class Fitness(NamedTuple):
    """How well each image suits to be learnt by heart."""

    boxes: Int[np.ndarray, " n"]
    hopeless: Int[np.ndarray, " n"]
    hard: Int[np.ndarray, " n"]
    kinds: list[set[tuple[str, int]]]
    """Sizes and classes of the easy boxes; where there is none, of those that are not hopeless."""


def ease(
    boxes: Float32[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    image_size: int,
    stride: int,
) -> Ease:
    """What stands in the way of learning each of these boxes, all of one image.

    `stride` is that of the finest level, in pixels.
    """
    middles = (np.arange(image_size // stride, dtype=np.float32) + 0.5) * stride
    held = [holds_point(boxes[:, side], boxes[:, side + 2], middles) for side in range(2)]
    hopeless = ~(held[0] & held[1]) | crowded(boxes, labels)
    cells = (boxes[:, 2:] - boxes[:, :2]).min(1) / np.float32(stride)
    return Ease(hopeless, hopeless | covered(boxes), cells)


def judged(parts: Sequence[Ease]) -> list[Bool[np.ndarray, " _"]]:
    """The boxes of each image that it is judged by.

    The easy ones; where there are fewer than LEAST_EASY, all of a cell or more.
    """
    easy = [~part.hard for part in parts]
    if sum(int(mask.sum()) for mask in easy) >= LEAST_EASY:
        return easy
    return [part.judged for part in parts]


def fitness(pixels: Pixels, image_size: int, stride: int) -> Fitness:
    """How well each image suits."""
    counts, hopeless, hard, kinds = [], [], [], []
    for boxes, labels, valid in zip(pixels.boxes, pixels.labels, pixels.valid, strict=True):
        boxes, labels = boxes[valid], labels[valid]
        part = ease(boxes, labels, image_size, stride)
        side = np.sqrt(areas(boxes))
        sizes = np.searchsorted(COCO_SIDES, side, side="right")
        counts.append(len(boxes))
        hopeless.append(int(part.hopeless.sum()))
        hard.append(int(part.hard.sum()))
        good = ~(part.hopeless if part.hard.all() else part.hard)
        kinds.append(
            {("size", int(size)) for size in sizes[good]}
            | {("class", int(label)) for label in labels[good]}
        )
    return Fitness(np.array(counts), np.array(hopeless), np.array(hard), kinds)


def holds_point(
    low: Float32[np.ndarray, " n"],
    high: Float32[np.ndarray, " n"],
    points: Float32[np.ndarray, " m"],
) -> Bool[np.ndarray, " n"]:
    """Whether one of the sorted points lies strictly between the two ends of each range."""
    return np.searchsorted(points, high, side="left") > np.searchsorted(points, low, side="right")


def shared(
    a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "m 4"]
) -> Float32[np.ndarray, "n m"]:
    """Area in which each two boxes overlap."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.maximum(high - low, 0).prod(2)


def iou(a: Float32[np.ndarray, "n 4"], b: Float32[np.ndarray, "m 4"]) -> Float32[np.ndarray, "n m"]:
    """Overlap of each two boxes."""
    both = shared(a, b)
    return both / np.maximum(areas(a)[:, None] + areas(b)[None] - both, 1e-6)


def areas(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, " n"]:
    """Area of each box."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def crowded(
    boxes: Float32[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Boxes that overlap another of their class by more than CROWDED."""
    overlap = iou(boxes, boxes)
    np.fill_diagonal(overlap, 0)
    return np.any((overlap > CROWDED) & (labels[:, None] == labels[None]), axis=1)


def covered(boxes: Float32[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    """Boxes of which another one, of whatever class, covers more than COVERED."""
    both = shared(boxes, boxes)
    np.fill_diagonal(both, 0)
    return np.any(both > COVERED * areas(boxes)[:, None], axis=1)


def choose_images(pixels: Pixels, image_size: int, stride: int) -> list[int]:
    """PROBED images that can be learnt: no dense ones, with objects of each size that there is.

    One after the other, those with a new size first, and of these the one with the most new sizes
    and classes for its boxes. Where too few have none but easy boxes, those with the largest share
    of them are taken, and those without any only where there are too few again.
    """
    found = fitness(pixels, image_size, stride)
    filled = np.flatnonzero(found.boxes > 0).tolist()

    def hardness(row: int) -> tuple[float, float]:
        return found.hard[row] / found.boxes[row], found.hopeless[row] / found.boxes[row]

    usual = max(float(np.median(found.boxes[filled])), 1.0)
    rows = [row for row in filled if found.hard[row] == 0 and found.boxes[row] <= 2 * usual]
    if len(rows) < PROBED:
        some = [row for row in filled if found.hard[row] < found.boxes[row]]
        rows = sorted(some if len(some) >= PROBED else filled, key=hardness)[: 4 * PROBED]
    chosen: list[int] = []
    seen: set[tuple[str, int]] = set()

    def merit(row: int) -> tuple[int, bool, float, int]:
        new = found.kinds[row] - seen
        sizes = any(kind == "size" for kind, _ in new)
        boxes = int(found.boxes[row])
        # Where there are too few images, each is taken as often as the others.
        return -chosen.count(row), sizes, len(new) / boxes, -boxes

    while len(chosen) < PROBED:
        chosen.append(max(rows, key=merit))
        seen |= found.kinds[chosen[-1]]
    return chosen
