"""Average precision of many resamples of the validation images: which images happened to be there?

Detections are matched once per image, class and IoU threshold (coco_matches.py); a resample gives
every image a weight, the number of times that it was drawn. At weights of one, the scores are those
of pycocotools; at others, those of a data set in which images occur several times.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.scoring.coco_matches import THRESHOLDS, Matches

RESAMPLES = 1000
RECALLS = np.linspace(0.0, 1.0, 101)
CHUNK = 64
"""Resamples at a time: their running sums stay in the processor's cache."""


def draw_weights(images: int, resamples: int = RESAMPLES, seed: int = 0) -> Int[np.ndarray, "b i"]:
    """How often each image is drawn in each resample."""
    random = np.random.default_rng(seed)
    return random.multinomial(images, np.full(images, 1 / images), size=resamples)


def weighted_map(
    counts: Int[np.ndarray, "c i"],
    runs: Sequence[tuple[Matches, ...]],
    weights: Int[np.ndarray, "b i"],
) -> Float[np.ndarray, "r b 2"]:
    """mAP50-95 and mAP50 of every run under every row of weights of the images.

    As of `weighted_precision`.
    """
    precision = weighted_precision(counts, runs, weights)
    return np.stack([precision.mean(-1), precision[..., 0]], -1)


def weighted_precision(
    counts: Int[np.ndarray, "c i"],
    runs: Sequence[tuple[Matches, ...]],
    weights: Int[np.ndarray, "b i"],
) -> Float[np.ndarray, "r b t"]:
    """Mean AP over the classes at every IoU threshold, of every run under every row of weights.

    `counts` are the objects of each class in each image. A class without objects among the drawn
    images is left out of their mean; NaN where that is every class.
    """
    resamples = len(weights)
    total = np.zeros((len(runs), resamples, len(THRESHOLDS)))
    present = np.zeros(resamples, np.int64)
    for start in range(0, resamples, CHUNK):
        part = slice(start, start + CHUNK)
        chunk = weights[part].astype(np.int32)
        for label, count in enumerate(counts):
            if not count.any():
                continue
            objects = chunk @ count.astype(np.int32)
            present[part] += objects > 0
            levels = _recall_levels(objects)
            for run, matches in enumerate(runs):
                total[run, part] += _weighted_ap(matches[label], chunk, levels)
    with np.errstate(invalid="ignore"):
        return total / present[:, None]


def _recall_levels(objects: np.ndarray) -> np.ndarray:
    """How many of COCO's 101 recalls are reached with n of the objects found, for each n."""
    most = int(objects.max())
    levels = np.zeros((len(objects), most + 1), np.int32)
    for row, number in enumerate(objects.tolist()):
        if number:
            recalls = np.arange(number + 1) / number
            levels[row, : number + 1] = np.searchsorted(RECALLS, recalls, side="right")
    return levels


def _weighted_ap(matches: Matches, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """One class's AP at every threshold, (b, t), for every row of weights.

    Precision counts only where an object is found: between two finds it only falls.
    """
    found = np.zeros((len(weights), len(THRESHOLDS)))
    # A hit at a higher threshold is not always one at the lowest.
    end = int(np.flatnonzero(matches.hit.any(0)).max(initial=-1)) + 1
    of_detection = weights[:, matches.image[:end]]
    seen = np.cumsum(of_detection, 1, dtype=np.int32)
    rows = np.arange(len(weights), dtype=np.int64)[:, None] * levels.shape[1]
    flat = levels.ravel()
    for t, (hit, ignored) in enumerate(zip(matches.hit, matches.ignored, strict=True)):
        places = np.flatnonzero(hit[:end])
        if not len(places):
            continue
        counted = seen[:, places]
        if ignored[:end].any():
            counted = (
                counted - np.cumsum(of_detection * ignored[:end], 1, dtype=np.int32)[:, places]
            )
        hits = np.cumsum(of_detection[:, places], 1, dtype=np.int32)
        precision = hits / np.maximum(counted, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        reached = flat[rows + hits]
        # The recall 0 is reached by anything; so is it by the best precision of all.
        gained = np.diff(reached, axis=1, prepend=0)
        found[:, t] = np.einsum("bn,bn->b", envelope, gained) / len(RECALLS)
    return found


def interval(differences: Float[np.ndarray, " b"], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped differences."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return float(low), float(high)
