"""A large image in overlapping tiles, and what is found in them as one."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flaxyolo.base.detections import Detections
from flaxyolo.nn.detector import TrainedDetector, batch_size_for

SAME = 0.5
"""IoU from which on boxes of one class in different tiles are one object."""
INSIDE = 0.6
"""Share of a cut box inside another, from which on it is a part of that object."""
EDGE = 0.02
"""Share of a tile's longer side within which a box ends at its border."""

Tile = tuple[int, int, int, int]
"""xyxy in pixels of the image."""


def tiles(height: int, width: int, side: int, overlap: float) -> list[Tile]:
    """Squares of `side` pixels that cover the image, row by row, and last the whole image.

    Neighbours share at least `overlap` of their side. The whole image, as small as the network
    takes it, finds what is larger than a tile. An image that fits into a tile is one tile.
    """
    whole = (0, 0, width, height)
    if max(height, width) <= side:
        return [whole]
    return [
        *(
            (left, top, min(left + side, width), min(top + side, height))
            for top in _starts(height, side, overlap)
            for left in _starts(width, side, overlap)
        ),
        whole,
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin, evenly from the first pixel to the last."""
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))
    count = 1 + -(-(length - side) // step)
    return np.linspace(0, length - side, count).round().astype(int).tolist()


def detect_sliced(
    detector: TrainedDetector,
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    side: int,
    overlap: float,
    min_score: float,
) -> Detections:
    """What is found in the tiles of an image, in its pixels, best first, each object once."""
    height, width = pixels.shape[:2]
    cut = tiles(height, width, side, overlap)
    parts: Iterator[Detections] = detector.each(
        (pixels[top:bottom, left:right] for left, top, right, bottom in cut),
        batch_size=batch_size_for(len(cut)),
        min_score=min_score,
    )
    moved = [
        replace(part, xywh=part.xywh + np.array([left, top, 0.0, 0.0]))
        for part, (left, top, _, _) in zip(parts, cut, strict=True)
    ]
    return merged(Detections.joined(moved), cut, height, width)


def merged(found: Detections, cut: list[Tile], height: int, width: int) -> Detections:
    """The detections of the tiles `found.image`, each object once, best first.

    Boxes of one class and different tiles are one object where they overlap by half. One that ends
    at the border of its tile, inside the image, may be a part: a box that is whole comes before it,
    whatever their scores, and takes it away where it lies inside.
    """
    edges = np.array(cut, np.float64).reshape(-1, 4)[found.image]
    cuts = _cut_off(found.boxes.astype(np.float64), edges, height, width)
    order = np.lexsort((-found.scores, cuts))
    kept = order[_keep(found.part(order), cuts[order])]
    best = found.part(kept[np.argsort(-found.scores[kept], kind="stable")])
    return replace(best, image=np.zeros(len(best), np.int64))


def _cut_off(
    boxes: Float[np.ndarray, "n 4"], edges: Float[np.ndarray, "n 4"], height: int, width: int
) -> Bool[np.ndarray, " n"]:
    """Which boxes end at a border of their tile that is none of the image."""
    inner = edges != np.array([0, 0, width, height])
    near = EDGE * (edges[:, 2:] - edges[:, :2]).max(1, initial=0.0)
    return ((np.abs(boxes - edges) <= near[:, None]) & inner).any(1)


def _keep(found: Detections, cuts: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Places of the boxes that none before them takes away."""
    boxes, areas = found.boxes.astype(np.float64), found.xywh[:, 2:].prod(1)
    alive, kept = np.ones(len(boxes), bool), []
    for place in range(len(boxes)):
        if not alive[place]:
            continue
        kept.append(place)
        low = np.maximum(boxes[place, :2], boxes[place + 1 :, :2])
        high = np.minimum(boxes[place, 2:], boxes[place + 1 :, 2:])
        shared = np.maximum(high - low, 0).prod(1)
        later = areas[place + 1 :]
        same = shared > SAME * (areas[place] + later - shared)
        part = cuts[place + 1 :] & (shared > INSIDE * later)
        other = found.image[place + 1 :] != found.image[place]
        alike = found.labels[place + 1 :] == found.labels[place]
        alive[place + 1 :] &= ~((same | part) & other & alike)
    return np.array(kept, np.int64)
