"""Truth and detections of many images as arrays, and which detection finds which object."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxyolo.scoring.average_precision import check_records

MIN_IOU = 0.5
"""Overlap from which on a detection has found an object."""
MOST_DETECTIONS = 100
"""The best detections of an image that count, over all classes, as in tidecv; COCO's AP takes
as many of each class."""


class Truth(NamedTuple):
    """All annotated objects, sorted by image and in the order of the file."""

    image: Int[np.ndarray, " m"]
    """Index into `Case.image_ids`."""
    label: Int[np.ndarray, " m"]
    """Index into `Case.class_names`."""
    boxes: Float[np.ndarray, "m 4"]
    """xywh in pixels."""
    areas: Float[np.ndarray, " m"]
    """The annotation's own area."""
    crowd: Bool[np.ndarray, " m"]


class Detected(NamedTuple):
    """All detections that count, sorted by image and by falling score."""

    image: Int[np.ndarray, " n"]
    label: Int[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    """xywh in pixels."""
    scores: Float[np.ndarray, " n"]


class Pairs(NamedTuple):
    """The detections and objects of one image, and how much each two overlap."""

    found: slice
    truth: slice
    iou: Float[np.ndarray, "n m"]
    """For a crowd: the share of the detection that lies in it."""


class Case(NamedTuple):
    """Everything that is judged."""

    image_ids: tuple[Any, ...]
    class_names: tuple[str, ...]
    truth: Truth
    found: Detected
    pairs: tuple[Pairs, ...]
    """One for each image that holds anything."""


class Matches(NamedTuple):
    """What each detection has found."""

    truth: Int[np.ndarray, " n"]
    """Index of the object, or -1."""
    in_crowd: Bool[np.ndarray, " n"]
    """Has found no object and lies in a crowd of its class: neither right nor wrong."""


def read_case(
    truth: Mapping[str, Any],
    detections: Sequence[Any] | Float[np.ndarray, "n 7"],
    *,
    truth_name: str = "ground truth",
    detections_name: str = "detections",
    most: int = MOST_DETECTIONS,
) -> Case:
    """Check truth and detections as `average_precision.coco_scores` does, and sort them."""
    checked = check_records(
        truth, detections, truth_name=truth_name, detections_name=detections_name
    )
    objects, results = checked.objects, checked.results
    image_of = {number: index for index, number in enumerate(checked.image_ids)}
    label_of = {number: index for index, number in enumerate(checked.category_ids)}
    there = Truth(
        *_places(objects, image_of, label_of),
        areas=np.array([record["area"] for record in objects], np.float64),
        crowd=np.array([record["iscrowd"] for record in objects], bool),
    )
    there = _taken(there, np.argsort(there.image, kind="stable"))
    found = Detected(
        *_places(results, image_of, label_of),
        scores=np.array([record["score"] for record in results], np.float64),
    )
    found = _taken(found, np.lexsort((-found.scores, found.image)))
    rank = np.arange(len(found.image)) - np.searchsorted(found.image, found.image)
    found = _taken(found, np.flatnonzero(rank < most))
    pairs = _pairs(there, found, len(checked.image_ids))
    return Case(tuple(checked.image_ids), tuple(checked.class_names), there, found, pairs)


def match(case: Case, min_iou: float = MIN_IOU) -> Matches:
    """Let each detection, best first, take the free object of its class that it overlaps most."""
    found = np.full(len(case.found.image), -1)
    in_crowd = np.zeros(len(case.found.image), bool)
    for one in case.pairs:
        if not one.iou.size:
            continue
        crowd = case.truth.crowd[one.truth]
        same = case.found.label[one.found, None] == case.truth.label[None, one.truth]
        free = np.where(same & ~crowd, one.iou, 0)
        for row in np.flatnonzero((free >= min_iou).any(1)):
            column = free[row].argmax()
            if free[row, column] >= min_iou:
                found[one.found.start + row] = one.truth.start + column
                free[:, column] = 0
        in_crowd[one.found] = (same & crowd & (one.iou > min_iou)).any(1)
    return Matches(found, in_crowd & (found < 0))


def _places(
    records: list[dict], image_of: dict[Any, int], label_of: dict[Any, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.array([image_of[record["image_id"]] for record in records], np.int64),
        np.array([label_of[record["category_id"]] for record in records], np.int64),
        np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4),
    )


def _taken(arrays: Any, rows: np.ndarray) -> Any:
    return type(arrays)(*(array[rows] for array in arrays))


def _pairs(truth: Truth, found: Detected, images: int) -> tuple[Pairs, ...]:
    # Imported here, as in average_precision: not every reader of a summary needs it.
    from pycocotools import mask

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
            iou = np.asarray(mask.iou(found.boxes[here], truth.boxes[there], crowd))
        pairs.append(Pairs(here, there, iou))
    return tuple(pairs)
