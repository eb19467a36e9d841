"""A data set in COCO form so small that a whole sweep over it fits into a test."""

import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock

from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.weights.checkpoint import save_detector
from tests.small import tiny_spec

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / "sweeps" / "tiny.py"
SIDE = 96
BUDGET = "10000"
"""Milliseconds: far above what the tiny networks take on any machine."""


def write_coco(folder: Path) -> Path:
    """Coloured squares, small to large, on noise: 12 images to train on and 6 to score."""
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in (("train", 12), ("val", 6)):
        images, annotations = [], []
        for number in range(count):
            name = f"{split}{number}.png"
            picture = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
            for side in (12, 40):
                x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
                label = int(rng.integers(2))
                picture[y : y + side, x : x + side] = ((255, 0, 0), (0, 0, 255))[label]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": label + 1,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                    }
                )
            cv2.imwrite(str(folder / "images" / name), picture)
            images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def flags(base: Path, *more: str) -> list[str]:
    """Flags of a tiny sweep with `base/data` and `base/runs`."""
    given = {
        "--budget-ms": BUDGET,
        "--data": f"coco:{base / 'data'}",
        "--space": str(SPACE),
        "--out": str(base / "runs"),
        "--study": "tiny",
        "--epochs": "2",
        "--finalists": "1",
        "--seeds": "1",
    }
    given |= dict(zip(more[::2], more[1::2], strict=True))
    # The tiny network is too small to learn a batch by heart, and a YOLOv8 is much larger.
    return [*(part for pair in given.items() for part in pair), "--no-preflight", "--no-controls"]


def killable_environment() -> dict[str, str]:
    """Of a sweep that is killed: it keeps its compiled programs as a user's does."""
    shared = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return {name: value for name, value in shared.items() if name != "JAX_COMPILATION_CACHE_DIR"}


def workers_of(parent: int) -> list[int]:
    """Process ids of the children of a process."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def kill_something(process: subprocess.Popen, drawn: random.Random, parents: float) -> bool:
    """SIGKILL to the parent, with this probability or where it has no worker, or to one of those.

    Returns whether it was the parent.
    """
    workers = workers_of(process.pid)
    if workers and drawn.random() >= parents:
        os.kill(drawn.choice(workers), signal.SIGKILL)
        return False
    process.kill()
    process.wait()
    return True


def tiny_command(base: Path) -> list[str]:
    """Flags of the study that `tiny_study` makes in a folder."""
    return flags(base, "--trials", "2", "--init", str(base / "source"))


def tiny_study(factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny sweep of two trials; made once for all processes of a session.

    Its trials begin with the weights of a detector of `tests.small`. Beside the folder of all
    studies lies `as_made`, a copy that nobody changes.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Each process has a folder of its own in that of the session.
        base = base.parent
    study, copy = base / "runs" / "tiny", base / "as_made" / "tiny"
    with FileLock(base / "tiny.lock"):
        if not copy.exists():
            from flaxyolo import sweep

            write_coco(base / "data")
            spec = tiny_spec()
            detector = TrainedDetector(spec, initial_weights(spec, 7), ("red", "green", "blue"))
            save_detector(base / "source", detector, {})
            assert sweep.main(tiny_command(base)) == 0
            shutil.copytree(study, copy)
    return study
