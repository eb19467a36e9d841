"""Data sets in Pascal VOC's form: an XML file for each image.

Pascal counts pixels from 1 and includes the last one (VOC2012 development kit, section 4): its box
becomes (xmin - 1, ymin - 1, xmax, ymax). Many tools write the same XML but count from 0, so
coordinates are read as Pascal's only where most files name VOC as their `database` and no xmin or
ymin is below 1; the log says which it was.

Objects marked `difficult` become crowd: not trained on, and left out of the score. (COCO forgives
any number of detections inside them, Pascal one for each; the difference is small.)
"""

import hashlib
import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import file_state
from flaxyolo.data.readers.listing import SUFFIXES, Row, named, progress, records_of
from flaxyolo.data.records import Listed, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 1
"""Raised with every change that reads something else from the same files."""

LARGEST_NUMBER = 1e15
"""What is larger is no coordinate."""
LARGEST = 16 << 20
"""Bytes of an XML file: real ones have a few thousand."""
VALIDATION = ("val", "valid", "validation")
"""Folders that hold the images to score on."""
XML_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


class Entry(NamedTuple):
    """An annotation file, whether it exists or not, and where its image may lie."""

    path: Path
    folders: tuple[Path, ...]


class Thing(NamedTuple):
    """One `object` of a file."""

    name: str
    box: tuple[float, float, float, float]
    """As written; NaN where it is no number."""
    difficult: bool


class Page(NamedTuple):
    """What an annotation file says."""

    image: Path
    height: int | None
    width: int | None
    things: tuple[Thing, ...]
    pascal: bool
    """Whether it names VOC as its database."""
    problem: str
    """Why it cannot be read, or empty."""


def read_voc(root: str) -> Source:
    """A folder of Pascal's form, or of XML files beside images.

    Pascal's: `Annotations`, `JPEGImages` and the splits `train.txt`, `val.txt` (or `trainval.txt`
    alone) in `ImageSets/Main`. Other folders: `train` and `val`, or the folder itself as `train`,
    with images beside the XML files or in `images`. An image is the one named like its XML file,
    otherwise the one that `filename` names. Classes are those of the training split, by name.
    """
    if not root:
        raise InputError("--data: voc needs a folder, as in voc:path/to/VOC2007")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder of Pascal VOC's form, found {found} there")
    entries = _splits(folder)
    digest = hashlib.sha256(f"voc {READER_VERSION}".encode())
    pages = {}
    for split, files in entries.items():
        digest.update(f"{split} {len(files)}".encode())
        pages[split] = []
        for entry in progress(files, len(files), f"{folder} {split}: XML files"):
            content, problem = _content(entry.path)
            digest.update(f"{len(content)} ".encode() + content)
            page = _page(entry, content, problem)
            digest.update(file_state(page.image, folder).encode(errors="surrogatepass"))
            pages[split].append(page)
    first = _first_pixel(folder, [page for split in pages.values() for page in split])
    things = [thing for page in pages["train"] for thing in page.things]
    names = tuple(sorted({thing.name for thing in things} - {""}))
    if not names:
        broken = next(
            (f"; {entry.path}: {page.problem}"
             for entry, page in zip(entries["train"], pages["train"], strict=True) if page.problem),
            "",
        )  # fmt: skip
        raise InputError(
            f"{folder}: expected named objects in the training split, found none{broken}"
        )
    records, first_id = {}, 1
    for split, files in entries.items():
        paths = [entry.path for entry in files]
        records[split] = _records(paths, pages[split], names, first, first_id)
        first_id += len(paths)
    return Source(
        name=f"voc:{root}",
        train=records["train"],
        val=records.get("val"),
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        fingerprint=digest.hexdigest(),
    )


def _splits(folder: Path) -> dict[str, list[Entry]]:
    """The annotation files of every split."""
    places = [folder, *sorted(folder.glob("VOC20*")), *sorted(folder.glob("VOCdevkit/VOC20*"))]
    kits = [place for place in places if (place / "ImageSets" / "Main").is_dir()]
    if len(kits) > 1:
        choices = " or ".join(f"voc:{kit}" for kit in kits)
        raise InputError(f"{folder}: expected one VOC set, found {len(kits)}; name {choices}")
    if kits:
        return _listed_splits(kits[0])
    train = _entries(folder / "train")
    if not train:
        splits = {"train": _entries(folder)}
    else:
        validation = next((name for name in VALIDATION if _entries(folder / name)), None)
        splits = {"train": train} | ({"val": _entries(folder / validation)} if validation else {})
    if not splits["train"]:
        raise InputError(
            f"{folder}: expected ImageSets/Main and Annotations, or XML files in train, in "
            f"annotations or in the folder itself; found none of them"
        )
    return splits


def _listed_splits(kit: Path) -> dict[str, list[Entry]]:
    lists = kit / "ImageSets" / "Main"
    names = {split: lists / f"{split}.txt" for split in ("train", "val")}
    if not all(path.is_file() for path in names.values()):
        whole = [lists / f"{name}.txt" for name in ("trainval", "train")]
        only = next((path for path in whole if path.is_file()), None)
        if only is None:
            raise InputError(f"{lists}: expected train.txt and val.txt, or trainval.txt")
        names = {"train": only}
    folders = tuple(kit / name for name in IMAGE_FOLDERS)
    splits = {}
    for split, path in names.items():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise InputError(f"{path}: cannot read the list of images: {reason}") from None
        # The lists of one class have a 1, 0 or -1 behind each name.
        stems = [re.sub(r"\s+(-?1|0)$", "", line.strip()) for line in lines if line.strip()]
        if not stems:
            raise InputError(f"{path}: expected names of images, one a line; found none")
        splits[split] = [Entry(kit / "Annotations" / f"{stem}.xml", folders) for stem in stems]
    return splits


def _entries(folder: Path) -> list[Entry]:
    """XML files of a folder or of its `annotations`; images without one are left out, and named."""
    place = next((folder / name for name in XML_FOLDERS if (folder / name).is_dir()), folder)
    paths = sorted(path for path in place.glob("*") if path.suffix.lower() == ".xml")
    folders = (place, *(folder / name for name in IMAGE_FOLDERS), folder)
    if paths:
        known = {path.stem for path in paths}
        lonely = sorted(
            str(path) for near in dict.fromkeys(folders) if near.is_dir()
            for path in near.iterdir() if path.suffix.lower() in SUFFIXES and path.stem not in known
        )  # fmt: skip
        if lonely:
            log.warning(
                "%s: %d images without an XML file of their name: %s; they are used only where a "
                "file names them, as nobody may have looked for objects in the others",
                folder, len(lonely), named(lonely),
            )  # fmt: skip
    return [Entry(path, folders) for path in paths]


def _content(path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or why there are none."""
    try:
        if path.stat().st_size > LARGEST:
            return b"", f"expected at most {LARGEST >> 20} MiB, got {path.stat().st_size >> 20}"
        return path.read_bytes(), ""
    except FileNotFoundError:
        return b"", "there is no such file"
    except (OSError, ValueError) as error:
        return b"", f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _page(entry: Entry, content: bytes, problem: str) -> Page:
    root = None
    if not problem:
        try:
            root = ElementTree.fromstring(content)
        # Unknown encodings are ValueErrors and LookupErrors.
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            problem = f"broken XML: {error}"
    if root is None:
        return Page(_image(entry, ""), None, None, (), False, problem)
    things = tuple(_thing(element) for element in root.iterfind("object"))
    return Page(
        image=_image(entry, _text(root, "filename")),
        height=_size(_text(root, "size/height")),
        width=_size(_text(root, "size/width")),
        things=things,
        pascal="voc" in _text(root, "source/database").lower(),
        problem="",
    )


def _thing(element: ElementTree.Element) -> Thing:
    left, top, right, bottom = (
        _number(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    name, difficult = _text(element, "name"), _text(element, "difficult")
    return Thing(name, (left, top, right, bottom), difficult.lower() in ("1", "true"))


def _text(element: ElementTree.Element, path: str) -> str:
    return " ".join((element.findtext(path) or "").split())


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= LARGEST_NUMBER else math.nan


def _size(text: str) -> int | None:
    """Many tools write 0 for a size they do not know."""
    number = _number(text)
    return int(number) if 1 <= number < 2**31 else None


def _image(entry: Entry, filename: str) -> Path:
    """The image named like the XML file; a copied XML file often names another one."""
    stem, named_so = entry.path.stem, Path(filename.replace("\\", "/")).name
    endings = [*SUFFIXES, *map(str.upper, SUFFIXES)]
    for name in [*(stem + ending for ending in endings), *([named_so] if named_so else [])]:
        for folder in entry.folders:
            try:
                if (folder / name).is_file():
                    return folder / name
            except OSError:  # too long a name
                continue
    return entry.folders[0] / (named_so or f"{stem}.jpg")


def _first_pixel(folder: Path, pages: list[Page]) -> float:
    """1 where coordinates are Pascal's, otherwise 0."""
    lowest = min(
        (v for page in pages for thing in page.things for v in thing.box[:2] if v == v),
        default=0.0,
    )
    pascal = sum(page.pascal for page in pages) > len(pages) / 2
    if pascal and lowest >= 1:
        log.info("%s: Pascal's coordinates: the first pixel is 1", folder)
        return 1.0
    why = "a coordinate below 1" if pascal else "no VOC as the database of most files"
    log.info("%s: coordinates count from 0 (%s)", folder, why)
    return 0.0


def _records(
    paths: list[Path], pages: list[Page], names: tuple[str, ...], first: float, first_id: int
) -> Records:
    labels = {name: label for label, name in enumerate(names)}
    images, rows, numbers, problems = [], [], [], {}
    for index, (path, page) in enumerate(zip(paths, pages, strict=True)):
        images.append(Listed(str(path), first_id + index, page.image, page.height, page.width))
        if page.problem:
            rows.append(_unreadable(index))
            numbers.append(0)
            problems[index] = page.problem
        for number, thing in enumerate(page.things, start=1):
            left, top, right, bottom = thing.box
            box = left - first, top - first, right, bottom
            row = (index, *box, labels.get(thing.name, -1), math.nan, thing.difficult)
            rows.append(row)
            numbers.append(number)
    records = records_of(images, rows, str)
    return replace(records, where=partial(_where, paths, pages, records.image, numbers))


def _unreadable(index: int) -> Row:
    """A box without numbers for a file that cannot be read, so that it is counted and named."""
    return (index, math.nan, math.nan, math.nan, math.nan, -1, math.nan, False)


def _where(
    paths: Sequence[Path],
    pages: Sequence[Page],
    positions: Int64[np.ndarray, " n"],
    numbers: Sequence[int],
    index: int,
) -> str:
    position, number = positions[index], numbers[index]
    path, page = paths[position], pages[position]
    if number == 0:
        return f"{path}: {page.problem}"
    thing = page.things[number - 1]
    box = ", ".join(f"{value:g}" for value in thing.box)
    return f"{path}: object {number}: {thing.name[:40]!r}, xmin ymin xmax ymax [{box}]"
