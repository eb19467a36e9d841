"""Pre-flight on sound data, which it must let through, and on planted faults, which it must catch.

Every run is one row of the JSON; the same command goes on with those that are not there yet. Left
out are the checks of memory and of a second compilation, which are those of the training step and
do not look at what is learnt.
"""

import argparse
import collections
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from optuna.trial import FixedTrial

from flaxyolo.base.files import replace_file
from flaxyolo.checks.check import Check
from flaxyolo.checks.run import preflight
from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.cache import Pixels, load_pixels
from flaxyolo.data.feeds import Resident
from flaxyolo.data.sources import Dataset, Example, read_dataset
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.search.space import load_space, reference_params
from flaxyolo.spec import DetectorSpec
from flaxyolo.training import assign, loss
from tests.checks.scenes import CONFIG, NAMES, pixels_of, scenes
from tests.small import tiny_spec
from tests.test_preflight import FAULTS, fly

SKIP = ("memory", "recompilation")
NETWORKS = ("reference", "small", "yolov8n")
SIZES = (96, 160, 224, 320)
SUBSETS = 20


class Case(NamedTuple):
    """One pre-flight, by a name that the JSON keeps."""

    name: str
    expected: str
    """The check that must fail, or "" where none may."""
    run: Callable[[], tuple[Check, ...]]


def network(name: str, size: int, classes: int) -> DetectorSpec:
    """YOLOv8n, the network that a sweep's pre-flight takes, or a small one of that space."""
    if name == "yolov8n":
        spec = read_config(Path("configs/yolov8n.yaml")).detector
    else:
        suggest = load_space(None)
        small = {"plan": "P3-P4", "ratio": 1.5, "early.block": "depthwise", "late.block": "plain"}
        changed = small if name == "small" else None
        spec = suggest(FixedTrial(reference_params(suggest, changed)))
    return replace(spec, image_size=size, num_classes=classes)


def painted(classes: int, count: int = 120, size: int = 640) -> Dataset:
    """Scenes like COCO's: many classes, most of them rare, small and large objects, some crowded.

    A class is a colour and a pattern of stripes.
    """
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (classes, 2, 3))
    share = 1 / np.arange(1, classes + 1)
    examples = []
    for number in range(count):
        image = rng.integers(90, 150, (size * 3 // 4, size, 3)).astype(np.uint8)
        boxes, labels = [], []
        for _ in range(int(rng.integers(1, 16))):
            width, height = np.exp(rng.uniform(np.log(12), np.log(300), 2)).astype(int)
            left = int(rng.integers(0, size - width))
            top = int(rng.integers(0, image.shape[0] - height))
            label = int(rng.choice(classes, p=share / share.sum()))
            y, x = np.mgrid[:height, :width]
            stripes = ((x if label % 2 else y) // (2 + label % 7)) % 2
            image[top : top + height, left : left + width] = colours[label][stripes]
            boxes.append((left, top, left + width, top + height))
            labels.append(label)
        table = np.array(boxes, np.float32)
        examples.append(
            Example(
                image_id=number + 1,
                image=image,
                height=image.shape[0],
                width=size,
                boxes=table,
                labels=np.array(labels, np.int32),
                areas=(table[:, 2:] - table[:, :2]).prod(1),
                crowd=np.zeros(len(table), bool),
            )
        )
    return Dataset(
        name="painted",
        train=tuple(examples),
        val=tuple(examples[:2]),
        class_names=tuple(f"class {number}" for number in range(classes)),
        category_ids=tuple(range(1, classes + 1)),
        fingerprint=f"painted-{classes}-{count}-{size}",
        mirror=True,
    )


def on_part(
    source: Callable[[], Dataset], rows: np.ndarray | None, name: str, size: int
) -> tuple[Check, ...]:
    """Pre-flight of a network on some of the training images; None: on all."""
    dataset = source()
    pixels = load_pixels(dataset, "train", size)
    chosen = np.arange(len(dataset.train)) if rows is None else rows
    part = Pixels(*(np.asarray(field[chosen]) for field in pixels))
    spec = network(name, size, len(dataset.class_names))
    examples = [dataset.train[row] for row in chosen]
    return preflight(spec, Resident(part), examples, dataset.class_names, TrainConfig(), skip=SKIP)


def sound(data: Path) -> Iterator[Case]:
    """Sets that must pass: whole ones, sets of few images, and random parts of bccd."""
    sources: dict[str, Callable[[], Dataset]] = {
        "bccd": lambda: read_dataset(f"coco:{data / 'bccd'}"),
        "nuclei": lambda: read_dataset(f"coco:{data / 'nuclei'}"),
        "digits": lambda: read_dataset("digits"),
        "painted of 80 classes": lambda: painted(80),
    }

    def case(label: str, source: str, rows: np.ndarray | None, name: str, size: int) -> Case:
        title = f"{label}, {size} px, {name}"
        return Case(title, "", lambda: on_part(sources[source], rows, name, size))

    images = len(sources["bccd"]().train)
    for count in (1, 8, 48):
        rows = np.random.default_rng(100 + count).permutation(images)[:count]
        for name in NETWORKS:
            yield case(f"bccd, {count} image{'s' * (count > 1)}", "bccd", rows, name, 192)
    for source, sizes in (
        ("painted of 80 classes", (160, 320)),
        ("nuclei", (128, 256)),
        ("digits", (96, 128)),
        ("bccd", (320, 64)),
    ):
        for size in sizes:
            for name in NETWORKS:
                yield case(source, source, None, name, size)
    for number in range(SUBSETS):
        rng = np.random.default_rng(number)
        count, size = int(rng.integers(12, 65)), SIZES[number % len(SIZES)]
        rows = np.sort(rng.permutation(images)[:count])
        for name in NETWORKS:
            yield case(f"bccd, random part {number} ({count} images)", "bccd", rows, name, size)


def planted() -> Iterator[Case]:
    """Faults that must be caught: those of the tests, and more of the loss."""

    def of_tests(number: int, name: str) -> tuple[Check, ...]:
        plant, meant, _ = FAULTS[name]
        skip = {*SKIP} | ({"labels", "objects"} if meant == "transforms" else set())
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            return fly(patch, Path(folder), plant, 101 + number, skip)

    def of_the_loss(number: int, change: Callable[[assign.Assignment], assign.Assignment]):
        real = assign.assign
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            patch.setattr(loss, "assign", lambda *given: change(real(*given)))
            dataset = scenes()
            config = replace(CONFIG, seed=201 + number)
            feed = Resident(pixels_of(dataset, Path(folder)))
            return preflight(tiny_spec(), feed, dataset.train, NAMES, config, skip=SKIP)

    for number, (name, (_, meant, _)) in enumerate(FAULTS.items()):
        yield Case(name, meant, lambda number=number, name=name: of_tests(number, name))
    for number, (name, change) in enumerate(LOSS_FAULTS.items()):
        yield Case(
            name, "overfit", lambda number=number, change=change: of_the_loss(number, change)
        )


def resized(targets: assign.Assignment, scale: float, shift: float = 0) -> assign.Assignment:
    """Targets of another size about the same centre, and moved along x and y (pixels)."""
    centre = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2 + shift
    half = scale * (targets.boxes[..., 2:] - targets.boxes[..., :2]) / 2
    return targets._replace(boxes=jnp.concatenate([centre - half, centre + half], -1))


LOSS_FAULTS: dict[str, Callable[[assign.Assignment], assign.Assignment]] = {
    "two classes exchanged in the loss": lambda targets: targets._replace(
        scores=targets.scores[..., jnp.array([1, 0, 2])]
    ),
    "x and y swapped in the loss": lambda targets: targets._replace(
        boxes=targets.boxes[..., jnp.array([1, 0, 3, 2])]
    ),
    "boxes of twice the size in the loss": lambda targets: resized(targets, 2),
    "boxes moved by 8 px in the loss": lambda targets: resized(targets, 1, 8),
    "boxes of another image in the loss": lambda targets: targets._replace(
        boxes=jnp.roll(targets.boxes, 1, 0)
    ),
    "scores at other points in the loss": lambda targets: targets._replace(
        scores=jnp.roll(targets.scores, 37, 1)
    ),
}


def main() -> None:
    """Run what is not in the JSON yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, required=True, help="rows are kept and added here")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    arguments = parser.parse_args()
    logging.getLogger("flaxyolo").setLevel(logging.WARNING)
    keep_compiled()
    began, rows = time.monotonic(), {}
    if arguments.json.exists():
        rows = {row["name"]: row for row in json.loads(arguments.json.read_text())["rows"]}
    cases = [*planted(), *sound(arguments.data)]
    for case in cases:
        late = time.monotonic() - began > 60 * arguments.minutes
        if late or case.name in rows or arguments.only not in case.name:
            continue
        started = time.monotonic()
        done = case.run()
        failed = next((check for check in done if not check.passed), None)
        rows[case.name] = {
            "name": case.name,
            "expected": case.expected,
            "failed": "" if failed is None else failed.name,
            "seconds": round(time.monotonic() - started, 1),
            "last": asdict(done[-1]),
        }
        print(f"{case.name}: {done[-1].line()}", flush=True)
        result = {
            "what": "pre-flight on sound data and on planted faults",
            "device": device_name(),
            "versions": versions(),
            "not_run": [other.name for other in cases if other.name not in rows],
            "rows": list(rows.values()),
        }
        replace_file(arguments.json, json.dumps(result, indent=1) + "\n")
    print("| | runs | as expected | otherwise |\n|---|---:|---:|---|")
    for kind in ("planted faults", "sound data"):
        some = [row for row in rows.values() if bool(row["expected"]) == (kind == "planted faults")]
        right = collections.Counter(row["failed"] == row["expected"] for row in some)
        wrong = ", ".join(row["name"] for row in some if row["failed"] != row["expected"])
        print(f"| {kind} | {len(some)} | {right[True]} | {wrong} |")


if __name__ == "__main__":
    main()
