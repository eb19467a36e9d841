"""What an ablation records: its arms, and what each arm's run of a seed came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replacing
from flaxyolo.scoring.truth import GroundTruth


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


def save_detections(folder: Path, detections: Detections, truth: GroundTruth) -> None:
    """Write them into a run's folder, as rows (image id, x, y, width, height, score, category id).

    The ids are the annotation file's, so that the rows do not depend on the order of the images.
    """
    rows = np.column_stack(
        [
            np.array(truth.image_ids, np.float64)[detections.image],
            detections.xywh,
            detections.scores,
            np.array(truth.category_ids, np.float64)[detections.labels],
        ]
    )
    with replacing(folder / "detections.npz") as partial, open(partial, "wb") as file:
        np.savez_compressed(file, rows=rows)


def load_detections(folder: Path, truth: GroundTruth) -> Detections:
    """Read them back; an InputError where they are not of these images and classes."""
    with np.load(folder / "detections.npz") as file:
        rows = file["rows"]
    return Detections(
        image=_places(rows[:, 0], truth.image_ids, "image"),
        labels=_places(rows[:, 6], truth.category_ids, "category"),
        xywh=rows[:, 1:5],
        scores=rows[:, 5],
    )


def _places(
    numbers: Float64[np.ndarray, " n"], ids: Sequence[int | str], what: str
) -> Int64[np.ndarray, " n"]:
    known = {number: index for index, number in enumerate(ids)}
    places = [known.get(number, -1) for number in numbers.tolist()]
    if -1 in places:
        wrong = places.index(-1)
        raise InputError(
            f"detections: row {wrong}: expected one of the {len(known)} {what} ids of the "
            f"validation images, got {numbers[wrong]:g}; were they found on other data?"
        )
    return np.array(places, np.int64)
