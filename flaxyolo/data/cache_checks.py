"""Whether what the image cache holds is what was written there."""

import json
import logging
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flaxyolo.base.files import replace_file
from flaxyolo.base.kept import DAMAGE, checksum, read_regular

log = logging.getLogger(__name__)

ONCE = "images"
"""The large array: its bytes are read through once for each state of its file."""
CHECKED = "checked.json"
"""Beside it: the state of the file whose bytes were found to be as written."""
SETTLED_S = 2.0
"""A file that changed so lately may change again without another time of change."""
TOLD_BYTES = 4 << 30
"""From this size on, checking takes seconds and is said."""


class Summed:
    """A file to write to that counts its bytes and keeps their CRC-32."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.sum = 0, 0

    def write(self, data: bytes | memoryview) -> int:
        """Write bytes, all of them."""
        size, crc = self.sum
        view = memoryview(data)
        self._file.write(view)
        self.sum = size + view.nbytes, zlib.crc32(view, crc)
        return view.nbytes


def require_checksums(folder: Path, sums: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """ValueError or OSError where an array's file has other bytes than were written."""
    for name in names:
        path, (size, crc) = folder / f"{name}.npy", sums[name]
        state = _state(path)
        if state[0] != size:
            raise ValueError(f"{path.name} has {state[0]} bytes, expected {size}")
        known = [*state, crc]
        if name == ONCE and _checked(folder) == known:
            continue
        if size >= TOLD_BYTES:
            log.info("%s: its %.1f GB are checked, once", path, size / 1e9)
        if checksum(path) != (size, crc):
            raise ValueError(f"the bytes of {path.name} have changed since they were written")
        if name == ONCE and max(state[1:3]) < time.time_ns() - SETTLED_S * 1e9:
            _keep(folder, known)


def require_sound(
    images: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    valid: np.ndarray,
    content: np.ndarray,
    *,
    count: int,
    size: int,
    classes: int,
) -> None:
    """ValueError where shapes, types or values are none of `count` images of `size` px."""
    slots = boxes.shape[1] if boxes.ndim == 3 else 0
    expected = {
        "images": (images, np.uint8, (count, size, size, 3)),
        "boxes": (boxes, np.float32, (count, slots, 4)),
        "labels": (labels, np.int32, (count, slots)),
        "valid": (valid, np.bool_, (count, slots)),
        "content": (content, np.float32, (count, 4)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, expected "
                             f"{np.dtype(dtype)}{list(shape)}")  # fmt: skip
    if not (np.isfinite(boxes).all() and np.isfinite(content).all()):
        raise ValueError("a box is not finite")
    known = labels[valid]
    if known.size and not (known.min() >= 0 and known.max() < classes):
        raise ValueError(f"labels from {known.min()} to {known.max()} of {classes} classes")


def _state(path: Path) -> list[int]:
    """Size, times of change and number of a file: whoever writes to it changes one of them."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _checked(folder: Path) -> Any:
    try:
        return json.loads(read_regular(folder / CHECKED))
    except DAMAGE:  # it is checked once more
        return None


def _keep(folder: Path, known: list[int]) -> None:
    try:
        replace_file(folder / CHECKED, json.dumps(known))
    except OSError as error:
        log.warning("%s: is checked again the next time: %s", folder, error.strerror)
