"""COCO average precision by size and by class, as pycocotools computes it."""

import contextlib
import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.truth import GroundTruth
from flaxyolo.spec import parse


@dataclass(frozen=True)
class ClassScores:
    """Average precision of one class; None where the class has no objects."""

    name: str
    map: float | None
    map_50: float | None


@dataclass(frozen=True)
class Scores:
    """COCO's twelve numbers and the scores per class; None where there is nothing to score."""

    map: float | None
    map_50: float | None
    map_75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar_1: float | None
    mar_10: float | None
    mar_100: float | None
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None
    per_class: tuple[ClassScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain dict with torchmetrics' keys and `per_class`, ready for JSON."""
        return {**asdict(self), "per_class": [asdict(scores) for scores in self.per_class]}

    @classmethod
    def from_dict(cls, data: object, where: str = "scores") -> "Scores":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


def coco_scores(truth: GroundTruth, detections: Detections) -> Scores:
    """Score detections against ground truth as pycocotools does."""
    return scores_of(truth, evaluated(truth, detections))


def scores_of(truth: GroundTruth, evaluator: Any) -> Scores:
    """What pycocotools' evaluation of detections against this truth has come to."""
    stats, precision = np.asarray(evaluator.stats), evaluator.eval["precision"]
    # COCOeval sorts the categories by id.
    place = {number: k for k, number in enumerate(sorted(truth.category_ids))}
    per_class = []
    for name, number in zip(truth.class_names, truth.category_ids, strict=True):
        mine = precision[:, :, place[number], 0, -1]
        per_class.append(ClassScores(name, _mean(mine), _mean(mine[0])))
    numbers = {
        key: None if value < 0 else float(value) for key, value in zip(KEYS, stats, strict=True)
    }
    return Scores(**numbers, per_class=tuple(per_class))


def evaluated(truth: GroundTruth, detections: Detections) -> Any:
    """A COCOeval of pycocotools that has run.

    Its `stats` are the twelve numbers, `eval["precision"]` has the axes IoU, recall, class, size
    and limit (-1: nothing there), and `evalImgs` holds what was matched in every image.
    """
    truth.check(detections)
    # Imported here: reading scores back from a study does not need it.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = _records(truth, truth, area=truth.areas, iscrowd=truth.crowd.astype(int))
    results = _records(
        truth, detections, area=detections.xywh[:, 2:].prod(1), score=detections.scores
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = []
        for records in (objects, results):
            # Not loadRes: it fails on an empty list.
            side: Any = COCO()
            side.dataset = {
                "images": [{"id": number} for number in truth.image_ids],
                "categories": [{"id": number} for number in truth.category_ids],
                "annotations": records,
            }
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _records(
    truth: GroundTruth, side: GroundTruth | Detections, **columns: np.ndarray
) -> list[dict[str, Any]]:
    """Columns as COCO's records."""
    places = zip(side.image.tolist(), side.labels.tolist(), side.xywh.tolist(), strict=True)
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {
            # Not from 0: COCOeval takes a match with id 0 for no match.
            "id": index,
            "image_id": truth.image_ids[image],
            "category_id": truth.category_ids[label],
            "bbox": box,
            **dict(zip(columns, row, strict=True)),
        }
        for index, ((image, label, box), row) in enumerate(zip(places, values, strict=True), 1)
    ]


def _mean(precision: np.ndarray) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None


KEYS = (
    "map",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)
"""torchmetrics' names of the twelve numbers, in COCO's order."""
