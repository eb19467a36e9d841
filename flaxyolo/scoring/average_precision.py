"""COCO average precision by size and by class, as pycocotools computes it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.evaluation import Evaluation, Scorer, evaluated
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


def coco_scores(truth: GroundTruth, detections: Detections, scorer: Scorer = "hotcoco") -> Scores:
    """Score detections against ground truth as pycocotools does."""
    return scores_of(truth, evaluated(truth, detections, scorer))


def scores_of(truth: GroundTruth, evaluation: Evaluation) -> Scores:
    """What an evaluation of detections against this truth has come to."""
    place = {number: k for k, number in enumerate(sorted(truth.category_ids))}
    per_class = []
    for name, number in zip(truth.class_names, truth.category_ids, strict=True):
        mine = evaluation.precision[:, :, place[number], 0, -1]
        per_class.append(ClassScores(name, _mean(mine), _mean(mine[0])))
    numbers = {
        key: None if value < 0 else value
        for key, value in zip(KEYS, evaluation.stats.tolist(), strict=True)
    }
    return Scores(**numbers, per_class=tuple(per_class))


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
