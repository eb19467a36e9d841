"""What an input size makes of the boxes: their sizes in pixels and in cells of each level."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from flaxyolo.base.boxes import letterbox
from flaxyolo.statistics.columns import Columns, Quantiles, quantiles
from flaxyolo.statistics.detail import DetailLost

IMAGE_SIZES = (128, 160, 192, 224, 256, 320, 416, 512, 640, 800, 960, 1280)
"""Input sizes that are looked at where none are given: those of them that suit the images."""
LOW, HIGH = 0.4, 2.0
"""Suitable: from this to this share of the median longest side of the images."""

STRIDES = (4, 8, 16, 32)
"""Of P2 to P5, in input pixels."""
FINEST_USUAL = 8
"""Stride of the finest level of a network without P2."""
MIN_CELLS = 2
"""Cells that an object should cover along its shorter side at the level that detects it."""


@dataclass(frozen=True)
class AtStride:
    """Boxes on the grid of one level."""

    stride: int
    cells: Quantiles
    """Cells along the shorter side of a box."""
    covered: float
    """Share of boxes that cover at least two cells along their shorter side."""
    covered_class_mean: float
    """The same share of every class that has boxes, and the mean of those: as mAP weighs them."""
    without_point: float
    """Share of boxes in which no anchor point of this level lies: it cannot learn them."""
    collisions: float
    """Share of boxes whose centre shares a cell with that of another box."""
    longer_side_p95: float
    """In strides."""
    reach_p99: float
    """Strides from the centre of a box to its farthest side, where this is the coarsest level and
    every box is learnt at the coarsest level of which it covers two cells."""


@dataclass(frozen=True)
class Resolution:
    """Boxes at one input size, letterboxed as in training; `side` is a box's shorter side."""

    image_size: int
    under_8: float
    """Share of boxes with a side below 8 pixels."""
    under_16: float
    under_32: float
    side: Quantiles
    """In input pixels."""
    strides: tuple[AtStride, ...]
    boxes_per_image: Quantiles
    enlarged: float
    """Share of images that are smaller than this, and gain no detail."""
    detail_lost: DetailLost | None = None
    """Inside boxes, by scaling to this size and back; None where no pixels were looked at."""

    def at_stride(self, stride: int) -> AtStride:
        """The level of this stride."""
        return next(level for level in self.strides if level.stride == stride)

    def level_shares(self, *, classes_alike: bool = False) -> dict[str, float]:
        """Share of the boxes whose coarsest level with two cells is each of P2 to P5, or none."""
        name = "covered_class_mean" if classes_alike else "covered"
        covered = [getattr(self.at_stride(stride), name) for stride in STRIDES]
        parts = [most - coarser for most, coarser in zip(covered, [*covered[1:], 0.0], strict=True)]
        return {"none": 1 - covered[0], **dict(zip(("P2", "P3", "P4", "P5"), parts, strict=True))}


def suitable_image_sizes(columns: Columns, low: float = LOW) -> tuple[int, ...]:
    """Those of `IMAGE_SIZES` from `low` times to twice the median longest side of the images."""
    if not len(columns.heights):
        return ()
    side = float(np.median(columns.longest_sides))
    # Huge images are shrunk to the three largest sizes, tiny ones enlarged to the smallest.
    least, most = min(low * side, IMAGE_SIZES[-3]), max(HIGH * side, IMAGE_SIZES[0])
    return tuple(size for size in IMAGE_SIZES if least <= size <= most)


def at_image_size(
    columns: Columns, image_size: int, detail_lost: DetailLost | None = None
) -> Resolution:
    """The boxes of a split, of which there is at least one, at one input size."""
    boxes = _letterboxed(columns, image_size)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    side, per_image = quantiles(shorter), quantiles(columns.boxes_per_image)
    assert side is not None
    assert per_image is not None
    return Resolution(
        image_size=image_size,
        under_8=float((shorter < 8).mean()),
        under_16=float((shorter < 16).mean()),
        under_32=float((shorter < 32).mean()),
        side=side,
        strides=tuple(
            AtStride(
                stride=stride,
                cells=side.over(stride),
                covered=float((shorter >= MIN_CELLS * stride).mean()),
                covered_class_mean=_class_mean(shorter >= MIN_CELLS * stride, columns.labels),
                without_point=float((points_inside(boxes, stride) == 0).mean()),
                collisions=_collisions(columns.image, boxes, stride, image_size),
                longer_side_p95=float(np.quantile(longer, 0.95)) / stride,
                reach_p99=float(np.quantile(_reach(shorter, longer, stride), 0.99)),
            )
            for stride in STRIDES
        ),
        boxes_per_image=per_image,
        enlarged=float((columns.longest_sides < image_size).mean()),
        detail_lost=detail_lost,
    )


def points_inside(boxes: Float32[np.ndarray, "n 4"], stride: int) -> Int64[np.ndarray, " n"]:
    """Anchor points of a level that lie strictly inside each box (xyxy, input pixels).

    Points are at (i + 1/2) strides; those beyond the input are counted too, as boxes end there.
    """
    first = np.floor(boxes[:, :2] / stride - 0.5).astype(np.int64) + 1
    last = np.ceil(boxes[:, 2:] / stride - 0.5).astype(np.int64) - 1
    along = np.maximum(last - first + 1, 0)
    return along[:, 0] * along[:, 1]


def _letterboxed(columns: Columns, image_size: int) -> Float32[np.ndarray, "n 4"]:
    """The boxes in pixels of the network input; each size of image is worked out once."""
    keys = columns.heights * 2**32 + columns.widths
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    fits = [
        letterbox(int(columns.heights[i]), int(columns.widths[i]), image_size)[:4] for i in first
    ]
    fit = np.array(fits, np.float32)[which[columns.image]]
    return columns.boxes * np.tile(fit[:, :2], 2) + np.tile(fit[:, 2:], 2)


def _collisions(
    image: Int64[np.ndarray, " n"],
    boxes: Float32[np.ndarray, "n 4"],
    stride: int,
    image_size: int,
) -> float:
    """Share of boxes whose centre lies in the cell of another box's centre."""
    cells = -(-image_size // stride)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    column, row = np.clip(centre / stride, 0, cells - 1).astype(np.int64).T
    order = np.sort((image * cells + row) * cells + column)
    same = order[1:] == order[:-1]
    return float((np.append(same, False) | np.append(False, same)).mean())


def _reach(
    shorter: Float32[np.ndarray, " n"], longer: Float32[np.ndarray, " n"], coarsest: int
) -> Float32[np.ndarray, " n"]:
    """Half the longer side in strides of the level that suits each box."""
    suited = 2.0 ** np.floor(np.log2(np.maximum(shorter, 1e-3) / MIN_CELLS))
    stride = np.clip(suited, min(coarsest, FINEST_USUAL), coarsest)
    return (longer / (2 * stride)).astype(np.float32)


def _class_mean(chosen: Bool[np.ndarray, " n"], labels: Int64[np.ndarray, " n"]) -> float:
    """Share of the boxes of each class that are chosen, averaged over the classes."""
    boxes = np.bincount(labels)
    parts = np.bincount(labels[chosen], minlength=len(boxes))[boxes > 0] / boxes[boxes > 0]
    return float(parts.mean())
