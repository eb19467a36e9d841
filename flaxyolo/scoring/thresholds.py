"""Precision and recall from each score on, and the score at which their F1 is largest."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from flaxyolo.scoring.matches import Case, Matches


class Curve(NamedTuple):
    """Detections of one class, or of all, from each of their scores on, the highest first."""

    name: str
    objects: int
    """Those that are no crowd."""
    scores: Float[np.ndarray, " n"]
    """Falling, each once."""
    precision: Float[np.ndarray, " n"]
    recall: Float[np.ndarray, " n"]
    """NaN where there are no objects."""

    @property
    def f1(self) -> Float[np.ndarray, " n"]:
        """The harmonic mean of the two."""
        total = self.precision + self.recall
        # Where nothing is right both are 0.
        return 2 * self.precision * self.recall / np.where(total == 0, 1, total)


class Point(NamedTuple):
    """What is reached with the detections from one score on; None where there is nothing."""

    precision: float | None
    recall: float | None
    f1: float | None


class Thresholds(NamedTuple):
    """The curves of all classes together and of each, and the best score to cut at."""

    overall: Curve
    classes: tuple[Curve, ...]
    best: float | None
    """The score from which on F1 of all classes together is largest; None where F1 is never above
    0."""

    def at_best(self) -> dict[str, Any]:
        """What is reached at the best score, by all classes together and by each; plain data."""
        return {
            "score": self.best,
            **self._reached(self.overall)._asdict(),
            "per_class": [
                {"name": one.name, **self._reached(one)._asdict()} for one in self.classes
            ],
        }

    def _reached(self, one: Curve) -> Point:
        return Point(None, None, None) if self.best is None else point(one, self.best)


def thresholds(case: Case, matches: Matches) -> Thresholds:
    """The curves of what `matches` says; detections in a crowd of their class count neither way."""
    truth, found = case.truth, case.found
    counted, right = ~matches.in_crowd, matches.truth >= 0
    objects = truth.labels[~truth.crowd]
    classes = []
    for label, name in enumerate(truth.class_names):
        mine = counted & (found.labels == label)
        count = int((objects == label).sum())
        classes.append(curve(name, found.scores[mine], right[mine], count))
    overall = curve("all classes", found.scores[counted], right[counted], len(objects))
    reached = np.nan_to_num(overall.f1)
    best = float(overall.scores[reached.argmax()]) if reached.any() else None
    return Thresholds(overall, tuple(classes), best)


def curve(
    name: str, scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], objects: int
) -> Curve:
    """Precision and recall of detections from each score on."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    # No threshold tells equal scores apart.
    last = np.flatnonzero(np.diff(scores, append=-np.inf))
    recall = hits[last] / objects if objects else np.full(len(last), np.nan)
    return Curve(name, objects, scores[last], hits[last] / (last + 1), recall)


def point(curve: Curve, threshold: float) -> Point:
    """What a curve has reached at a score."""
    place = int(np.searchsorted(-curve.scores, -threshold, side="right")) - 1
    if place < 0:
        # Nothing is found; precision has no meaning.
        return Point(None, 0.0, 0.0) if curve.objects else Point(None, None, None)
    precision = float(curve.precision[place])
    if not curve.objects:
        return Point(precision, None, None)
    return Point(precision, float(curve.recall[place]), float(curve.f1[place]))
