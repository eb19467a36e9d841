"""CPU seconds of COCO's evaluation, ours and pycocotools', in turn on the same detections.

Ours is all that a trial of a sweep pays: the twelve numbers (hotcoco) and the matching by sizes,
from which standard errors and intervals are counted. Both begin with the same columns; pycocotools
wants records of them, which are made within its time (some 7 % of it). Seconds are the processor's,
of all threads: a neighbour on the same core takes more of a long call's time on the clock than of a
short one's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.base.files import replace_file
from flaxyolo.cost.measurement import processor_name
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.evaluation import Evaluation, evaluated
from flaxyolo.scoring.truth import GroundTruth

SIZES = {
    "small": {"images": 150, "classes": 10, "objects": 5, "found": 120},
    "coco": {"images": 5000, "classes": 80, "objects": 7, "found": 100},
}
"""Images and classes, and objects and detections in each image on average."""


def made_up(
    seed: int, images: int, classes: int, objects: int, found: int
) -> tuple[GroundTruth, Detections]:
    """Objects from 3 to 180 px, one in ten a crowd, and detections that lie near one of them.

    Seven in ten of these have the right class; scores have two decimals, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    image = np.sort(rng.integers(images, size=images * objects))
    count = len(image)
    sides = np.exp(rng.uniform(1, 5.2, (count, 2)))
    xywh = np.concatenate([rng.uniform(0, 300, (count, 2)), sides], 1).round(1)
    truth = GroundTruth(
        image_ids=tuple(rng.permutation(images * 3)[:images].tolist()),
        class_names=tuple(map(str, range(classes))),
        category_ids=tuple(rng.permutation(classes * 2)[:classes].tolist()),
        image=image,
        labels=rng.integers(classes, size=count),
        xywh=xywh,
        areas=xywh[:, 2:].prod(1) * rng.uniform(0.5, 1, count),
        crowd=rng.random(count) < 0.1,
    )
    near = np.sort(rng.integers(count, size=images * found))
    boxes = xywh[near] + rng.normal(0, 3, (len(near), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
    right = rng.random(len(near)) < 0.7
    labels = np.where(right, truth.labels[near], rng.integers(classes, size=len(near)))
    return truth, Detections(boxes, rng.random(len(near)).round(2), labels, image[near])


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, of all its threads, and what it gives."""
    began = time.process_time()
    given = call()
    return time.process_time() - began, given


def spread(values: list[float]) -> dict[str, float]:
    """Least, median and most."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def compared(truth: GroundTruth, found: Detections, rounds: int) -> dict[str, Any]:
    """Seconds and ratios over rounds, and how far the numbers are apart."""
    taken: dict[str, list[float]] = {"numbers": [], "matching": [], "pycocotools": []}
    ours: Evaluation | None = None
    theirs: Evaluation | None = None
    for _ in range(rounds):
        for name, call in (
            ("numbers", lambda: evaluated(truth, found)),
            ("matching", lambda: matched_by_size(truth, found)),
            ("pycocotools", lambda: evaluated(truth, found, "pycocotools")),
        ):
            seconds, given = seconds_of(call)
            taken[name].append(seconds)
            ours = given if name == "numbers" else ours
            theirs = given if name == "pycocotools" else theirs
    assert ours is not None
    assert theirs is not None
    whole = [a + b for a, b in zip(taken["numbers"], taken["matching"], strict=True)]
    peer = taken["pycocotools"]
    return {
        "objects": len(truth.image),
        "detections": len(found),
        "cpu_seconds": {name: spread(values) for name, values in taken.items()},
        "ratio": spread([a / b for a, b in zip(whole, peer, strict=True)]),
        "ratio_of_numbers": spread([a / b for a, b in zip(taken["numbers"], peer, strict=True)]),
        "map": float(ours.stats[0]),
        "largest_difference_of_the_twelve": float(np.abs(ours.stats - theirs.stats).max()),
        "largest_difference_of_precision": float(np.abs(ours.precision - theirs.precision).max()),
    }


def main() -> None:
    """Compare on both sizes, and print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go")
    arguments = parser.parse_args()
    told: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": processor_name(),
        "versions": {name: version(name) for name in ("hotcoco", "pycocotools", "numpy")},
        "rounds": arguments.rounds,
        "sizes": {},
    }
    for name in arguments.sizes:
        found = compared(*made_up(0, **SIZES[name]), arguments.rounds)
        told["sizes"][name] = SIZES[name] | found
        numbers, matching, peer = (row["median"] for row in found["cpu_seconds"].values())
        ratio = found["ratio"]
        print(f"{name}: {numbers:.3g} s for the numbers and {matching:.3g} s for the matching, "
              f"pycocotools {peer:.3g} s: ratio {ratio['median']:.3f} ({ratio['min']:.3f} to "
              f"{ratio['max']:.3f}); the twelve numbers differ by at most "
              f"{found['largest_difference_of_the_twelve']:.1g}", flush=True)  # fmt: skip
    if arguments.json is not None:
        replace_file(arguments.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
