"""Average precision of many resamples of the validation images: which images happened to be there?

Detections are matched once per image, class and IoU threshold, as pycocotools does; a resample
gives every image a weight, the number of times that it was drawn. At weights of one, the scores
are those of pycocotools; at others, those of a data set in which images occur several times.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask

from flaxyolo.base.errors import InputError

RESAMPLES = 1000
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
LIMIT = 100
"""Detections of a class that count in an image: COCO's largest limit."""
CHUNK = 64
"""Resamples at a time: their running sums stay in the processor's cache."""


class Truth(NamedTuple):
    """The objects of every image and class."""

    images: dict[Any, int]
    """Place of an image by its id."""
    objects: list[dict[int, tuple[np.ndarray, np.ndarray]]]
    """Of each class, by the place of the image: xywh boxes (g, 4), and which are crowds (g,)."""
    counts: Int[np.ndarray, "c i"]
    """Objects that are no crowd, of each class in each image."""
    categories: dict[Any, int]


class Matches(NamedTuple):
    """The detections of one class, best first, against its objects."""

    image: Int[np.ndarray, " n"]
    """Place of the image of each."""
    hit: Bool[np.ndarray, "t n"]
    """Whether it found an object, at each IoU threshold."""
    ignored: Bool[np.ndarray, "t n"]
    """Whether it lies on a crowd, and so counts neither way."""


def read_truth(truth: Mapping[str, Any]) -> Truth:
    """The objects of ground truth in COCO form, sorted for matching."""
    # Sorted as COCOeval does: that decides between detections of equal score.
    images = {number: i for i, number in enumerate(sorted({r["id"] for r in truth["images"]}))}
    categories = {n: c for c, n in enumerate(sorted({r["id"] for r in truth["categories"]}))}
    found: list[dict[int, list[tuple[int, list[float]]]]] = [{} for _ in categories]
    for record in truth["annotations"]:
        place = images[record["image_id"]]
        of_class = found[categories[record["category_id"]]]
        of_class.setdefault(place, []).append((record.get("iscrowd", 0), record["bbox"]))
    counts = np.zeros((len(categories), len(images)), np.int64)
    objects: list[dict[int, tuple[np.ndarray, np.ndarray]]] = [{} for _ in categories]
    for label, of_class in enumerate(found):
        for place, records in of_class.items():
            records.sort(key=lambda record: record[0])
            crowd = np.array([record[0] for record in records], bool)
            boxes = np.array([record[1] for record in records], np.float64)
            objects[label][place] = (boxes, crowd)
            counts[label, place] = np.count_nonzero(~crowd)
    return Truth(images, objects, counts, categories)


def match(truth: Truth, rows: Float[np.ndarray, "n 7"]) -> tuple[Matches, ...]:
    """Match a run's detections (image id, xywh, score, category id) with the objects of a class."""
    image = _places(rows[:, 0], truth.images, "image")
    label = _places(rows[:, 6], truth.categories, "category")
    score = rows[:, 5].astype(np.float64)
    boxes = np.ascontiguousarray(rows[:, 1:5], np.float64)
    # By class, by image, best first: and then the groups' borders.
    order = np.lexsort((-score, image, label))
    groups = np.flatnonzero(np.diff(label[order]) | np.diff(image[order])) + 1
    of_class: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]
    of_class = [[] for _ in truth.categories]
    for group in np.split(order, groups) if len(order) else []:
        best = group[:LIMIT]
        c, i = int(label[best[0]]), int(image[best[0]])
        hit, ignored = _match_image(boxes[best], truth.objects[c].get(i))
        of_class[c].append((best, hit, ignored))
    return tuple(_best_first(parts, image, score) for parts in of_class)


def _places(numbers: np.ndarray, known: Mapping[Any, int], what: str) -> np.ndarray:
    places = [known.get(number, -1) for number in numbers.tolist()]
    if -1 in places:
        wrong = places.index(-1)
        raise InputError(
            f"detections: row {wrong}: expected one of the {len(known)} {what} ids of the "
            f"validation images, got {numbers[wrong]:g}; were they found on other data?"
        )
    return np.array(places, np.int64)


def _best_first(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], image: np.ndarray, score: np.ndarray
) -> Matches:
    if not parts:
        empty = np.zeros((len(THRESHOLDS), 0), bool)
        return Matches(np.zeros(0, np.int64), empty, empty)
    members, hit, ignored = (np.concatenate([part[k] for part in parts], axis=-1) for k in range(3))
    order = np.argsort(-score[members], kind="stable")
    return Matches(image[members[order]], hit[:, order], ignored[:, order])


def _match_image(
    boxes: np.ndarray, objects: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes (best first) found an object, and which lie on a crowd, at each threshold."""
    hit = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    ignored = np.zeros_like(hit)
    if objects is None:
        return hit, ignored
    there, crowd = objects
    overlap = np.asarray(mask.iou(boxes, there, crowd.astype(np.uint8))).reshape(
        len(boxes), len(there)
    )
    single = int(np.count_nonzero(~crowd))  # crowds come last
    bars = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(THRESHOLDS), single), bool)
    for d in np.flatnonzero(overlap.max(1) >= bars[0, 0]):
        if single:
            reached = np.where(free & (overlap[d, :single] >= bars), overlap[d, :single], -1.0)
            # The last of equally good ones, as pycocotools takes them.
            chosen = single - 1 - reached[:, ::-1].argmax(1)
            hit[:, d] = reached.max(1) >= 0
            free[np.flatnonzero(hit[:, d]), chosen[hit[:, d]]] = False
        ignored[:, d] = ~hit[:, d] & (overlap[d, single:] >= bars).any(1)
    return hit, ignored


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

    A class without objects among the drawn images is left out of their mean; NaN where that is
    every class.
    """
    resamples = len(weights)
    total = np.zeros((len(runs), resamples, 2))
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
    """One class's AP over all thresholds and at the first, (b, 2), for every row of weights.

    Precision counts only where an object is found: between two finds it only falls.
    """
    found = np.zeros((len(weights), len(THRESHOLDS)))
    last = np.flatnonzero(matches.hit[0])
    if not len(last):
        return np.zeros((len(weights), 2))
    # A hit at a higher threshold is not always one at the lowest.
    end = int(np.flatnonzero(matches.hit.any(0))[-1]) + 1
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
    return np.stack([found.mean(1), found[:, 0]], 1)


def interval(differences: Float[np.ndarray, " b"], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrapped differences."""
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(differences, [tail, 100 - tail])
    return float(low), float(high)
