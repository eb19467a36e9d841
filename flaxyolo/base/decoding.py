"""The bytes of an image file as pixels, or what they are instead."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.exif import jpeg_parts

FEWER_BITS = (8, 10, 12, 14)
"""Bits of a camera's values, which may be stored in 16."""


class Decoded(NamedTuple):
    """An image as it is stored."""

    pixels: UInt8[np.ndarray, "h w 3"]
    """RGB."""
    bits: int = 0
    """What the values of an image of 16 bits fit into, if that is fewer; otherwise 0."""


def decoded(content: bytes) -> Decoded | str:
    """The image as stored, or what the bytes are instead."""
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
            return Decoded((deep >> (bits - 8)).astype(np.uint8), bits)
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
