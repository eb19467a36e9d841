"""Backgrounds: crops of pictures that installed packages ship, and drawn textures.

All arithmetic is of whole numbers or rounded to them, so that a seed gives the same bits anywhere.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.cbook import get_sample_data
from matplotlib.image import imread

from flaxyolo.base.errors import InputError

Picture = UInt8[np.ndarray, "_ _ 3"]
"""RGB."""

PORTRAIT, TERRAIN = "grace_hopper.jpg", "jacksboro_fault_dem.npz"
"""Of matplotlib's sample data."""

LEAST_CROP = 96
"""Pixels of a picture that become one backdrop, at least."""
PICTURE_SHARE = 0.55
"""Of the backdrops; the others are textures."""
LINES_SHARE = 0.35
"""Of the backdrops: those with lines that belong to nothing."""
MOST_LINES = 6
MOST_NOISE = 12
"""Grey levels that a pixel is moved up or down."""


@lru_cache(maxsize=1)
def pictures() -> tuple[Picture, ...]:
    """Two photographs of scikit-learn, one of matplotlib, and the relief of a landscape.

    scikit-learn's china.jpg (by danielbuechele) and flower.jpg (by vultilion) are CC BY 2.0.
    matplotlib's grace_hopper.jpg is a photograph of the US Navy, its jacksboro_fault_dem.npz are
    elevations of the US Geological Survey: works of the US government, in the public domain.
    """
    portrait, terrain = (
        Path(get_sample_data(name, asfileobj=False)) for name in (PORTRAIT, TERRAIN)
    )
    for path in (portrait, terrain):
        if not path.is_file():
            raise InputError(
                f"{path}: expected matplotlib's sample data, found none; the scenes need the "
                "matplotlib of PyPI"
            )
    with np.load(terrain) as held:
        relief = shaded(held["elevation"].astype(np.int64))
    # As in `digits`: few commands need it.
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(photo, np.uint8) for photo in load_sample_images().images]
    return *photographs, np.asarray(imread(portrait), np.uint8), relief


def shaded(heights: Int[np.ndarray, "h w"]) -> Picture:
    """A landscape in metres, green to brown by its height, lit from the upper left."""
    slope = 3 * (np.diff(heights, axis=0)[:, :-1] + np.diff(heights, axis=1)[:-1])
    level = 255 * (heights - heights.min()) // np.ptp(heights)
    level = level[:-1, :-1, None]
    colour = (np.array([70, 110, 60]) * (255 - level) + np.array([220, 190, 150]) * level) // 255
    return np.clip(colour + slope[..., None], 0, 255).astype(np.uint8)


def backdrop(rng: np.random.Generator, side: int, part: tuple[float, float]) -> Picture:
    """A square of `side` pixels; of pictures only columns from one share of the width to another.

    Some have noise, and lines for clutter.
    """
    if rng.random() < PICTURE_SHARE:
        image = crop(rng, side, part)
    else:
        image = TEXTURES[rng.integers(len(TEXTURES))](rng, side)
    noise = int(rng.integers(MOST_NOISE + 1))
    grain = rng.integers(-noise, noise + 1, (side, side, 1), np.int16)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if rng.random() < LINES_SHARE:
        for _ in range(rng.integers(1, MOST_LINES + 1)):
            line = rng.integers(-side // 4, side + side // 4, (rng.integers(2, 5), 2))
            colour = rng.integers(0, 256, 3).tolist()
            thick = int(rng.integers(1, 4))
            cv2.polylines(image, [line.astype(np.int32)], False, colour, thick)
    return image


def crop(rng: np.random.Generator, side: int, part: tuple[float, float]) -> Picture:
    """A square part of a picture, turned, mirrored and tinted."""
    picture = pictures()[rng.integers(len(pictures()))]
    height, width = picture.shape[:2]
    first, end = (round(width * share) for share in part)
    size = int(rng.integers(LEAST_CROP, min(height, end - first) + 1))
    y = int(rng.integers(height - size + 1))
    x = int(rng.integers(first, end - size + 1))
    square = np.rot90(picture[y : y + size, x : x + size], int(rng.integers(4)))
    if rng.random() < 0.5:
        square = square[:, ::-1]
    tinted = np.minimum(square * rng.integers(160, 300, 3) // 256, 255)
    return spread(tinted.astype(np.uint8), side, side)


def spread(cells: UInt8[np.ndarray, "_ _ 3"], height: int, width: int) -> Picture:
    """A picture enlarged or shrunk, with the same bits on every machine."""
    cells = np.ascontiguousarray(cells)
    return np.asarray(
        cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8
    )


def plain(rng: np.random.Generator, side: int) -> Picture:
    """Nearly one colour, as under a microscope."""
    colours = rng.integers(0, 256, 3) + rng.integers(-25, 26, (2, 2, 3))
    return spread(np.clip(colours, 0, 255).astype(np.uint8), side, side)


def clouds(rng: np.random.Generator, side: int) -> Picture:
    """Noise that is coarse and fine at once, around one colour."""
    total = np.zeros((side, side, 3), np.int64)
    for cells, weight in ((2, 6), (5, 4), (13, 3), (40, 2), (110, 1)):
        grid = rng.integers(0, 256, (cells, cells, 3), np.uint8)
        total += weight * spread(grid, side, side).astype(np.int64)
    contrast = int(rng.integers(4, 33))
    shift = rng.integers(40, 216, 3)
    return np.clip((total // 16 - 128) * contrast // 16 + shift, 0, 255).astype(np.uint8)


def stripes(rng: np.random.Generator, side: int) -> Picture:
    """Stripes of two colours in any direction."""
    y, x = np.mgrid[:side, :side]
    across = rng.integers(-8, 9, 2)
    return _two_colours(rng, (x * across[0] + y * across[1]) // rng.integers(16, 200) % 2)


def checks(rng: np.random.Generator, side: int) -> Picture:
    """Rectangles of two colours in turn."""
    y, x = np.mgrid[:side, :side]
    wide, high = rng.integers(4, 60, 2)
    return _two_colours(rng, (x // wide + y // high) % 2)


def _two_colours(rng: np.random.Generator, which: Int[np.ndarray, "s s"]) -> Picture:
    first = rng.integers(0, 256, 3)
    colours = np.stack([first, np.clip(first + rng.integers(-70, 71, 3), 0, 255)])
    return colours.astype(np.uint8)[which]


TEXTURES: tuple[Callable[[np.random.Generator, int], Picture], ...] = (
    plain,
    clouds,
    clouds,
    stripes,
    checks,
)
"""Each as often as it stands here."""
