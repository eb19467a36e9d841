"""What the images and boxes of a data set are like, and what each input size makes of them.

Crowd boxes are counted and left out of everything else, as they are in training.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxyolo.data.images import ImageFacts
from flaxyolo.data.sources import Dataset
from flaxyolo.spec import parse, to_dict
from flaxyolo.statistics.columns import (
    Columns,
    Histogram,
    Quantiles,
    columns_of,
    histogram,
    quantiles,
    share,
)
from flaxyolo.statistics.crowding import overlaps
from flaxyolo.statistics.detail import detail_lost
from flaxyolo.statistics.resolution import Resolution, at_image_size, suitable_image_sizes

log = logging.getLogger(__name__)

MEDIUM_FROM, LARGE_FROM = 32.0**2, 96.0**2
"""COCO's limits of the annotation's area, in square pixels of the original image."""
THIN = 4
"""Thin boxes are more than so many times as long as wide, or as wide as long."""
NMS_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
COMMON_SIZES = 12
"""Image sizes that are listed; there may be more."""
REPORT_S = 5.0
"""Seconds between two lines about the progress."""

RELATIVE_AREAS = np.logspace(-6, 0, 25)
ASPECT_RATIOS = np.logspace(-4, 4, 33, base=2)
LONGEST_SIDES = np.logspace(5, 13, 33, base=2)
GREY_LEVELS = np.linspace(0, 256, 33)
CONTRASTS = np.linspace(0, 128, 33)
BLURS = np.logspace(0, 5, 26)
IOUS = np.linspace(0, 1, 21)
BOX_COUNTS = np.array([0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257, 513, 1025], float)


@dataclass(frozen=True)
class ImageSize:
    """One size of images, and how many have it."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs."""

    name: str
    boxes: int
    images: int
    """That show at least one."""


@dataclass(frozen=True)
class SuppressedShare:
    """Boxes that NMS would drop although every one of them is true."""

    threshold: float
    share: float
    """Of all boxes: those with a larger IoU than the threshold with an earlier box of their class,
    so at least as many as NMS drops."""


@dataclass(frozen=True)
class Crowding:
    """Overlap of boxes that are in one image."""

    pairs: int
    """Of boxes of one image."""
    overlapping_pairs: int
    mean_iou: float | None
    """Of the overlapping pairs; None where no two boxes overlap."""
    p95_iou: float | None
    mean_iou_all_pairs: float | None
    """Of all pairs, also those that lie apart; None where no image has two boxes."""
    largest_iou: Quantiles | None
    """Of each box: its largest IoU with another box, 0 where it overlaps none."""
    largest_iou_same_class: Quantiles | None
    """The same among boxes of its class, which alone suppress one another in NMS."""
    histogram: Histogram
    """Of `largest_iou_same_class`."""
    suppressed: tuple[SuppressedShare, ...]
    """For rising thresholds of NMS; none where there are no boxes."""


@dataclass(frozen=True)
class SplitStatistics:
    """The eight statistics of one split; None where there is nothing to measure."""

    images: int
    images_without_boxes: int
    boxes: int
    """Without crowd boxes."""
    crowd_boxes: int
    """Left out."""
    relative_area: Histogram
    """Box area over image area."""
    small: float | None
    """Share of boxes with an annotated area below 32 x 32 pixels of the original image."""
    medium: float | None
    large: float | None
    """From 96 x 96 pixels."""
    box_side: Quantiles | None
    """The shorter side, in pixels of the original image."""
    aspect_ratio: Histogram
    """Width over height of the boxes."""
    thin: float | None
    """Share of boxes more than four times as long as wide, or as wide as long."""
    image_sizes: tuple[ImageSize, ...]
    """The most common ones, most common first."""
    different_image_sizes: int
    longest_side: Quantiles | None
    """Of the images, in pixels."""
    longest_side_histogram: Histogram
    unread_images: int
    """Without brightness, contrast and blur, because they do not decode or were not read."""
    brightness: Quantiles | None
    """Mean grey level of an image, 0 to 255."""
    brightness_histogram: Histogram
    contrast: Quantiles | None
    """Standard deviation of the grey levels of an image."""
    contrast_histogram: Histogram
    blur: Quantiles | None
    """Variance of the Laplacian of the grey image: low where it is blurred."""
    blur_histogram: Histogram
    classes: tuple[ClassCount, ...]
    gini: float | None
    """Of the boxes per class: 0 where all are as frequent, near 1 where one has nearly all."""
    imbalance_ratio: float | None
    """Boxes of the most frequent class for each one of the rarest class that has any."""
    crowding: Crowding
    boxes_per_image: Quantiles | None
    boxes_per_image_histogram: Histogram


@dataclass(frozen=True)
class Statistics:
    """Both splits, and the boxes of the training split at each input size."""

    data: str
    fingerprint: str
    train: SplitStatistics
    val: SplitStatistics | None
    resolutions: tuple[Resolution, ...]
    """Smallest first; none where there are no boxes."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return to_dict(self)


def statistics(dataset: Dataset, *, image_sizes: Sequence[int] | None = None) -> Statistics:
    """Measure a data set; without `image_sizes` at those that suit its images."""
    columns, names = columns_of(dataset.train), dataset.class_names
    train = split_statistics(columns, dataset.train_facts, names)
    val = None
    if dataset.val:
        val = split_statistics(columns_of(dataset.val), dataset.val_facts, names)
    sizes = sorted(set(image_sizes or suitable_image_sizes(columns)))
    lost = detail_lost(dataset.train, sizes) if train.boxes else {}
    resolutions, reported = [], time.monotonic()
    for done, size in enumerate(sizes if train.boxes else ()):
        if time.monotonic() - reported > REPORT_S:
            reported = time.monotonic()
            log.info("%s: %d of %d input sizes done", dataset.name, done, len(sizes))
        resolutions.append(at_image_size(columns, size, lost.get(size)))
    return Statistics(dataset.name, dataset.fingerprint, train, val, tuple(resolutions))


def statistics_from_dict(data: object, where: str = "statistics") -> Statistics:
    """The inverse of `Statistics.to_dict`."""
    return parse(Statistics, data, where)


def split_statistics(
    columns: Columns, facts: ImageFacts, class_names: Sequence[str]
) -> SplitStatistics:
    """The eight statistics of one split."""
    images, boxes = len(columns.heights), len(columns.labels)
    width, height = (columns.boxes[:, 2:] - columns.boxes[:, :2]).T.astype(np.float64)
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    image_area = (columns.heights * columns.widths)[columns.image]
    per_image = columns.boxes_per_image
    common, different = _image_sizes(columns)
    read = ~np.isnan(facts.brightness)
    brightness, contrast, blur = (
        values[read] for values in (facts.brightness, facts.contrast, facts.blur)
    )
    counts = _class_counts(columns, class_names)
    return SplitStatistics(
        images=images,
        images_without_boxes=int((per_image == 0).sum()),
        boxes=boxes,
        crowd_boxes=columns.crowd_boxes,
        relative_area=histogram(width * height / np.maximum(image_area, 1), RELATIVE_AREAS),
        small=share(columns.areas < MEDIUM_FROM),
        medium=share((columns.areas >= MEDIUM_FROM) & (columns.areas < LARGE_FROM)),
        large=share(columns.areas >= LARGE_FROM),
        box_side=quantiles(shorter),
        aspect_ratio=histogram(width / np.maximum(height, 1e-6), ASPECT_RATIOS),
        thin=share(longer > THIN * shorter),
        image_sizes=common,
        different_image_sizes=different,
        longest_side=quantiles(columns.longest_sides),
        longest_side_histogram=histogram(columns.longest_sides, LONGEST_SIDES),
        unread_images=images - len(brightness),
        brightness=quantiles(brightness),
        brightness_histogram=histogram(brightness, GREY_LEVELS),
        contrast=quantiles(contrast),
        contrast_histogram=histogram(contrast, CONTRASTS),
        blur=quantiles(blur),
        blur_histogram=histogram(blur, BLURS),
        classes=counts,
        gini=gini([each.boxes for each in counts]),
        imbalance_ratio=_imbalance_ratio(counts),
        crowding=_crowding(columns),
        boxes_per_image=quantiles(per_image),
        boxes_per_image_histogram=histogram(per_image, BOX_COUNTS),
    )


def gini(counts: Sequence[int]) -> float | None:
    """Gini coefficient of counts: 0 where all are equal; None where they are all 0."""
    ordered, total = sorted(counts), sum(counts)
    if not total:
        return None
    weighted = sum(place * count for place, count in enumerate(ordered, start=1))
    return 2 * weighted / (len(ordered) * total) - (len(ordered) + 1) / len(ordered)


def _image_sizes(columns: Columns) -> tuple[tuple[ImageSize, ...], int]:
    """The most common sizes of images, and how many different ones there are."""
    keys, images = np.unique(columns.heights * 2**32 + columns.widths, return_counts=True)
    order = np.argsort(-images, kind="stable")[:COMMON_SIZES]
    sizes = [ImageSize(int(keys[i] % 2**32), int(keys[i] >> 32), int(images[i])) for i in order]
    return tuple(sizes), len(keys)


def _class_counts(columns: Columns, class_names: Sequence[str]) -> tuple[ClassCount, ...]:
    kinds = len(class_names)
    boxes = np.bincount(columns.labels, minlength=kinds)
    shown = np.unique(columns.image * kinds + columns.labels) % max(kinds, 1)
    images = np.bincount(shown, minlength=kinds)
    return tuple(
        ClassCount(name, int(boxes[label]), int(images[label]))
        for label, name in enumerate(class_names)
    )


def _imbalance_ratio(counts: Sequence[ClassCount]) -> float | None:
    present = [each.boxes for each in counts if each.boxes]
    return max(present) / min(present) if present else None


def _crowding(columns: Columns) -> Crowding:
    found = overlaps(columns.boxes, columns.labels, columns.image)
    some = found.overlapping
    return Crowding(
        pairs=found.pairs,
        overlapping_pairs=some,
        mean_iou=found.pair_sum / some if some else None,
        p95_iou=found.pair_quantile(0.95) if some else None,
        mean_iou_all_pairs=found.pair_sum / found.pairs if found.pairs else None,
        largest_iou=quantiles(found.largest),
        largest_iou_same_class=quantiles(found.same_class),
        histogram=histogram(found.same_class, IOUS),
        suppressed=tuple(
            SuppressedShare(threshold, float((found.earlier > threshold).mean()))
            for threshold in (NMS_THRESHOLDS if len(found.earlier) else ())
        ),
    )
