"""Any image that a program may hold as RGB pixels: an array, a PIL image, a file, nested lists."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.decoding import decoded
from flaxyolo.base.errors import InputError
from flaxyolo.base.exif import orientation_of, upright
from flaxyolo.base.limits import BYTES_PER_PIXEL, max_pixels
from flaxyolo.base.reading import expanded, read_file

TAKEN = "expected an image: a file's name, a PIL image, or an array (h, w), (h, w, 3) or (h, w, 4)"
OVER_ONE = 1e-3
"""By which a share of 1 may pass 1: resizing may overshoot."""


def rgb_pixels(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """An image as uint8 RGB; InputError where it is none.

    A file is turned as its EXIF says, and everything else left as it lies. Grey is taken for all
    three channels and alpha is dropped. Arrays hold 0 to 255, or floats in 0..1.
    """
    if isinstance(image, str | os.PathLike):
        return _read(Path(image))
    if hasattr(image, "mode") and hasattr(image, "convert"):
        image = _of_pil(image)
    try:
        pixels = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{TAKEN}, got a {type(image).__name__}: {reason:.200}") from None
    return np.ascontiguousarray(_bytes(_three_channels(pixels, type(image).__name__)))


def listed_images(images: Any) -> Sequence[Any] | None:
    """The images of a list, a tuple or an array (n, h, w, c); None where it is a single one.

    Numbers in nested lists, and a list of the rows of one image, are a single one.
    """
    if not isinstance(images, list | tuple):
        return list(images) if getattr(images, "ndim", 0) == 4 else None
    if any(isinstance(one, list | tuple | int | float | np.number) for one in images):
        return None
    shapes = [getattr(one, "shape", ()) for one in images]
    rows = bool(shapes) and all(len(shape) == 2 and shape[1] in (3, 4) for shape in shapes)
    return None if rows else images


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        content = read_file(expanded(path), BYTES_PER_PIXEL * max_pixels())
    except OSError as error:
        raise InputError(f"{path}: cannot read the image: {error.strerror}") from None
    except InputError:
        raise
    except ValueError:  # a zero byte in the name, or half a character
        raise InputError(f"{str(path)!r}: cannot read the image: no file name") from None
    return file_pixels(content, str(path))


def file_pixels(content: bytes, name: str, most: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image file's bytes, turned as its EXIF says; InputError names it.

    More than `most` pixels (None: as many as `--max-pixels` allows) are not decoded.
    """
    found = decoded(content, most)
    if isinstance(found, str):
        raise InputError(f"{name}: expected an image that OpenCV can decode, got {found}")
    return upright(found.pixels, orientation_of(content))


def _of_pil(image: Any) -> Any:
    """A PIL image with bytes in RGB; one of integers or floats stays what it is."""
    try:
        return image if image.mode[0] in "IF" else image.convert("RGB")
    except OSError as error:  # it is read only now
        raise InputError(f"{TAKEN}, got a PIL image that cannot be read: {error}") from None


def _three_channels(pixels: np.ndarray, kind: str) -> np.ndarray:
    got = f"got {pixels.dtype} {pixels.shape}" if pixels.ndim else f"got a {kind}"
    if pixels.dtype.kind not in "buif" or pixels.ndim not in (2, 3):
        several = "; several images are given one by one" if pixels.ndim == 4 else ""
        raise InputError(f"{TAKEN}, {got}{several}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels = pixels.shape[2]
    if not pixels.size:
        raise InputError(f"{TAKEN}, {got}, which holds no pixel")
    if channels not in (1, 3, 4):
        first = pixels.shape[0] in (1, 3, 4)
        hint = "; put the channels last, as by image.transpose(1, 2, 0)" if first else ""
        raise InputError(f"{TAKEN}, {got}{hint}")
    return pixels.repeat(3, axis=2) if channels == 1 else pixels[:, :, :3]


def _bytes(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    low, high = pixels.min(), pixels.max()
    most = 1 + OVER_ONE if pixels.dtype.kind == "f" else 255
    # Not a number is in no range.
    if not (low >= -OVER_ONE and high <= most):
        expected = "floats from 0 to 1" if pixels.dtype.kind == "f" else "numbers from 0 to 255"
        raise InputError(
            f"expected an image of {expected}, got {pixels.dtype} from {low:g} to {high:g}; "
            "divide it by its largest possible value"
        )
    if pixels.dtype.kind == "f":
        pixels = np.rint(np.clip(pixels, 0, 1) * 255)
    return pixels.astype(np.uint8)
