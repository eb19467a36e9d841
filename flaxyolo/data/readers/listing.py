"""What the readers of files share: image files, columns from rows, lines about progress."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_lines
from flaxyolo.base.words import shortened, shown
from flaxyolo.data.records import Aside, Listed, Records

T = TypeVar("T")
log = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib",
    ".tif", ".tiff", ".gif", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm",
    ".pgm", ".ppm", ".pnm", ".pam", ".sr", ".ras",
)  # fmt: skip
"""What an image file may end in, in either case: the forms that OpenCV decodes to 8 or 16 bits."""
COMPANIONS = {
    ".txt", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".md", ".rst", ".names",
    ".data", ".cache", ".html", ".ini", ".db", ".py", ".sh", ".log", ".pdf", ".lst",
}  # fmt: skip
"""What texts and lists beside images end in."""
TEXTS = ("readme", "license", "notice")
"""Texts without a suffix."""
MOST_BOXES = 100_000
"""Of one image: what has more is no image's labels."""
REPEATED = 100
"""Times that a long list may name each image on average."""
SYSTEM = ("/proc", "/sys", "/dev")
"""Folders that are no data, and whose files may have no end; nor is the root of all."""
LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")
"""What systems leave in folders, beside hidden files."""
REPORT_S = 5.0
"""Seconds between two lines about the progress."""

Row = tuple[int, float, float, float, float, int, float, bool]
"""Position of the image, x1, y1, x2, y2, label, area, crowd: a line of `Records`."""


class Files(NamedTuple):
    """What lies in a folder and below it, by name."""

    images: list[Path]
    """Links that lead nowhere included."""
    texts: list[Path]
    """Files whose suffix is one of `COMPANIONS`."""
    others: list[Path]
    """What nobody reads."""
    litter: list[Path]
    """Hidden files, and what systems leave behind."""


def files_below(folder: Path) -> Files:
    """All files of a folder and those below it; links are followed, each folder is taken once."""
    if _is_system(os.path.realpath(folder)):
        raise InputError(f"{folder}: expected a folder of data, got the system's own")
    files = Files([], [], [], [])
    # A link upwards leads to nothing new.
    seen = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    folders, links, reported = [folder], [], time.monotonic()
    while folders or links:
        # Folders before links to them: a file goes by its own path where it has one.
        here = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        now = time.monotonic()
        if now - reported >= REPORT_S:
            reported = now
            log.info("%s: %d files so far, now in %s", folder, sum(map(len, files)), here)
        for entry in _entries(here):
            path = here / entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder:
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):
                real = os.path.realpath(path)
                (files.others if _is_system(real) else links).append(path)
            else:
                _list_for(files, path, entry).append(path)
            if is_folder and is_image(path) and not any(os.scandir(path)):
                files.others.append(path)
    for paths in files:
        paths.sort()
    return files


def _is_system(real: str) -> bool:
    return real == os.sep or any(real == one or real.startswith(f"{one}/") for one in SYSTEM)


def read_names(path: Path, what: str) -> list[str]:
    """The names of a list of images, one a line; InputError where it only says the same ones."""
    names = [line for line in read_lines(path, what) if line]
    different = len(set(names))
    if len(names) > MOST_BOXES and len(names) > REPEATED * different:
        raise InputError(
            f"{path}: expected the name of an image in each line, got {len(names):,} lines, of "
            f"which {different:,} differ"
        )
    return names


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot list the folder: {error.strerror}") from None


def _list_for(files: Files, path: Path, entry: os.DirEntry[str]) -> list[Path]:
    if entry.name.startswith(".") or entry.name.lower() in LITTER:
        return files.litter
    # A pipe or a device has no end.
    readable = entry.is_file(follow_symlinks=False) or (
        entry.is_symlink() and (os.path.isfile(path) or not os.path.exists(path))
    )
    if is_image(path) and readable:
        return files.images
    return files.texts if is_text(path) else files.others


def is_image(path: Path) -> bool:
    """Whether a file is named like an image that can be read."""
    return path.suffix.lower() in SUFFIXES


def is_text(path: Path) -> bool:
    """Whether a file is one of the texts and lists that lie beside images."""
    return path.suffix.lower() in COMPANIONS or path.name.lower() in TEXTS


def namesakes(path: Path, names: Mapping[int, str]) -> list[str]:
    """The classes, by number, that are named like an earlier one."""
    first: dict[str, int] = {}
    return [
        f"{path}: class {number}: {shown(name)}, as {first[name]}" for number, name in names.items()
        if first.setdefault(name, number) != number
    ]  # fmt: skip


def asides(**places: Sequence[Path | str]) -> tuple[Aside, ...]:
    """What was found beside images and boxes, by kind; kinds without a place are left out."""
    return tuple(Aside(kind, tuple(map(str, where))) for kind, where in places.items() if where)


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
    return ", ".join(shortened(name) for name in names[:most]) + (
        " ..." if len(names) > most else ""
    )


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
