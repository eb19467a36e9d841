"""COCO's twelve numbers of many resamples of the validation images: how sure is a score?

What COCO's evaluation has matched is taken as it is, for every range of areas, and only counted
again: a resample gives every image a weight, as in bootstrap.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.scoring.bootstrap import Matches, weighted_precision
from flaxyolo.scoring.evaluation import SIZES, Evaluation

RESAMPLES = 128
"""Their spread is known to 6 %: 1 / sqrt(2 x 128)."""
LIMITS = {"mar_1": 1, "mar_10": 10}
"""Best detections of each class in an image that count, in the numbers that have other than all."""
AT = {"map_50": 0, "map_75": 5}
"""IoU threshold of the numbers that have one alone."""


class Matched(NamedTuple):
    """Detections of one range of areas against its objects, class by class."""

    objects: Int[np.ndarray, "c i"]
    """Of each class in each image, those that count."""
    found: tuple[Matches, ...]
    ranks: tuple[Int[np.ndarray, " n"], ...]
    """Of each detection among those of its class in its image, the best is 0."""


def matched_by_size(evaluation: Evaluation) -> dict[str, Matched]:
    """What an evaluation has matched, by COCO's names of sizes: all, small, medium and large.

    Images and classes are in the order of their ids. Detections that count at no threshold, such
    as those of another size, are left out.
    """
    by_image = evaluation.by_image
    return {size: _matched(by_image[:, place]) for place, size in enumerate(SIZES)}


def _matched(by_image: np.ndarray) -> Matched:
    objects = np.zeros(by_image.shape, np.int64)
    found, ranks = [], []
    for label, images in enumerate(by_image):
        there = [(place, one) for place, one in enumerate(images) if one is not None]
        for place, one in there:
            objects[label, place] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        matches, rank = _of_class(there)
        found.append(matches)
        ranks.append(rank)
    return Matched(objects, tuple(found), tuple(ranks))


def _of_class(there: list[tuple[int, Any]]) -> tuple[Matches, Int[np.ndarray, " n"]]:
    if not there:
        none = np.zeros((0, 0), bool)
        return Matches(np.zeros(0, np.int64), none, none), np.zeros(0, np.int64)
    counts = [len(one["dtScores"]) for _, one in there]
    image = np.repeat([place for place, _ in there], counts)
    scores = np.concatenate([one["dtScores"] for _, one in there])
    ignored = np.concatenate([one["dtIgnore"] for _, one in there], axis=1).astype(bool)
    hit = np.concatenate([one["dtMatches"] for _, one in there], axis=1) > 0
    rank = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort(-scores, kind="stable")
    order = order[~ignored[:, order].all(0)]
    matches = Matches(image[order], (hit & ~ignored)[:, order], ignored[:, order])
    return matches, rank[order]


def resampled(
    matched: Mapping[str, Matched], names: Iterable[str], weights: Int[np.ndarray, "b i"]
) -> dict[str, Float[np.ndarray, " b"]]:
    """Numbers of COCO's twelve under every row of weights of the images.

    A class without objects among the drawn images is left out of their mean; NaN where that is
    every class.
    """
    precision: dict[str, np.ndarray] = {}
    values = {}
    for name in names:
        size = name.rpartition("_")[2]
        size = size if size in matched else "all"
        side = matched[size]
        if name.startswith("mar"):
            values[name] = _recall(side, LIMITS.get(name), weights)
            continue
        if size not in precision:
            (precision[size],) = weighted_precision(side.objects, [side.found], weights)
        of_size = precision[size]
        values[name] = of_size[:, AT[name]] if name in AT else of_size.mean(1)
    return values


def _recall(
    side: Matched, limit: int | None, weights: Int[np.ndarray, "b i"]
) -> Float[np.ndarray, " b"]:
    """Mean recall over thresholds and classes."""
    total, present = np.zeros(len(weights)), np.zeros(len(weights), np.int64)
    for count, matches, rank in zip(*side, strict=True):
        objects = weights @ count
        present += objects > 0
        total += weights @ _hits(matches, rank, limit, len(count)) / np.maximum(objects, 1)
    with np.errstate(invalid="ignore"):
        return total / present


def _hits(
    matches: Matches, rank: Int[np.ndarray, " n"], limit: int | None, images: int
) -> Float[np.ndarray, " i"]:
    """Objects found in each image, the mean over the thresholds."""
    share = matches.hit.sum(0) / max(len(matches.hit), 1)
    counted = share if limit is None else np.where(rank < limit, share, 0.0)
    return np.bincount(matches.image, counted, images).astype(float)
