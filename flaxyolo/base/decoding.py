"""The bytes of an image file as pixels, or what they are instead."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.exif import jpeg_parts
from flaxyolo.base.headers import stored_size
from flaxyolo.base.limits import LARGE_BYTES, LARGE_PIXELS, max_pixels, too_many_pixels

FEWER_BITS = (8, 10, 12, 14)
"""Bits of a camera's values, which may be stored in 16."""


class Decoded(NamedTuple):
    """An image as it is stored."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    bits: int = 0
    """What the values of an image of 16 bits fit into, if that is fewer; otherwise 0."""


_TURN = threading.RLock()


@contextmanager
def alone(*, pixels: int = 0, size: int = 0) -> Iterator[None]:
    """Wait here with a large image (or file, of `size` bytes) until no other thread has one.

    So memory does not grow with the threads; a thread may go in again.
    """
    if pixels <= LARGE_PIXELS and size <= LARGE_BYTES:
        yield
        return
    with _TURN:
        yield


def decoded(content: bytes, most: int | None = None) -> Decoded | str:
    """The image as stored, or what the bytes are instead.

    One of more than `most` pixels (None: as many as `--max-pixels` allows) is not decoded.
    """
    size = stored_size(content)
    if size is None:
        return f"{len(content)} bytes that are none, or one that is cut off"
    problem = too_many_pixels(*size, max_pixels() if most is None else most)
    if problem:
        return problem
    with alone(pixels=size[0] * size[1], size=len(content)):
        return _decoded(content)


def _decoded(content: bytes) -> Decoded | str:
    # OpenCV fills up a JPEG that is cut off with grey, and says nothing.
    scan = jpeg_parts(content)[1] if content.startswith(b"\xff\xd8") else -1
    if scan >= 0 and content.rfind(b"\xff\xd9") < scan:
        return f"a JPEG of {len(content)} bytes that is cut off"
    if content.startswith(b"\x89PNG") and b"IEND" not in content[-4096:]:
        return f"a PNG of {len(content)} bytes that is cut off"
    deep = _opencv(content, cv2.IMREAD_ANYDEPTH)
    if deep is None:
        return f"{len(content)} bytes that are none, or one that is cut off"
    if deep.dtype == np.uint8:
        return Decoded(np.asarray(deep, np.uint8))
    if deep.dtype == np.uint16:
        most = int(deep.max()).bit_length()
        bits = next((bits for bits in FEWER_BITS if most <= bits), 0)
        if bits:
            np.right_shift(deep, bits - 8, out=deep)
            return Decoded(deep.astype(np.uint8), bits)
    # The first one may be several times as large.
    del deep
    pixels = _opencv(content, 0)
    assert pixels is not None
    return Decoded(np.asarray(pixels, np.uint8))


def _opencv(content: bytes, depth: int) -> np.ndarray | None:
    """RGB of a file's bytes; without a depth, of 8 bits."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | depth
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    except cv2.error:  # for instance more pixels than OpenCV allows
        return None
