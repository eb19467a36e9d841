"""COCO's twelve numbers of many resamples of the validation images: how sure is a score?

What is matched by COCO's rules (coco_matches.py) is taken as it is, for every range of areas, and
only counted again: a resample gives every image a weight, as in bootstrap.py.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.scoring.bootstrap import weighted_precision
from flaxyolo.scoring.coco_matches import Matched, Matches

RESAMPLES = 128
"""Their spread is known to 6 %: 1 / sqrt(2 x 128)."""
LIMITS = {"mar_1": 1, "mar_10": 10}
"""Best detections of each class in an image that count, in the numbers that have other than all."""
AT = {"map_50": 0, "map_75": 5}
"""IoU threshold of the numbers that have one alone."""


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
