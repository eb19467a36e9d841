"""Which class is taken for which, with the background as one more class."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.matches import MIN_IOU, Case
from flaxyolo.spec import parse

MIN_SCORE = 0.25
"""Score from which on a detection is looked at: below it one would not act on it."""
BACKGROUND = "background"
MOST_PAIRS = 10


@dataclass(frozen=True)
class Pair:
    """Objects of one class that were taken for another."""

    truth: str
    found: str
    count: int
    share: float
    """Of all objects of the class."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of objects by their class and by the class that was found."""

    class_names: tuple[str, ...]
    matrix: Int[np.ndarray, "k1 k1"]
    """Row: class of the object; column: class that was found. The last row holds detections of
    nothing, the last column objects that were not found."""
    min_iou: float
    min_score: float

    def pairs(self, most: int = MOST_PAIRS) -> list[Pair]:
        """The pairs of classes that were mistaken most often; the background is not among them."""
        counts = self.matrix[:-1, :-1].copy()
        np.fill_diagonal(counts, 0)
        totals = self.matrix.sum(1)
        ranked = np.argsort(-counts, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(ranked, counts.shape)
        return [
            Pair(
                self.class_names[row],
                self.class_names[column],
                int(counts[row, column]),
                float(counts[row, column] / totals[row]),
            )
            for row, column in zip(rows, columns, strict=True)
            if counts[row, column]
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, ready for JSON."""
        return {
            "classes": [*self.class_names, BACKGROUND],
            "matrix": self.matrix.tolist(),
            "pairs": [asdict(pair) for pair in self.pairs()],
            "min_iou": self.min_iou,
            "min_score": self.min_score,
        }

    @classmethod
    def from_dict(cls, data: object, where: str = "confusion") -> "Confusion":
        """The inverse of `to_dict`."""
        known = parse(_Stored, data, where)
        matrix = np.array(known.matrix, np.int64)
        if matrix.shape != (len(known.classes),) * 2:
            raise InputError(
                f"{where}: matrix: expected {len(known.classes)} rows of as many counts, got "
                f"{matrix.shape}"
            )
        return cls(known.classes[:-1], matrix, known.min_iou, known.min_score)


@dataclass(frozen=True)
class _Stored:
    """`Confusion.to_dict`."""

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    min_iou: float
    min_score: float


def confusion_matrix(
    case: Case, *, min_iou: float = MIN_IOU, min_score: float = MIN_SCORE
) -> Confusion:
    """Let each detection, best first, take the free object that it overlaps most, of any class.

    Detections below `min_score` are left out, and so are those that take no object and lie in a
    crowd of their class.
    """
    if not 0 < min_iou <= 1:
        raise InputError(f"expected a least IoU above 0 and up to 1, got {min_iou:g}")
    classes = len(case.truth.class_names)
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for one in case.pairs:
        labels = case.found.labels[one.found]
        objects, crowd = case.truth.labels[one.truth], case.truth.crowd[one.truth]
        free = np.where(crowd, 0, one.iou)
        lost = ~crowd
        for row in np.flatnonzero(case.found.scores[one.found] >= min_score):
            column = int(free[row].argmax()) if free.size else -1
            if column >= 0 and free[row, column] >= min_iou:
                matrix[objects[column], labels[row]] += 1
                free[:, column] = 0
                lost[column] = False
            elif not (crowd & (objects == labels[row]) & (one.iou[row] > min_iou)).any():
                matrix[classes, labels[row]] += 1
        matrix[:, classes] += np.bincount(objects[lost], minlength=classes + 1)
    return Confusion(case.truth.class_names, matrix, min_iou, min_score)
