"""COCO's evaluation of boxes: by hotcoco, or by pycocotools itself, bit for bit the same.

pycocotools is the reference, and a loop in Python over images, classes and sizes. hotcoco does the
same in Rust in a fiftieth of the time or less, which is what lets a sweep score every rung and a
training every epoch. The tests compare them number by number.
"""

import contextlib
import io
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.truth import GroundTruth

Scorer = Literal["hotcoco", "pycocotools"]
SIZES = ("all", "small", "medium", "large")
"""COCO's ranges of areas, in its order."""


class Evaluation:
    """What an evaluation has come to."""

    def __init__(self, evaluator: Any, by_image: Callable[[], np.ndarray]):
        self.stats: Float64[np.ndarray, 12] = np.asarray(evaluator.stats, float)
        """COCO's twelve numbers; -1 where there is nothing to score."""
        self.precision: Float64[np.ndarray, "t r c a m"] = np.asarray(evaluator.eval["precision"])
        """By IoU, recall, class, size and limit of detections; -1 where the class has no object.

        Classes are in the order of their ids."""
        self._by_image = by_image

    @cached_property
    def by_image(self) -> np.ndarray:
        """COCOeval's record of each class, size and image, in the order of ids; None: nothing."""
        return self._by_image()


def evaluated(truth: GroundTruth, detections: Detections, scorer: Scorer = "hotcoco") -> Evaluation:
    """Match the detections with the truth, and count.

    ValueError where detections are of images or classes that the truth does not have.
    """
    truth.check(detections)
    order = _Order(_ranks(truth.image_ids), _ranks(truth.category_ids))
    by = _by_hotcoco if scorer == "hotcoco" else _by_pycocotools
    # Both print what they have counted.
    with contextlib.redirect_stdout(io.StringIO()):
        return by(truth, detections, order)


class _Order(NamedTuple):
    """Ids, from 1, that sort as the file's own do: that decides among equal scores."""

    image: Int[np.ndarray, " i"]
    label: Int[np.ndarray, " c"]

    @property
    def images(self) -> list[dict[str, Any]]:
        return [{"id": number} for number in range(1, len(self.image) + 1)]

    @property
    def categories(self) -> list[dict[str, Any]]:
        return [{"id": number, "name": str(number)} for number in range(1, len(self.label) + 1)]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, sizes and images."""
        return len(self.label), len(SIZES), len(self.image)


def _ranks(ids: tuple[int | str, ...]) -> Int[np.ndarray, " n"]:
    place = {number: rank for rank, number in enumerate(sorted(ids), 1)}
    return np.array([place[number] for number in ids], np.int64)


def _by_hotcoco(truth: GroundTruth, found: Detections, order: _Order) -> Evaluation:
    # Imported here, as pycocotools below: reading scores back from a study does not need it.
    from hotcoco import COCO, COCOeval

    objects = COCO.from_arrays(
        images=order.images,
        categories=order.categories,
        image_ids=order.image[truth.image],
        category_ids=order.label[truth.labels],
        boxes=truth.xywh,
        area=truth.areas,
        iscrowd=truth.crowd,
    )
    images, labels = order.image[found.image], order.label[found.labels]
    results = objects.loadRes(np.column_stack([images, found.xywh, found.scores, labels]))
    evaluator = COCOeval(objects, results, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()

    def by_image() -> np.ndarray:
        # What has neither objects nor detections may be missing, and the order is another one.
        records = np.full(order.shape, None, object)
        ranges = [tuple(map(float, one)) for one in evaluator.params.areaRng]
        for one in evaluator.evalImgs:
            if one is not None:
                place = ranges.index(tuple(map(float, one["aRng"])))
                records[one["category_id"] - 1, place, one["image_id"] - 1] = one
        return records

    return Evaluation(evaluator, by_image)


def _by_pycocotools(truth: GroundTruth, found: Detections, order: _Order) -> Evaluation:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    columns = (
        _records(truth, order, area=truth.areas, iscrowd=truth.crowd.astype(int)),
        _records(found, order, area=found.xywh[:, 2:].prod(1), score=found.scores),
    )
    sides = []
    for records in columns:
        # Not loadRes: it fails on an empty list.
        side: Any = COCO()
        side.dataset = {
            "images": order.images,
            "categories": order.categories,
            "annotations": records,
        }
        side.createIndex()
        sides.append(side)
    evaluator = COCOeval(*sides, iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()

    def by_image() -> np.ndarray:
        records = np.empty(order.shape, object)
        records.ravel()[:] = evaluator.evalImgs
        return records

    return Evaluation(evaluator, by_image)


def _records(
    side: GroundTruth | Detections, order: _Order, **columns: np.ndarray
) -> list[dict[str, Any]]:
    """Columns as COCO's records."""
    images, labels = order.image[side.image].tolist(), order.label[side.labels].tolist()
    places = zip(images, labels, side.xywh.tolist(), strict=True)
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {
            # Not from 0: COCOeval takes a match with id 0 for no match.
            "id": index,
            "image_id": image,
            "category_id": label,
            "bbox": box,
            **dict(zip(columns, row, strict=True)),
        }
        for index, ((image, label, box), row) in enumerate(zip(places, values, strict=True), 1)
    ]
