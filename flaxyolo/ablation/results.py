"""What an ablation records: its arms, and what each arm's run of a seed came to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flaxyolo.base.files import replacing


@dataclass(frozen=True)
class Arm:
    """One variant; the baseline changes nothing."""

    name: str
    changes: dict[str, Any]
    """Fields of the spec or of the training that differ, by their paths, with the new values."""
    joint: bool = False
    """Whether it was declared to change several variables at once."""
    why: str = ""


@dataclass(frozen=True)
class Run:
    """One arm trained with one seed, and measured."""

    arm: str
    seed: int
    scores: dict[str, Any]
    """`Scores.to_dict()` on the validation images."""
    train_scores: dict[str, Any]
    """The same on as many training images."""
    cost: dict[str, Any]
    """`Measurement.to_dict()` of the trained detector."""
    folder: Path
    """Holds `detections.npz`, what it found on the validation images."""


class Detections(NamedTuple):
    """All detections of a run: COCO image id, xywh in pixels, score, COCO category id."""

    rows: Float[np.ndarray, "n 7"]


def save_detections(folder: Path, detections: Detections) -> None:
    """Write them into a run's folder."""
    with replacing(folder / "detections.npz") as partial, open(partial, "wb") as file:
        np.savez_compressed(file, rows=detections.rows)


def load_detections(folder: Path) -> Detections:
    """Read them back."""
    with np.load(folder / "detections.npz") as file:
        return Detections(file["rows"])
