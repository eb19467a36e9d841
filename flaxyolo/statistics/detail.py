"""What scaling to an input size and back takes from the inside of boxes: print, texture, edges."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from flaxyolo.base.boxes import letterbox
from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.sources import Example

log = logging.getLogger(__name__)

BOXES = 480
"""That are looked at, as many of each class as can be: a second or two, mostly of decoding."""
LEAST_OF_CLASS = 12
"""Boxes that a class's own median takes; of more classes than leave it so many, some are drawn."""
MARGIN = 0.1
"""Of a box's sides, left out along each: an object's outline survives at any input size, and would
outweigh what tells it from others."""
POINTS = 64
"""Along each side of the grid at which a box is compared: every pixel of a small one."""
COARSE = 4
"""Cells along a box's sides; what is finer is detail, what is coarser shows at any input size."""
FAINT = 4.0
"""Grey levels of contrast that are too little for detail, whatever is lost of them."""
NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
"""Answers noise as it is, and neither shades nor straight edges (doi 10.1006/cviu.1996.0060)."""
NOISE_SHARE, NORMAL_QUARTILE = 0.25, 0.3186
"""The quarter of the pixels with the weakest answer is smooth; below it in a normal distribution,
in standard deviations."""
NOISE_TWICE = 2.0
"""Times the variance of noise that scaling changes: it takes the own noise, and what it reads of
few pixels has some again."""


@dataclass(frozen=True)
class DetailLost:
    """Share of the variance of boxes' detail that does not survive, 0 to 1."""

    median: float
    """Of boxes, each class weighed alike."""
    worst_class: float
    """The largest median of a class with enough boxes; of all where no class has."""


class _Box(NamedTuple):
    """A box that was drawn."""

    number: int
    """Of the box in its image."""
    label: int


def detail_lost(
    examples: Sequence[Example], image_sizes: Sequence[int], *, seed: int = 0
) -> dict[int, DetailLost]:
    """By input size, for a seeded sample of boxes; nothing where no image with a box can be read.

    The luminance inside each box is scaled as in training, and back. The mean square of what then
    differs, but for the image's noise, is divided by that of what a picture of 4 x 4 cells does not
    show.
    """
    drawn = _draw(examples, seed)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        parts = pool.map(
            partial(_of_image, image_sizes=image_sizes),
            (examples[number] for number in drawn),
            drawn.values(),
        )
        lost = [part for part in parts if part is not None]
    if not lost:
        return {}
    labels = np.array([box.label for boxes, _ in lost for box in boxes])
    shares = np.concatenate([values for _, values in lost])
    medians = [
        np.median(shares[labels == label], axis=0)
        for label, boxes in zip(*np.unique(labels, return_counts=True), strict=True)
        if boxes >= LEAST_OF_CLASS
    ]
    median = np.median(shares, axis=0)
    worst = np.max(medians or [median], axis=0)
    return {
        size: DetailLost(float(middle), float(most))
        for size, middle, most in zip(image_sizes, median, worst, strict=True)
    }


def _draw(examples: Sequence[Example], seed: int) -> dict[int, list[_Box]]:
    """By image, the boxes that are looked at: as many of each class, or all that it has."""
    by_class: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for image, example in enumerate(examples):
        for number in np.flatnonzero(~example.crowd).tolist():
            by_class[int(example.labels[number])].append((image, number))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(sorted(by_class)).tolist()[: BOXES // LEAST_OF_CLASS]
    drawn: dict[int, list[_Box]] = defaultdict(list)
    for label in labels:
        places = by_class[label]
        for row in rng.permutation(len(places))[: BOXES // len(labels)].tolist():
            image, number = places[row]
            drawn[image].append(_Box(number, label))
    return drawn


def _of_image(
    example: Example, boxes: list[_Box], *, image_sizes: Sequence[int]
) -> tuple[list[_Box], Float32[np.ndarray, "n s"]] | None:
    """What each box of one image loses at each size; None where its pixels are not those labelled.

    Images that cannot be read are counted by the statistics of the split.
    """
    try:
        pixels = decode(example.image, oriented=example.oriented)
    except InputError as error:
        log.debug("left out of the detail: %s", error)
        return None
    height, width = pixels.shape[:2]
    if (height, width) != (example.height, example.width):
        return None
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    views = [_view(grey, example.boxes[box.number]) for box in boxes]
    noise = NOISE_TWICE * _noise(grey) ** 2
    shares = np.zeros((len(boxes), len(image_sizes)), np.float32)
    for column, size in enumerate(image_sizes):
        if size >= max(height, width):
            continue
        fit = letterbox(height, width, size)
        small = cv2.resize(grey, (fit.width, fit.height), interpolation=cv2.INTER_LINEAR)
        for row, view in enumerate(views):
            back = _at(small, view.x * fit.scale_x, view.y * fit.scale_y)
            # Coarse pixels can show a pattern that is not there, which is more than to lose one.
            shares[row, column] = np.clip(
                (np.square(back - view.own).mean() - noise) / view.detail, 0, 1
            )
    return boxes, shares


class _View(NamedTuple):
    """The inside of a box as the image shows it, at a grid of its pixels."""

    x: Float32[np.ndarray, " c"]
    """Of the grid's columns, in pixels from the image's left edge."""
    y: Float32[np.ndarray, " r"]
    """Of its rows, from the upper edge."""
    own: Float32[np.ndarray, "r c"]
    """Luminance."""
    detail: float
    """Variance of it within the cells of a coarse picture, and of what is too faint."""


def _view(grey: UInt8[np.ndarray, "h w"], box: Float32[np.ndarray, "4"]) -> _View:
    inset = MARGIN * (box[2:] - box[:2])
    edge = np.array(grey.shape[::-1])
    # At least one pixel, also of a box on the image's edge.
    left, top = np.clip(np.round(box[:2] + inset), 0, edge - 1).astype(int).tolist()
    far = np.clip(np.round(box[2:] - inset), (left + 1, top + 1), edge)
    right, bottom = far.astype(int).tolist()
    columns, rows = _spread(left, right), _spread(top, bottom)
    own = grey[np.ix_(rows, columns)].astype(np.float32)
    x, y = columns.astype(np.float32) + 0.5, rows.astype(np.float32) + 0.5
    inside = grey[top:bottom, left:right]
    cells = cv2.resize(inside, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    coarse = _at(
        cells, (x - left) * (COARSE / (right - left)), (y - top) * (COARSE / (bottom - top))
    )
    return _View(x, y, own, float(np.square(coarse - own).mean()) + FAINT**2)


def _noise(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Standard deviation of an image's noise, told from its smoothest parts."""
    # A step that does not follow the blocks of a JPEG.
    answers = np.abs(cv2.filter2D(grey, cv2.CV_32F, NOISE_KERNEL))[::3, ::3]
    return float(np.quantile(answers, NOISE_SHARE)) / NORMAL_QUARTILE


def _spread(low: int, high: int) -> Int64[np.ndarray, " n"]:
    """Pixels from `low` to before `high`: all of a few, or so many evenly apart."""
    return np.unique(np.linspace(low, high - 1, min(POINTS, high - low)).round().astype(np.int64))


def _at(
    image: UInt8[np.ndarray, "h w"], x: Float32[np.ndarray, " c"], y: Float32[np.ndarray, " r"]
) -> Float32[np.ndarray, "r c"]:
    """An image read between its pixels, at the crossings of columns and rows."""
    map_x, map_y = np.meshgrid(x - 0.5, y - 0.5)
    return cv2.remap(
        image.astype(np.float32),
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
