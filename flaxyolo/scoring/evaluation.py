"""COCO's evaluation of boxes: by hotcoco, or by pycocotools itself, bit for bit the same.

pycocotools is the reference, and a loop in Python over images, classes and sizes. hotcoco does the
same in Rust in a fiftieth of the time or less, which is what lets a sweep score every rung and a
training every epoch. The tests compare them number by number.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.truth import GroundTruth, places

Scorer = Literal["hotcoco", "pycocotools"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation has come to."""

    stats: Float64[np.ndarray, " 12"]
    """COCO's twelve numbers; -1 where there is nothing to score."""
    precision: Float64[np.ndarray, "t r c a m"]
    """By IoU, recall, class, size and limit of detections; -1 where the class has no object.

    Classes are in the order of their ids."""


def evaluated(truth: GroundTruth, detections: Detections, scorer: Scorer = "hotcoco") -> Evaluation:
    """Match the detections with the truth, and count.

    ValueError where detections are of images or classes that the truth does not have.
    """
    truth.check(detections)
    order = _Order(places(truth.image_ids) + 1, places(truth.category_ids) + 1)
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
    return _counted(COCOeval(objects, results, "bbox"))


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
    return _counted(COCOeval(*sides, iouType="bbox"))


def _counted(evaluator: Any) -> Evaluation:
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return Evaluation(np.asarray(evaluator.stats, float), np.asarray(evaluator.eval["precision"]))


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
