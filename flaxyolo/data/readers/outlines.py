"""Outlines of things to draw: shapes, letters, digits and words as polygons.

Letters are those of the DejaVu fonts that matplotlib ships (Bitstream Vera's licence: free to use,
embed and change); handwritten digits are followed along their ink.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, Float64
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

Outline = list[Float64[np.ndarray, "_ 2"]]
"""Polygons (x, y) in any unit, y downwards; what an odd number of them holds is inside."""

CIRCLE_POINTS = 48
FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono-Bold",
         "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic")  # fmt: skip
LETTERS = "ACEFHJKMNPRTUWYadefhkmnrtuwy"
"""Those that are like no digit and no shape, however they are turned a little."""
WORD_LETTERS = (3, 6)
FONT_SIZE = 64
"""In which a letter's curves become straight pieces."""
INK = 90
"""Of 240, from which on a pixel of a handwritten digit belongs to a stroke."""
PIECE = 3
"""Pixels between two points of a handwritten digit that is eight times as large."""


def polar(radii: Float[np.ndarray, " n"]) -> Float64[np.ndarray, "n 2"]:
    """The polygon with corners at these distances, all around at equal angles."""
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def smoothed(polygon: Float64[np.ndarray, "n 2"], times: int) -> Float64[np.ndarray, "m 2"]:
    """The polygon with its corners cut off so many times (Chaikin's curve)."""
    for _ in range(times):
        following = np.roll(polygon, -1, axis=0)
        cuts = 0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following
        polygon = np.stack(cuts, 1).reshape(-1, 2)
    return polygon


CIRCLE = polar(np.ones(CIRCLE_POINTS))


def disk(rng: np.random.Generator) -> Outline:
    """A disk, or a fat ellipse."""
    return [CIRCLE * [1, rng.uniform(0.7, 1)]]


def ring(rng: np.random.Generator) -> Outline:
    """A disk with a round hole."""
    return [CIRCLE, CIRCLE * rng.uniform(0.45, 0.75)]


def blob(rng: np.random.Generator) -> Outline:
    """A round thing without any order, as cells are."""
    return [smoothed(polar(rng.uniform(0.3, 1.1, rng.integers(7, 11))), 3)]


def triangle(rng: np.random.Generator) -> Outline:
    """A triangle that is not too flat."""
    return [np.array([[-1, 0], [1, 0], [rng.uniform(-0.7, 0.7), -rng.uniform(1, 2.2)]])]


def rectangle(rng: np.random.Generator) -> Outline:
    """A square, or a rectangle."""
    height = rng.uniform(0.4, 1)
    return [np.array([[0, 0], [1, 0], [1, height], [0, height]])]


def star(rng: np.random.Generator) -> Outline:
    """Four to seven points."""
    points = rng.integers(4, 8)
    return [polar(np.tile([1, rng.uniform(0.35, 0.5)], points))]


def cross(rng: np.random.Generator) -> Outline:
    """Two bars of equal length."""
    t = rng.uniform(0.15, 0.35)
    return [
        np.array([[-t, -1], [t, -1], [t, -t], [1, -t], [1, t], [t, t], [t, 1], [-t, 1], [-t, t],
                  [-1, t], [-1, -t], [-t, -t]])
    ]  # fmt: skip


def arrow(rng: np.random.Generator) -> Outline:
    """A bar with a head."""
    t, wide, neck = rng.uniform(0.12, 0.3), rng.uniform(0.5, 0.8), rng.uniform(-0.1, 0.4)
    return [np.array([[-1, -t], [neck, -t], [neck, -wide], [1, 0], [neck, wide], [neck, t],
                      [-1, t]])]  # fmt: skip


def crescent(rng: np.random.Generator) -> Outline:
    """What a disk leaves of another."""
    half = CIRCLE[CIRCLE_POINTS // 4 : 3 * CIRCLE_POINTS // 4 + 1]
    return [np.concatenate([half, half[-2:0:-1] * [rng.uniform(0.1, 0.55), 1]])]


def letter(rng: np.random.Generator) -> Outline:
    """One letter of any face."""
    return printed(_face(rng), LETTERS[rng.integers(len(LETTERS))])


def digit(rng: np.random.Generator) -> Outline:
    """One printed digit of any face."""
    return printed(_face(rng), str(rng.integers(10)))


def word(rng: np.random.Generator) -> Outline:
    """A few letters in a row, of one face."""
    count = rng.integers(WORD_LETTERS[0], WORD_LETTERS[1] + 1)
    letters = [LETTERS[place] for place in rng.integers(len(LETTERS), size=count)]
    return printed(_face(rng), "".join(letters))


def _face(rng: np.random.Generator) -> str:
    return FACES[rng.integers(len(FACES))]


@lru_cache(maxsize=512)
def printed(face: str, text: str) -> Outline:
    """A text in one of the faces."""
    font = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    path = TextPath((0, 0), text, size=FONT_SIZE, prop=FontProperties(fname=font))
    return [np.asarray(polygon) * [1, -1] for polygon in path.to_polygons()]


def handwritten(glyph: Float[np.ndarray, "8 8"]) -> Outline:
    """The strokes of a digit of scikit-learn's `load_digits`, ink from 0 to 16."""
    ink = np.pad((glyph * 15).astype(np.uint8), 1)
    large = cv2.resize(ink, None, fx=8, fy=8, interpolation=cv2.INTER_LINEAR_EXACT)
    inside = (large > INK).astype(np.uint8)
    lines, _ = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    pieces = [line[::PIECE, 0].astype(np.float64) for line in lines]
    return [smoothed(polygon, 2) for polygon in pieces if len(polygon) > 2]


OUTLINES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "disk": disk,
    "ring": ring,
    "blob": blob,
    "triangle": triangle,
    "rectangle": rectangle,
    "star": star,
    "cross": cross,
    "arrow": arrow,
    "crescent": crescent,
    "letter": letter,
    "digit": digit,
    "word": word,
}
UPRIGHT = ("letter", "digit", "word")
"""What is turned a little only."""
