"""Which detections and objects lie in one image and overlap, and which finds which by TIDE's rules.

COCO's rules are in coco_matches.py.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.truth import GroundTruth

MIN_IOU = 0.5
"""Overlap from which on a detection has found an object."""
MOST_DETECTIONS = 100
"""The best detections of an image that count: over all classes in tidecv, of each class in
COCO's AP."""


class Pairs(NamedTuple):
    """The detections and objects of one image, and how much each two overlap."""

    found: slice
    truth: slice
    iou: Float[np.ndarray, "n m"]
    """For a crowd: the share of the detection that lies in it."""


class Case(NamedTuple):
    """Everything that is judged."""

    truth: GroundTruth
    found: Detections
    """Those that count, sorted by image and by falling score; the scores in float64."""
    pairs: tuple[Pairs, ...]
    """One for each image that holds anything."""


class Matches(NamedTuple):
    """What each detection has found."""

    truth: Int[np.ndarray, " n"]
    """Index of the object, or -1."""
    in_crowd: Bool[np.ndarray, " n"]
    """Has found no object and lies in a crowd of its class: neither right nor wrong."""


def case_of(truth: GroundTruth, detections: Detections) -> Case:
    """Sort the detections, and hold each against the objects of its image.

    The best MOST_DETECTIONS of an image count, over all classes.
    """
    truth.check(detections)
    found = replace(detections, scores=detections.scores.astype(np.float64))
    found = found.part(np.lexsort((-found.scores, found.image)))
    rank = np.arange(len(found)) - np.searchsorted(found.image, found.image)
    found = found.part(np.flatnonzero(rank < MOST_DETECTIONS))
    return Case(truth, found, _pairs(truth, found))


def match(case: Case, min_iou: float = MIN_IOU) -> Matches:
    """Let each detection, best first, take the free object of its class that it overlaps most.

    As in tidecv: of objects that it overlaps alike the first is taken, and to lie in a crowd it
    has to overlap that by more than `min_iou`. COCO's rules differ: coco_matches.py.
    """
    found = np.full(len(case.found), -1)
    in_crowd = np.zeros(len(case.found), bool)
    for one in case.pairs:
        if not one.iou.size:
            continue
        crowd = case.truth.crowd[one.truth]
        same = case.found.labels[one.found, None] == case.truth.labels[None, one.truth]
        free = np.where(same & ~crowd, one.iou, 0)
        for row in np.flatnonzero((free >= min_iou).any(1)):
            column = free[row].argmax()
            if free[row, column] >= min_iou:
                found[one.found.start + row] = one.truth.start + column
                free[:, column] = 0
        in_crowd[one.found] = (same & crowd & (one.iou > min_iou)).any(1)
    return Matches(found, in_crowd & (found < 0))


def _pairs(truth: GroundTruth, found: Detections) -> tuple[Pairs, ...]:
    # Imported here, as in average_precision: not every reader of a summary needs it.
    from pycocotools import mask

    images = len(truth.image_ids)
    edges = np.arange(images + 1)
    to_truth, to_found = (np.searchsorted(side.image, edges).tolist() for side in (truth, found))
    pairs = []
    for index in range(images):
        there = slice(to_truth[index], to_truth[index + 1])
        here = slice(to_found[index], to_found[index + 1])
        shape = here.stop - here.start, there.stop - there.start
        if not any(shape):
            continue
        iou = np.zeros(shape)
        if all(shape):
            crowd = truth.crowd[there].astype(np.uint8)
            iou = np.asarray(mask.iou(found.xywh[here], truth.xywh[there], crowd))
        pairs.append(Pairs(here, there, iou))
    return tuple(pairs)
