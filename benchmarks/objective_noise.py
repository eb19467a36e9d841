"""How sure the AP of a size is with so many boxes of it: from which number on does it count fully?

Real images and boxes (training and validation together), and the detections of a made-up detector
whose luck differs from image to image. Random subsets of the images hold so many boxes of a size;
the spread of its AP over them is the standard error that this number of boxes leaves, which the
bootstrap over one such subset should find. It falls with the square root of the number:
`SE x sqrt(boxes)` is the error of a single box.

The best weight of a noisy score, as a guess of the true one, is its reliability: boxes / (boxes +
n0), where n0 is the number at which the noise is as large as the spread of the true scores over
networks. `search.objective` takes the straight line min(1, boxes / n0) instead, which begins alike
and leaves the usual objective as it is from n0 on.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.sources import read_dataset
from flaxyolo.scoring.bootstrap import draw_weights
from flaxyolo.scoring.coco_matches import Matched, matched_by_size
from flaxyolo.scoring.resamples import RESAMPLES, resampled
from flaxyolo.scoring.truth import GroundTruth, ground_truth

SIZES = ("small", "medium", "large")
BOXES = (5, 10, 20, 50, 100, 200, 500)
SUBSETS = 200
JUDGED = 20
"""Subsets that are bootstrapped."""
LEAST_SUBSETS = 4
"""The images must hold this many times the boxes of a subset: subsets would be alike otherwise."""
LEAST_IMAGES = 4
"""Of fewer no bootstrap tells anything."""
SPREADS = (0.03, 0.04, 0.06)
"""Of the true AP of a size over the networks of a budget: 0.028 of mAP on YOLOBench's VOC table
among networks trained whole; more for one size, and after short schedules."""


class Row(NamedTuple):
    """The AP of a size over subsets with about so many of its boxes."""

    data: str
    size: str
    boxes: int
    images: float
    """Mean over the subsets."""
    ap: float
    error: float
    """Standard deviation over the subsets."""
    bootstrap: float
    """Median over some subsets of what the bootstrap over each finds."""

    @property
    def of_one_box(self) -> float:
        """The error, times the square root of the number of boxes."""
        return self.error * self.boxes**0.5


def made_up(truth: GroundTruth, skill: float, random: np.random.Generator) -> Detections:
    """What a detector might find that sees a share `skill` of the objects, more in some images.

    Boxes are off by 8 % or so; half as many false ones, displaced and of lower scores, come on top.
    """
    seen = random.beta(4 * skill, 4 * (1 - skill), len(truth.image_ids))
    right = np.flatnonzero(random.random(len(truth.image)) < seen[truth.image])
    wrong = random.choice(len(truth.image), len(truth.image) // 2)
    chosen = np.concatenate([right, wrong])
    off = np.where(np.arange(len(chosen)) < len(right), 0.08, 0.6)[:, None]
    boxes = truth.xywh[chosen].copy()
    boxes[:, :2] += off * boxes[:, 2:] * random.normal(size=(len(chosen), 2))
    boxes[:, 2:] *= np.exp(off * random.normal(size=(len(chosen), 2)))
    scores = np.concatenate([random.beta(4, 2, len(right)), random.beta(2, 4, len(wrong))])
    return Detections(
        image=truth.image[chosen],
        labels=truth.labels[chosen],
        xywh=boxes,
        scores=scores,
        class_names=truth.class_names,
    )


def subsets(counts: np.ndarray, boxes: int, random: np.random.Generator) -> np.ndarray:
    """Random sets of images, as rows of ones and zeros, with about so many of the boxes.

    `counts` are those of each image. A set ends with the image that brings it nearest.
    """
    rows = np.zeros((SUBSETS, len(counts)), np.int64)
    for row in rows:
        order = random.permutation(len(counts))
        there = np.cumsum(counts[order])
        row[order[: 1 + np.where(there, np.abs(there - boxes), np.inf).argmin()]] = 1
    return rows


def judge(data: str, size: str, side: Matched, random: np.random.Generator) -> list[Row]:
    """The rows of one size, as far as there are boxes and images enough."""
    counts = side.objects.sum(0)

    def scores(weights: np.ndarray) -> np.ndarray:
        return resampled({size: side}, [f"map_{size}"], weights)[f"map_{size}"]

    rows = []
    for boxes in BOXES:
        chosen = subsets(counts, boxes, random)
        images = float(chosen.sum(1).mean())
        if images < LEAST_IMAGES or LEAST_SUBSETS * boxes > counts.sum():
            continue
        values = scores(chosen)
        bootstraps = [np.nanstd(scores(again(row)), ddof=1) for row in chosen[:JUDGED]]
        rows.append(
            Row(
                data=data,
                size=size,
                boxes=boxes,
                images=images,
                ap=float(np.nanmean(values)),
                error=float(np.nanstd(values, ddof=1)),
                bootstrap=float(np.median(bootstraps)),
            )
        )
    return rows


def again(row: np.ndarray) -> np.ndarray:
    """Resamples of the images of a subset, as weights of all images."""
    there = np.flatnonzero(row)
    weights = np.zeros((RESAMPLES, len(row)), np.int64)
    weights[:, there] = draw_weights(len(there), RESAMPLES)
    return weights


def rows_of(source: str, skill: float) -> list[Row]:
    """The table of one data set."""
    random = np.random.default_rng(0)
    data = read_dataset(source)
    truth = ground_truth((*data.train, *data.val), data.class_names, data.category_ids)
    # Images of both splits may have the same name.
    truth = GroundTruth(**vars(truth) | {"image_ids": tuple(range(len(truth.image_ids)))})
    sides = matched_by_size(truth, made_up(truth, skill, random))
    name = source.rpartition("/")[2]
    return [row for size in SIZES for row in judge(name, size, sides[size], random)]


def main() -> None:
    """Print the table, and the number of boxes that follows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", nargs="+", default=["digits"])
    parser.add_argument("--skill", type=float, default=0.75, help="share of the objects it sees")
    parser.add_argument("--json", type=Path, help="also write the result there")
    arguments = parser.parse_args()
    rows = [row for source in arguments.data for row in rows_of(source, arguments.skill)]
    print("| data | size | boxes | images | AP | SE | SE by bootstrap | SE x sqrt(boxes) |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.data} | {row.size} | {row.boxes} | {row.images:.1f} | {row.ap:.3f} "
            f"| {row.error:.3f} | {row.bootstrap:.3f} | {row.of_one_box:.2f} |"
        )
    of_one_box = float(np.median([row.of_one_box for row in rows]))
    needed = {str(spread): (of_one_box / spread) ** 2 for spread in SPREADS}
    for spread, boxes in needed.items():
        print(
            f"error of one box {of_one_box:.2f}: equals a spread of {spread} at {boxes:.0f} boxes"
        )
    result: dict[str, Any] = {
        "what": "standard error of the AP of a size, by the number of its boxes",
        "skill": arguments.skill,
        "rows": [row._asdict() for row in rows],
        "of_one_box": of_one_box,
        "boxes_for_spread": needed,
        "device": device_name(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
