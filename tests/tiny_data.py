"""A data set in COCO form so small that a whole sweep over it fits into a test."""

import json
from functools import cache
from pathlib import Path

import cv2
import numpy as np

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
    # The tiny network is too small to learn a batch by heart.
    return [*(part for pair in given.items() for part in pair), "--no-preflight"]


@cache
def tiny_study(base: Path) -> Path:
    """The folder of a finished tiny sweep of three trials; made once in a session."""
    from flaxyolo import sweep

    write_coco(base / "data")
    assert sweep.main(flags(base, "--trials", "3")) == 0
    return base / "runs" / "tiny"
