"""A detector that finds white rectangles on black, and images of them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.nn.detector import TrainedDetector, Weights
from tests.small import tiny_spec

NAMES = ("plate", "screw", "bolt")


class Seeing(TrainedDetector):
    """Every connected white region is a plate; a cut one has the larger score."""

    def each(
        self, images: Iterable[Any], *, batch_size: int, min_score: float = 0.25
    ) -> Iterator[Detections]:
        for image in images:
            white = (np.asarray(image)[..., 0] > 127).astype(np.uint8)
            stats = cv2.connectedComponentsWithStats(white)[2][1:, :4].astype(np.float64)
            boxes = np.concatenate([stats[:, :2], stats[:, :2] + stats[:, 2:]], 1)
            scores = 0.9 - stats[:, 2:].prod(1) / 1e6
            labels = np.zeros(len(boxes), np.int64)
            found = Detections.from_corners(boxes, scores, labels)
            yield replace(found, class_names=NAMES)


def seeing() -> Seeing:
    return Seeing(tiny_spec(), Weights({}, {}), NAMES)


def scene(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return image
