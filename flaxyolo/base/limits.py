"""How many pixels an image may have, and whether a data set may lead out of itself.

Both hold for a command and for every process that it starts, so they lie in the environment.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import shown

PIXELS = "FLAXYOLO_MAX_PIXELS"
OUTSIDE = "FLAXYOLO_ALLOW_OUTSIDE"
MOST_PIXELS = 62_000_000
"""Of an image, where nothing else is said: those of full-frame cameras; up to 0.8 GB to decode."""
LARGE_PIXELS = 16_000_000
"""An image of more is decoded while no other one is."""
LARGE_BYTES = 64 << 20
"""A file of more is read while no other one is."""
BYTES_PER_PIXEL = 4
"""Of the largest file of so many pixels: colours with alpha, without compression."""


def max_pixels() -> int:
    """The most pixels of an image that is decoded."""
    said = os.environ.get(PIXELS, "")
    if not said:
        return MOST_PIXELS
    if not said.isdecimal() or len(said) > 15 or int(said) < 1:
        raise InputError(f"{PIXELS}: expected a number of pixels from 1, got {shown(said)}")
    return int(said)


def allow_outside() -> bool:
    """Whether names in a data set may lead out of it."""
    return os.environ.get(OUTSIDE, "") not in ("", "0")


@contextmanager
def reading(pixels: int | None, outside: bool) -> Iterator[None]:
    """With `pixels` as the most of an image (None: as before), and names that lead out or not."""
    if pixels is not None and not 1 <= pixels < 10**15:
        raise InputError(f"--max-pixels: expected a number of pixels from 1, got {pixels}")
    said = {PIXELS: None if pixels is None else str(pixels), OUTSIDE: "1" if outside else None}
    before = {name: os.environ.get(name) for name in said}
    try:
        os.environ.update({name: value for name, value in said.items() if value is not None})
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_of_limit(problem: str) -> bool:
    """Whether a problem of an image is one of its size alone."""
    return "--max-pixels" in problem


def too_many_pixels(height: int, width: int, most: int) -> str:
    """Empty, or what is wrong with an image of this size."""
    if height * width <= most:
        return ""
    return (
        f"an image of {width:,} x {height:,} pixels by its header, more than {most:,}; "
        f"--max-pixels {height * width} allows it"
    )
