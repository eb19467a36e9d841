"""The file that keeps the facts of images: one row for each, checked when it is read."""

import contextlib
import hashlib
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flaxyolo.base.files import make_room, replace_file
from flaxyolo.base.kept import DAMAGE, brief, read_regular, sealed, unsealed
from flaxyolo.data.records import Image

log = logging.getLogger(__name__)

FACTS_VERSION = 2
"""Raised with every change of what is stored."""

MOST_SIDE = 2**31 - 1


class Row(NamedTuple):
    """The facts of one image, as they are stored."""

    height: int = 0
    width: int = 0
    orientation: int = 1
    digest: str = ""
    brightness: float = math.nan
    contrast: float = math.nan
    blur: float = math.nan
    problem: str = ""
    complaint: str = ""
    bits: int = 0


Known = dict[str, tuple[list[int], Row]]
"""By path: size and time of the file, and its facts. By digest where there is no path."""


def facts_file(images: Sequence[Image], root: Path) -> Path:
    """The file that keeps the facts: one for all images below the same folder."""
    folders = {os.path.dirname(os.path.abspath(i)) for i in images if isinstance(i, Path)}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # several drives
        common = ""
    # A name may hold half a character, which has no UTF-8.
    key = hashlib.sha256(common.encode(errors="surrogatepass")).hexdigest()[:20]
    return root / "facts" / f"{key}.json"


def load_facts(store: Path) -> Known:
    """What is kept; nothing, said in the log, where any of it cannot be."""
    try:
        return _read(store)
    except DAMAGE as error:
        log.warning("%s is damaged and is made again: %s", store, brief(error))
        return {}


def add_facts(store: Path, fresh: Known) -> None:
    """Add to what is there, which another process may have written in between."""
    known: Known = {}
    with contextlib.suppress(*DAMAGE):  # who loaded it has said so
        known = _read(store)
    images = {name: [stamp, *row] for name, (stamp, row) in (known | fresh).items()}
    try:
        store.parent.mkdir(exist_ok=True)
        make_room(store)
        replace_file(store, sealed({"version": FACTS_VERSION, "images": images}))
    except OSError as error:
        # Only time is lost: the facts are in memory.
        log.warning("%s: what was learnt of the images is not kept: %s", store, error.strerror)


def _read(store: Path) -> Known:
    try:
        data = unsealed(read_regular(store))
    except FileNotFoundError:
        return {}
    if data["version"] != FACTS_VERSION:
        return {}
    return {name: (_stamp(stamp), _row(row)) for name, (stamp, *row) in data["images"].items()}


def _stamp(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) not in (0, 2) or not _whole(*value):
        raise ValueError("a file's size and time are not two numbers")
    return value


def _row(values: Sequence[Any]) -> Row:
    """One image's facts; ValueError or TypeError where they cannot be."""
    row = Row(*values)
    light = row.brightness, row.contrast, row.blur
    if not _whole(row.height, row.width, row.orientation, row.bits):
        raise ValueError("a size is not a whole number")
    if not all(isinstance(text, str) for text in (row.digest, row.problem, row.complaint)):
        raise ValueError("a digest or problem is not text")
    if not all(type(value) in (float, int) for value in light):
        raise ValueError("brightness, contrast or blur is not a number")
    sides = row.height, row.width
    if not (min(sides) >= 0 and max(sides) <= MOST_SIDE and 1 <= row.orientation <= 8
            and 0 <= row.bits <= 16 and len(row.digest) in (0, 64)):  # fmt: skip
        raise ValueError("a size, orientation or digest is out of range")
    if not row.problem and (
        min(sides) < 1 or not row.digest or not all(0 <= value < math.inf for value in light)
    ):
        raise ValueError("an image that can be read has no size, digest or light")
    return row


def _whole(*values: Any) -> bool:
    return all(type(value) is int for value in values)
