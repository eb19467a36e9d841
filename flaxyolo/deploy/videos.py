"""An annotated video as a file that is never seen half-written."""

import uuid
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.errors import InputError

USUAL_RATE = 25.0
"""Frames in a second where a video does not say."""
CODEC = "mp4v"
"""MPEG-4 Part 2: what OpenCV's wheels can write on every platform."""


class VideoFile:
    """An MP4 file: it appears at `close`, with the frames up to then.

    The codec takes even sizes: an odd one has its last row or column twice.
    """

    def __init__(self, path: Path, width: int, height: int, rate: float):
        self.path = path
        self._partial = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
        self._size = width + width % 2, height + height % 2
        self._writer = cv2.VideoWriter(
            str(self._partial), cv2.VideoWriter.fourcc(*CODEC), rate or USUAL_RATE, self._size
        )
        if not self._writer.isOpened():
            raise InputError(f"{path}: OpenCV cannot write a video here; leave out the pictures")

    def add(self, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """One more frame, RGB; every frame has the size of the first."""
        height, width = pixels.shape[:2]
        bottom, right = self._size[1] - height, self._size[0] - width
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        self._writer.write(cv2.copyMakeBorder(bgr, 0, bottom, 0, right, cv2.BORDER_REPLICATE))

    def close(self) -> None:
        """Complete the file and put it in its place."""
        self._writer.release()
        self._partial.replace(self.path)

    def discard(self) -> None:
        """Remove it."""
        self._writer.release()
        self._partial.unlink(missing_ok=True)
