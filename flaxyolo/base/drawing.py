"""Boxes with their captions, drawn on a picture of any size in its own pixels."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

LEAST_LETTERS = 10
"""Height of the letters in pixels, however small the picture."""
LETTERS = 45
"""Of a large picture, as a part of its longer side."""
LINES = 320
"""Pixels of the longer side for each pixel of a line's width."""


def class_colour(label: int, classes: int) -> tuple[float, ...]:
    """Red, green, blue and opacity in 0..1: the same class has the same colour everywhere."""
    if classes <= 10:
        return matplotlib.colormaps["tab10"](label)
    # Golden-ratio steps keep neighbouring labels apart for any number of classes.
    return matplotlib.colormaps["hsv"](label * 0.618034 % 1)


def draw_boxes(
    pixels: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    captions: Sequence[str],
    classes: int,
) -> Image.Image:
    """A copy of the picture with xyxy boxes in the colours of their classes; later ones on top."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(picture)
    longest = max(pixels.shape[:2])
    line = max(1, round(longest / LINES))
    font = _font(max(LEAST_LETTERS, round(longest / LETTERS)))
    # All outlines first, so that none crosses a caption.
    for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
        draw.rectangle(box, outline=_ink(label, classes), width=line)
    for box, label, caption in zip(boxes.tolist(), labels.tolist(), captions, strict=True):
        _write(draw, box, caption, _ink(label, classes), font, picture.size)
    return picture


def _write(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    caption: str,
    ink: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """A caption above its box, or inside where there is no room, and never over the edge."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    width, height = right - left + 2, bottom - top + 2
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else max(0, min(box[1], size[1] - height))
    draw.rectangle((x, y, x + width, y + height), fill=ink)
    bright = 0.3 * ink[0] + 0.59 * ink[1] + 0.11 * ink[2] > 127
    fill = "black" if bright else "white"
    draw.text((x + 1 - left, y + 1 - top), caption, fill=fill, font=font)


def _ink(label: int, classes: int) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in class_colour(label, classes)[:3])
    return red, green, blue


@lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which every installation has."""
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), height)
