"""Which detections find which objects by COCO's rules, for every range of areas, as columns.

pycocotools and hotcoco do the same and keep a record of each image, class and range, millions on a
set of COCO's size. Here all images, classes and IoU thresholds of a range are matched together, and
what comes out is bit for bit the same.

COCO lets each detection, best first, take the free object that it overlaps most. Objects ask for
the best detection alike, so that every detection can as well propose to its objects at the same
time as the others, and go on to its next when a better one proposes there (Gale and Shapley): the
outcome is the same, after a few rounds instead of one a detection.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.matches import MOST_DETECTIONS
from flaxyolo.scoring.truth import GroundTruth, places

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
"""COCO's ranges of areas in square pixels, in its order; both ends belong to a range."""
PAIRS = 1 << 20
"""Detections and objects that are held against each other at a time."""


class Matches(NamedTuple):
    """The detections of one class, best first, against its objects."""

    image: Int[np.ndarray, " n"]
    """Place of the image of each."""
    hit: Bool[np.ndarray, "t n"]
    """Whether it found an object, at each IoU threshold."""
    ignored: Bool[np.ndarray, "t n"]
    """Whether it counts neither way: it lies on a crowd, or is of another size."""


class Matched(NamedTuple):
    """Detections of one range of areas against its objects, class by class."""

    objects: Int[np.ndarray, "c i"]
    """Of each class in each image, those that count."""
    found: tuple[Matches, ...]
    ranks: tuple[Int[np.ndarray, " n"], ...]
    """Of each detection among those of its class in its image, the best is 0."""


def matched_by_size(
    truth: GroundTruth, detections: Detections, sizes: Iterable[str] = AREAS
) -> dict[str, Matched]:
    """Match the detections with the truth in every range of areas of `sizes`.

    Images and classes are in the order of their ids. Detections that count at no threshold, such
    as those of another size, are left out.
    """
    truth.check(detections)
    case = _case(truth, detections)
    return {size: _matched(case, *AREAS[size]) for size in sizes}


class _Case(NamedTuple):
    """Objects and detections, sorted by class and image in the order of their ids."""

    shape: tuple[int, int]
    """Classes and images."""
    object_group: Int[np.ndarray, " m"]
    """Class and image as one number."""
    object_area: Float64[np.ndarray, " m"]
    crowd: Bool[np.ndarray, " m"]
    group: Int[np.ndarray, " n"]
    area: Float64[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]
    best: Int[np.ndarray, " n"]
    """The detections in the order of class and falling score."""
    pairs: "_Pairs"


class _Pairs(NamedTuple):
    """Detections and objects that overlap by the lowest threshold, a detection's best first."""

    found: Int[np.ndarray, " p"]
    truth: Int[np.ndarray, " p"]
    iou: Float64[np.ndarray, " p"]


def _case(truth: GroundTruth, detections: Detections) -> _Case:
    images, classes = places(truth.image_ids), places(truth.category_ids)
    shape = len(classes), len(images)
    there = classes[truth.labels] * len(images) + images[truth.image]
    order = np.argsort(there, kind="stable")
    there, boxes, crowd = there[order], truth.xywh[order], truth.crowd[order]
    group = classes[detections.labels] * len(images) + images[detections.image]
    scores = -detections.scores.astype(np.float64)
    chosen = np.lexsort((scores, group))
    sorted_group = group[chosen]
    rank = np.arange(len(chosen)) - np.searchsorted(sorted_group, sorted_group)
    counted = rank < MOST_DETECTIONS
    chosen, group, rank = chosen[counted], sorted_group[counted], rank[counted]
    xywh = detections.xywh[chosen]
    best = np.lexsort((scores[chosen], group // max(len(images), 1)))
    pairs = _overlapping(xywh, group, boxes, there, crowd)
    area = xywh[:, 2] * xywh[:, 3]
    return _Case(shape, there, truth.areas[order], crowd, group, area, rank, best, pairs)


def _overlapping(
    xywh: np.ndarray, group: np.ndarray, boxes: np.ndarray, there: np.ndarray, crowd: np.ndarray
) -> _Pairs:
    first, last = (np.searchsorted(there, group, side) for side in ("left", "right"))
    parts = []
    for some in _portions(last - first):
        count = (last - first)[some]
        found = np.repeat(np.arange(some.start, some.stop), count)
        within = np.arange(len(found)) - np.repeat(np.cumsum(count) - count, count)
        truth = np.repeat(first[some], count) + within
        iou = _iou(xywh[found], boxes[truth], crowd[truth])
        near = iou >= THRESHOLDS[0]
        parts.append((found[near], truth[near], iou[near]))
    none = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    found, truth, iou = map(np.concatenate, zip(none, *parts, strict=True))
    # Of objects that are overlapped alike the last is taken.
    order = np.lexsort((-truth, -iou, found))
    return _Pairs(found[order], truth[order], iou[order])


def _portions(counts: np.ndarray) -> Iterator[slice]:
    """The rows in runs that have about PAIRS pairs in all, and one at least."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + PAIRS, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _iou(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """As pycocotools, operation by operation; for a crowd the share of the detection in it."""
    low = np.maximum(found[:, :2], truth[:, :2])
    sides = np.minimum(found[:, 2:] + found[:, :2], truth[:, 2:] + truth[:, :2]) - low
    shared = sides[:, 0] * sides[:, 1]
    area = found[:, 2] * found[:, 3]
    whole = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - shared)
    meets = (sides > 0).all(1)
    return np.divide(shared, whole, out=np.zeros(len(shared)), where=meets)


def _matched(case: _Case, least: float, most: float) -> Matched:
    classes, images = case.shape
    other = case.crowd | (case.object_area < least) | (case.object_area > most)
    objects = np.bincount(case.object_group[~other], minlength=classes * images)
    hit, ignored = _match(case, other)
    outside = (case.area < least) | (case.area > most)
    # Whatever has found nothing is no mistake where it is of another size.
    ignored |= ~hit & outside
    kept = case.best[~ignored[:, case.best].all(0)]
    edges = np.searchsorted(case.group[kept] // max(images, 1), np.arange(classes + 1)).tolist()
    image, rank = case.group[kept] % max(images, 1), case.rank[kept]
    hit, ignored = hit[:, kept], ignored[:, kept]
    parts = [slice(edges[label], edges[label + 1]) for label in range(classes)]
    return Matched(
        objects.reshape(classes, images),
        tuple(Matches(image[part], hit[:, part], ignored[:, part]) for part in parts),
        tuple(rank[part] for part in parts),
    )


def _match(
    case: _Case, other: Bool[np.ndarray, " m"]
) -> tuple[Bool[np.ndarray, "t n"], Bool[np.ndarray, "t n"]]:
    """Which detections find an object that counts, and which one that does not, at each threshold.

    `other` are the objects that do not count: they are taken by what finds none that does.
    """
    # A detection's objects that count come first, then the others, either the best overlap first.
    order = np.argsort(2 * case.pairs.found + other[case.pairs.truth], kind="stable")
    pairs = _Pairs(*(column[order] for column in case.pairs))
    bars = np.minimum(THRESHOLDS, 1 - 1e-10)
    threshold, pair = np.nonzero(pairs.iou >= bars[:, None])
    found = threshold * len(case.group) + pairs.found[pair]
    truth = threshold * len(case.crowd) + pairs.truth[pair]
    taken = _proposed(found, truth, case.crowd[pairs.truth[pair]], len(bars) * len(case.crowd))
    hit, ignored = np.zeros((2, len(bars), len(case.group)), bool)
    found, other = found[taken], other[pairs.truth[pair[taken]]]
    hit.ravel()[found[~other]] = True
    ignored.ravel()[found[other]] = True
    return hit, ignored


def _proposed(
    found: Int[np.ndarray, " p"],
    truth: Int[np.ndarray, " p"],
    crowd: Bool[np.ndarray, " p"],
    objects: int,
) -> Int[np.ndarray, " k"]:
    """The pairs in which a detection takes one of so many `objects`; a crowd takes all.

    Pairs are sorted by detection, best first, and of a detection by the order of its proposals.
    """
    count = len(found)
    goes_on = np.zeros(count, bool)
    goes_on[:-1] = found[1:] == found[:-1]
    held = np.full(objects, count)
    asking = np.flatnonzero(np.concatenate([[True], ~goes_on[:-1]])[:count])
    in_crowds = []
    while len(asking):
        in_crowds.append(asking[crowd[asking]])
        asking = asking[~crowd[asking]]
        at = truth[asking]
        before = held[at]
        # The pair of the better detection has the lower number.
        np.minimum.at(held, at, asking)
        now = held[at]
        sent_away = np.unique(before[(now != before) & (before < count)])
        refused = np.concatenate([asking[now != asking], sent_away])
        asking = refused[goes_on[refused]] + 1
    return np.concatenate([held[held < count], *in_crowds])
