"""What the readers of files share: image files, columns from rows, lines about progress."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from flaxyolo.data.records import Listed, Records

T = TypeVar("T")
log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What an image file may end in, in either case."""
REPORT_S = 5.0
"""Seconds between two lines about the progress."""

Row = tuple[int, float, float, float, float, int, float, bool]
"""Position of the image, x1, y1, x2, y2, label, area, crowd: a line of `Records`."""


def find_images(folder: Path) -> list[Path]:
    """All image files in a folder and below it, by name."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in files if path.is_file() and not path.name.startswith("."))


def records_of(
    images: Sequence[Listed], rows: Sequence[Row], where: Callable[[int], str]
) -> Records:
    """One split from its images and the rows of its boxes."""
    table = np.array(rows, np.float64).reshape(-1, 8)
    boxes, areas = table[:, 1:5].copy(), table[:, 6].copy()
    boxes[~np.isfinite(boxes)] = np.nan
    areas[~np.isfinite(areas)] = np.nan
    return Records(
        images=tuple(images),
        image=table[:, 0].astype(np.int64),
        boxes=boxes,
        labels=table[:, 5].astype(np.int64),
        areas=areas,
        crowd=table[:, 7].astype(bool),
        where=where,
    )


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def progress(items: Iterable[T], count: int, what: str) -> Iterator[T]:
    """Pass the items on and log every few seconds how far it is."""
    start = reported = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - reported >= REPORT_S and done < count:
            reported = now
            left = (now - start) / done * (count - done)
            log.info("%s: %d of %d, %.0f s left", what, done, count, left)
