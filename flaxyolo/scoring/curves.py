"""What a page draws of a detector: precision against recall, and how sure its scores are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from flaxyolo.scoring.bootstrap import draw_weights
from flaxyolo.scoring.coco_matches import Matched
from flaxyolo.scoring.matches import MIN_IOU
from flaxyolo.scoring.resamples import resampled
from flaxyolo.scoring.thresholds import Curve, Point, Thresholds, point
from flaxyolo.spec import parse

STEPS = 100
"""Of the recall axis: at most one point of a curve is kept in each."""
CONFIDENCE = 0.95
SHOWN = ("map", "map_50", "map_small", "map_medium", "map_large")
"""The numbers that have an interval."""


@dataclass(frozen=True)
class Line:
    """Precision at growing recall, from the highest score on; empty where nothing was found."""

    name: str
    objects: int
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Curves of all classes together and of each, the best score to cut at, and intervals."""

    overall: Line
    classes: tuple[Line, ...]
    min_iou: float
    best_score: float | None = None
    best: Point | None = None
    """Of all classes together, from that score on."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """At 95 %, over the validation images, of COCO's numbers by their names in `Scores`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        best = None if self.best is None else self.best._asdict()
        return {**asdict(self), "best": best}

    @classmethod
    def from_dict(cls, data: object, where: str = "curves") -> "Curves":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


def curves(found: Thresholds, matched: Mapping[str, Matched]) -> Curves:
    """What is drawn of these thresholds, with the intervals of what was `matched` by size."""
    return Curves(
        overall=thinned(found.overall),
        classes=tuple(map(thinned, found.classes)),
        min_iou=MIN_IOU,
        best_score=found.best,
        best=None if found.best is None else point(found.overall, found.best),
        intervals=intervals(matched),
    )


def thinned(one: Curve) -> Line:
    """A curve's own points, the first at every step of recall; none of a class without objects."""
    if not one.objects or not len(one.scores):
        return Line(one.name, one.objects, (), ())
    kept = np.unique(np.searchsorted(one.recall, np.linspace(0, one.recall[-1], STEPS + 1)))
    rounded = (np.round(values[kept], 4).tolist() for values in (one.recall, one.precision))
    return Line(one.name, one.objects, *map(tuple, rounded))


def intervals(matched: Mapping[str, Matched]) -> dict[str, tuple[float, float]]:
    """Where each number lies with 95 % over the validation images, by bootstrap.

    None of fewer than two images, or of a size that hardly a resample has objects of.
    """
    images = matched["all"].objects.shape[1]
    if images < 2:
        return {}
    edges = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    found = {}
    for name, values in resampled(matched, SHOWN, draw_weights(images)).items():
        known = values[~np.isnan(values)]
        if 2 * len(known) >= len(values):
            low, high = np.quantile(known, edges).tolist()
            found[name] = (low, high)
    return found
