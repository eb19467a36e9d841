"""The objects of the drawn scenes: outlines turned and scaled, placed, coloured and pasted."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8

from flaxyolo.data.readers.backdrops import Picture, crop, spread
from flaxyolo.data.readers.outlines import Outline

SIDE = 320
"""Of the square scenes, in pixels."""
LONGEST = 200.0
"""Pixels of the longer side."""

FINE = 4
"""Rows and columns of points in a pixel, that are inside or not."""
FRACTION_BITS = 3
"""Of the coordinates of corners, in such points."""
FULL = 240
"""Cover of a pixel that is all inside; a multiple of FINE squared below 256."""
LEAST = 60
"""What is covered less is left out."""
VISIBLE = 0.65
"""Least share of an object's pixels inside the image that stay uncovered."""
OVERLAP = 0.3
"""Largest IoU of two boxes at the time the second is pasted."""
TRIES = 30
HANGS = 0.2
"""Share of its side by which an object may be drawn across the image's border."""

CONTRASTS = (25.0, 130.0)
"""Wanted difference in brightness (0..255) of an object and what is beneath."""
SMALL, SMALL_CONTRAST = 16.0, 60.0
"""Objects below that span have at least that contrast wanted."""
COLOURS = 12
"""Drawn, of which the one is taken whose contrast is nearest to the wanted one."""
NEAR = 50
"""Grey levels by which such colours differ."""
MOTTLED = 60
"""Grey levels by which the colour of one object changes, at most."""
PATTERN_SHARE = 0.1
"""Of the objects: those with a picture in their colour."""
RIM_SHARE, RIM = 0.3, 90
"""Of the objects: those with a rim, and the grey levels by which that differs."""
BRIGHTNESS = np.array([77, 150, 29])
"""Weights of red, green and blue in 256ths, as in ITU-R BT.601."""


class Layer(NamedTuple):
    """One object as it is pasted."""

    y: int
    x: int
    """Of its first row and column in the scene."""
    cover: UInt8[np.ndarray, "h w"]
    """0 to FULL; every row and column at the sides has some."""
    paint: UInt8[np.ndarray, "h w 3"]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy."""
        height, width = self.cover.shape
        return self.x, self.y, self.x + width, self.y + height


class Seen(NamedTuple):
    """An object of the scene that is being made."""

    layer: Layer
    visible: Bool[np.ndarray, "h w"]
    """Its pixels that no other covers fully."""
    pixels: int
    """How many it had when it was pasted."""


def cover_of(
    rng: np.random.Generator, outline: Outline, span: float, *, upright: bool
) -> UInt8[np.ndarray, "h w"]:
    """The outline turned, slanted and scaled to the span: how much of each pixel it covers."""
    angle = rng.uniform(-0.4, 0.4) if upright else rng.uniform(0, 2 * np.pi)
    cos, sin, slant = np.cos(angle), np.sin(angle), rng.uniform(-0.25, 0.25)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]])
    turned = [_times(polygon, matrix) for polygon in outline]
    low = np.min([polygon.min(0) for polygon in turned], 0)
    size = np.max([polygon.max(0) for polygon in turned], 0) - low
    scale = min(span / np.sqrt(size[0] * size[1]), LONGEST / size.max())
    width, height = (int(side) + 2 for side in np.ceil(size * scale))
    points = np.zeros((height * FINE, width * FINE), np.uint8)
    unit = FINE * 2**FRACTION_BITS
    corners = [np.round((polygon - low) * (scale * unit)).astype(np.int32) for polygon in turned]
    cv2.fillPoly(points, corners, FULL, shift=FRACTION_BITS)
    cover = np.asarray(cv2.resize(points, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    cover[cover < LEAST] = 0
    return cover


def _times(points: Float64[np.ndarray, "n 2"], matrix: Float64[np.ndarray, "2 2"]) -> np.ndarray:
    """The points times a matrix, in an order of sums that is the same on every machine."""
    x, y = points[:, :1], points[:, 1:]
    return x * matrix[:, 0] + y * matrix[:, 1]


def place(
    rng: np.random.Generator, cover: UInt8[np.ndarray, "h w"], seen: list[Seen]
) -> tuple[int, int, UInt8[np.ndarray, "_ _"], list[Seen]] | None:
    """Row, column, cover inside the scene, and the others as they are then seen.

    None if there is no room, or nothing to see.
    """
    height, width = cover.shape
    pixels = int((cover > 0).sum())
    if not pixels:
        return None
    boxes = np.array([visible_box(one) for one in seen]).reshape(-1, 4)
    hang_y, hang_x = int(HANGS * height), int(HANGS * width)
    for _ in range(TRIES):
        y = int(rng.integers(-hang_y, SIDE - height + hang_y + 1))
        x = int(rng.integers(-hang_x, SIDE - width + hang_x + 1))
        inside = cover[max(-y, 0) : SIDE - y, max(-x, 0) : SIDE - x]
        rows, columns = (np.flatnonzero((inside > 0).any(axis)) for axis in (1, 0))
        if not len(rows) or (inside > 0).sum() < VISIBLE * pixels:
            continue
        tight = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = max(y, 0) + int(rows[0]), max(x, 0) + int(columns[0])
        box = np.array([left, top, left + tight.shape[1], top + tight.shape[0]])
        if (ious(box, boxes) > OVERLAP).any():
            continue
        others = [_beneath(one, top, left, tight) for one in seen]
        if all(one.visible.sum() >= VISIBLE * one.pixels for one in others):
            return top, left, tight, others
    return None


def _beneath(one: Seen, y: int, x: int, cover: UInt8[np.ndarray, "h w"]) -> Seen:
    """What is left of an object to see under a cover."""
    x1, y1, x2, y2 = one.layer.box
    top, left = max(y, y1), max(x, x1)
    bottom, right = min(y + cover.shape[0], y2), min(x + cover.shape[1], x2)
    if top >= bottom or left >= right:
        return one
    visible = one.visible.copy()
    above = cover[top - y : bottom - y, left - x : right - x]
    visible[top - y1 : bottom - y1, left - x1 : right - x1] &= above < FULL
    return one._replace(visible=visible)


def visible_box(one: Seen) -> tuple[int, int, int, int]:
    """xyxy of what is visible of an object; the far sides are exclusive."""
    left, top, width, height = cv2.boundingRect(one.visible.view(np.uint8))
    y, x = one.layer.y + top, one.layer.x + left
    return x, y, x + width, y + height


def ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of a box with others, xyxy."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def colour_of(
    rng: np.random.Generator,
    beneath: UInt8[np.ndarray, "p 3"],
    span: float,
    tint: Int[np.ndarray, "3"] | None,
) -> Int[np.ndarray, "3"]:
    """A colour of about the drawn contrast with the pixels beneath, near the tint where it can."""
    low, high = CONTRASTS
    wanted = rng.uniform(SMALL_CONTRAST if span < SMALL else low, high)
    level = int((beneath @ BRIGHTNESS).sum()) // (256 * len(beneath))
    greys, vivid = rng.integers(0, 256, (COLOURS, 1)), rng.integers(0, 256, (COLOURS, 3))
    choices = [greys + (vivid - greys) * int(rng.integers(257)) // 256]
    if tint is not None:
        near = tint + rng.integers(-NEAR, NEAR + 1, (COLOURS, 3))
        choices.insert(0, np.clip(near, 0, 255))
    for colours in choices:
        contrasts = np.abs(colours @ BRIGHTNESS // 256 - level)
        best = np.argmin(np.abs(contrasts - wanted))
        if contrasts[best] >= low:
            return colours[best]
    return np.full(3, 255 if level < 128 else 0)


def paint(
    rng: np.random.Generator,
    cover: UInt8[np.ndarray, "h w"],
    colour: Int[np.ndarray, "3"],
    span: float,
    part: tuple[float, float],
) -> Picture:
    """The surface of an object: even, shaded, mottled, or with a picture in it."""
    height, width = cover.shape
    cells = rng.choice((1, 2, 3, 8))
    difference = int(rng.integers(MOTTLED)) if cells > 1 else 0
    grid = colour + rng.integers(-difference, difference + 1, (cells, cells, 3))
    inside = spread(np.clip(grid, 0, 255).astype(np.uint8), height, width)
    if rng.random() < PATTERN_SHARE:
        pattern = crop(rng, max(height, width), part)[:height, :width]
        inside = ((3 * inside.astype(np.int64) + pattern) // 4).astype(np.uint8)
    if rng.random() < RIM_SHARE:
        thick = int(rng.integers(1, 2 + int(span) // 12))
        core = cv2.erode(
            (cover == FULL).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thick,
            borderType=cv2.BORDER_CONSTANT, borderValue=0,
        )  # fmt: skip
        shade = np.clip(colour + rng.integers(-RIM, RIM + 1, 3), 0, 255).astype(np.uint8)
        inside = np.where(core[..., None] > 0, inside, shade)
    return inside


def paste(canvas: Picture, layer: Layer) -> None:
    """Lay an object on the canvas, in place."""
    x1, y1, x2, y2 = layer.box
    window = canvas[y1:y2, x1:x2]
    cover = layer.cover[..., None].astype(np.uint16)
    window[:] = (window * (FULL - cover) + layer.paint * cover + FULL // 2) // FULL
