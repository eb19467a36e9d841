"""Does a score say how often a detection is right?"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.matches import Case, Matches

BINS = 10
MIN_SCORE = 0.05
"""Score from which on a detection counts: a detector fills its list with boxes of hardly any
score, which are right about as seldom as they say and would drown all others."""


@dataclass(frozen=True)
class Bin:
    """Detections with scores in one range; None where there are none."""

    low: float
    high: float
    count: int
    score: float | None
    """Mean score."""
    precision: float | None
    """Share of them that are right."""


@dataclass(frozen=True)
class Calibration:
    """How far scores and precision lie apart; None where no detection counts."""

    reliability: tuple[Bin, ...]
    """Bins of equal width from 0 to 1."""
    d_ece: float | None
    """Detection expected calibration error (arXiv 2004.13546) over the score alone: the mean gap
    between score and precision, over bins of equal width, weighted by their detections."""
    ece: float | None
    """Expected calibration error over as many bins of (nearly) equal count, which says more where
    most scores lie close together."""
    excess: float | None
    """Mean score less precision: above 0 the detector is too sure of itself."""
    detections: int
    left_out: int
    """Detections below `min_score`, or in a crowd."""
    min_score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dict, ready for JSON."""
        return {**asdict(self), "reliability": [asdict(one) for one in self.reliability]}

    def line(self) -> str:
        """What a person wants to know."""
        if self.excess is None:
            return f"calibration: no detection has a score of {self.min_score:g} or more"
        if abs(self.excess) < 0.005:
            leans = "scores and precision agree on average"
        else:
            sure = "too high" if self.excess > 0 else "too low"
            leans = f"scores are {abs(self.excess):.2f} {sure} on average"
        return (
            f"calibration of {self.detections} detections with a score of {self.min_score:g} or "
            f"more ({self.left_out} left out): D-ECE {self.d_ece:.4f}, ECE of equal counts "
            f"{self.ece:.4f}; {leans}"
        )


def calibrate(
    case: Case, matches: Matches, *, bins: int = BINS, min_score: float = MIN_SCORE
) -> Calibration:
    """Compare scores with precision; a detection is right if `matches` gives it an object."""
    keep = ~matches.in_crowd & (case.found.scores >= min_score)
    scores, right = case.found.scores[keep], matches.truth[keep] >= 0
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        wrong = scores[(scores < 0) | (scores > 1)][0]
        raise InputError(
            f"expected scores between 0 and 1, got {wrong:g}; calibration compares scores with "
            "the share of detections that are right, so turn them into probabilities"
        )
    edges = np.linspace(0, 1, bins + 1)
    # A score on an edge belongs to the bin above it, and 1 to the last.
    place = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, bins - 1)
    reliability = tuple(
        _bin(float(low), float(high), scores[place == index], right[place == index])
        for index, (low, high) in enumerate(pairwise(edges))
    )
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    count = len(scores)
    return Calibration(
        reliability=reliability,
        d_ece=sum(_gap(one) * one.count for one in reliability) / count if count else None,
        ece=_mean_gap(scores, right, parts) if count else None,
        excess=float(scores.mean() - right.mean()) if count else None,
        detections=count,
        left_out=len(keep) - count,
        min_score=min_score,
    )


def _bin(
    low: float, high: float, scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"]
) -> Bin:
    if not scores.size:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, len(scores), float(scores.mean()), float(right.mean()))


def _gap(one: Bin) -> float:
    return 0.0 if one.score is None or one.precision is None else abs(one.score - one.precision)


def _mean_gap(
    scores: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], parts: list[np.ndarray]
) -> float:
    return sum(abs(float((scores[part] - right[part]).sum())) for part in parts) / len(scores)
