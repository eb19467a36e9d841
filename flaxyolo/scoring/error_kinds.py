"""What a detector does wrong and the average precision it costs, after TIDE (arXiv 2008.08115).

The numbers are those of the package tidecv 1.0.1 with boxes. Its average precision is not quite
COCO's: of an image the best 100 detections count over all classes, not of each class, and a class
that is detected but has no object counts as 0 instead of being left out.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.matches import MIN_IOU, Case, Matches, case_of, match
from flaxyolo.scoring.truth import GroundTruth
from flaxyolo.spec import parse

BACKGROUND_IOU = 0.1
"""Overlap up to which a detection has nothing to do with an object."""

CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class Part:
    """Errors of one kind and size."""

    cost: float | None
    """AP at IoU 0.5 over all sizes that is gained if these errors alone are mended, 0 to 1."""
    count: int


@dataclass(frozen=True)
class Kind:
    """Errors of one kind; those of the sizes add up in `count`, but not in `cost`."""

    cost: float | None
    count: int
    sizes: dict[str, Part]


@dataclass(frozen=True)
class ErrorKinds:
    """What each kind of error costs; the costs are None where there is no object.

    An error's size is that of the object it is about (COCO's: the annotated area, small up to
    32 x 32 pixels and medium up to 96 x 96), and of the detection's own box for background.
    """

    map_50: float | None
    """Mean AP at IoU 0.5 by tidecv's rules."""
    kinds: dict[str, Kind]
    """By the names in KINDS."""
    false_positives: Kind
    """All wrong detections; the cost is what moving them behind all right ones gains."""
    false_negatives: Kind
    """All objects that are not found; the cost is what taking them away gains."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object, where: str = "errors") -> "ErrorKinds":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


class Errors(NamedTuple):
    """Each single error."""

    kind: Int[np.ndarray, " e"]
    """Index into KINDS."""
    found: Int[np.ndarray, " e"]
    """The wrong detection, or -1: missed."""
    truth: Int[np.ndarray, " e"]
    """The object it is about, or -1: background. For `both` and `duplicate` the one that the
    detection overlaps most."""
    iou: Float[np.ndarray, " e"]
    """Overlap of the two; of a background error, with whatever is nearest."""
    mends: Bool[np.ndarray, " e"]
    """Whether the detection, once right, finds its object. Only the best detection of an object
    that no other finds does; of the others, the mended form is that they are gone."""


def error_kinds(truth: GroundTruth, detections: Detections) -> ErrorKinds:
    """Sort what is wrong into kinds."""
    case = case_of(truth, detections)
    matches = match(case)
    return score_errors(case, matches, find_errors(case, matches))


def find_errors(
    case: Case,
    matches: Matches,
    *,
    min_iou: float = MIN_IOU,
    background_iou: float = BACKGROUND_IOU,
) -> Errors:
    """Every wrong detection with the first kind that fits, and every object that none is about.

    The order is localisation, classification, duplicate, background, both. A detection in a crowd
    of its class is an error only where mending it finds an object; tidecv counts the others as
    well, at no cost.
    """
    used = np.zeros(len(case.truth.crowd), bool)
    used[matches.truth[matches.truth >= 0]] = True
    told = [
        _errors_of(case, matches, used, index, min_iou, background_iou)
        for index in range(len(case.pairs))
    ]
    nothing = Errors(*(np.zeros(0, kind) for kind in (int, int, int, float, bool)))
    return Errors(*map(np.concatenate, zip(nothing, *told, strict=True)))


def score_errors(case: Case, matches: Matches, errors: Errors) -> ErrorKinds:
    """What mending each kind alone gains."""
    base = _precision(case, matches, errors)
    sizes = error_sizes(case, errors)

    def kind(chosen: np.ndarray, sizes: np.ndarray, gain: Any) -> Kind:
        def part(chosen: np.ndarray) -> Part:
            return Part(None if base is None else gain(chosen), int(chosen.sum()))

        parts = {name: part(chosen & (sizes == place)) for place, name in enumerate(SIZES)}
        return Kind(**asdict(part(chosen)), sizes=parts)

    def mended(chosen: np.ndarray) -> float:
        # As in tidecv: a cost below 0 comes of the steps of the recall axis.
        return max(_gain(base, _precision(case, matches, errors, mended=chosen)), 0.0)

    def demoted(chosen: np.ndarray) -> float:
        return _gain(base, _precision(case, matches, errors, last=errors.found[chosen]))

    def taken_away(chosen: np.ndarray) -> float:
        return _gain(base, _precision(case, matches, errors, gone=lost[chosen]))

    lost = np.setdiff1d(np.flatnonzero(~case.truth.crowd), matches.truth)
    wrong = errors.found >= 0
    wrong[wrong] = ~matches.in_crowd[errors.found[wrong]]
    return ErrorKinds(
        map_50=base,
        kinds={
            name: kind(errors.kind == number, sizes, mended) for number, name in enumerate(KINDS)
        },
        false_positives=kind(wrong, sizes, demoted),
        false_negatives=kind(np.ones(len(lost), bool), _sizes(case.truth.areas[lost]), taken_away),
    )


def error_sizes(case: Case, errors: Errors) -> Int[np.ndarray, " e"]:
    """The size of each error as an index into SIZES."""
    areas = np.zeros(len(errors.kind))
    about = errors.truth >= 0
    areas[about] = case.truth.areas[errors.truth[about]]
    areas[~about] = case.found.xywh[errors.found[~about], 2:].prod(1)
    return _sizes(areas)


def _sizes(areas: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.array(LIMITS), areas)


def _errors_of(
    case: Case,
    matches: Matches,
    used: np.ndarray,
    index: int,
    min_iou: float,
    background_iou: float,
) -> Errors:
    """The errors in one image, detections first and best first, then what is missed."""
    place = case.pairs[index]
    ordinary = np.flatnonzero(~case.truth.crowd[place.truth]) + place.truth.start
    found = np.flatnonzero(matches.truth[place.found] < 0) + place.found.start
    kind = np.full(len(found), BACKGROUND)
    truth, overlap = np.full(len(found), -1), np.zeros(len(found))
    mends = np.zeros(len(found), bool)
    if len(ordinary) and len(found):
        iou = place.iou[np.ix_(found - place.found.start, ordinary - place.truth.start)]
        same = case.found.labels[found, None] == case.truth.labels[None, ordinary]
        own, taken = iou * same, iou * same * used[ordinary]
        other = iou * ~same
        # The first condition that holds decides; a detection that overlaps an object by exactly
        # `min_iou` and comes too late is a matter of place.
        conditions = (
            (own.max(1) >= background_iou) & (own.max(1) <= min_iou),
            other.max(1) >= min_iou,
            taken.max(1) >= min_iou,
            iou.max(1) <= background_iou,
        )
        kind = np.select(conditions, (LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND), BOTH)
        columns = np.select(conditions[:3], [one.argmax(1) for one in (own, other, taken)], -1)
        columns = np.where(columns < 0, iou.argmax(1), columns)
        truth, overlap = ordinary[columns], iou[np.arange(len(found)), columns]
        hopeful = np.flatnonzero((kind <= LOCALISATION) & ~used[truth])
        mends[hopeful[np.unique(truth[hopeful], return_index=True)[1]]] = True
        truth = np.where(kind == BACKGROUND, -1, truth)
    keep = mends | ~matches.in_crowd[found]
    missed = np.setdiff1d(ordinary[~used[ordinary]], truth[mends])
    return Errors(
        kind=np.concatenate([kind[keep], np.full(len(missed), MISSED)]),
        found=np.concatenate([found[keep], np.full(len(missed), -1)]),
        truth=np.concatenate([truth[keep], missed]),
        iou=np.concatenate([overlap[keep], np.zeros(len(missed))]),
        mends=np.concatenate([mends[keep], np.zeros(len(missed), bool)]),
    )


def _precision(
    case: Case,
    matches: Matches,
    errors: Errors,
    *,
    mended: Bool[np.ndarray, " e"] | None = None,
    last: Int[np.ndarray, " k"] | None = None,
    gone: Int[np.ndarray, " k"] | None = None,
) -> float | None:
    """Mean AP after some errors are mended, detections put last, or objects taken away."""
    labels, scores = case.found.labels.copy(), case.found.scores.copy()
    right, keep = matches.truth >= 0, ~matches.in_crowd
    away = [] if gone is None else [gone]
    if mended is not None:
        false = mended & (errors.found >= 0)
        keep[errors.found[false]] = errors.mends[false]
        true = mended & errors.mends
        right[errors.found[true]] = True
        labels[errors.found[true]] = case.truth.labels[errors.truth[true]]
        away.append(errors.truth[mended & (errors.kind == MISSED)])
    if last is not None:
        scores[last] = -np.inf
    classes = len(case.truth.class_names)
    positives = np.bincount(case.truth.labels[~case.truth.crowd], minlength=classes)
    if not positives.sum():
        return None
    for objects in away:
        positives = positives - np.bincount(case.truth.labels[objects], minlength=classes)
    return _mean_precision(labels[keep], scores[keep], right[keep], positives)


def _mean_precision(
    labels: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    right: Bool[np.ndarray, " n"],
    positives: Int[np.ndarray, " k"],
) -> float:
    """Mean over the classes that have an object or a detection; of equal scores the first leads."""
    order = np.lexsort((-scores, labels))
    right = right[order]
    ends = np.cumsum(np.bincount(labels, minlength=len(positives)))
    found = []
    for label, end in enumerate(ends):
        mine = right[ends[label - 1] if label else 0 : end]
        if positives[label] or len(mine):
            found.append(_class_precision(mine, int(positives[label])))
    # Where nothing is left that could be wrong, everything is right.
    return float(np.mean(found)) if found else 1.0


def _class_precision(right: Bool[np.ndarray, " n"], positives: int) -> float:
    """Area under precision over recall in COCO's 101 steps, of detections with the best first."""
    if not positives or not right.any():
        return 0.0
    true = np.cumsum(right)
    precision = np.maximum.accumulate((true / np.arange(1, len(right) + 1))[::-1])[::-1]
    reached = np.searchsorted(true / positives, np.arange(101) / 100)
    return float(np.append(precision, 0.0)[reached].mean())


def _gain(base: float | None, better: float | None) -> float:
    assert base is not None
    assert better is not None
    return better - base


LIMITS = (32.0**2, 96.0**2)
"""Largest areas of a small and of a medium object, in square pixels."""
SIZES = ("small", "medium", "large")
