"""Data sets in Pascal VOC's form: an XML file for each image.

Pascal counts pixels from 1 and includes the last one (VOC2012 development kit, section 4): its box
becomes (xmin - 1, ymin - 1, xmax, ymax). Many tools write the same XML but count from 0, so
coordinates are read as Pascal's only where most files name VOC as their `database` and no xmin or
ymin is below 1; the log says which it was.

Objects marked `difficult` become crowd: not trained on, and left out of the score. (COCO forgives
any number of detections inside them, Pascal one for each; the difference is small.)
"""

import codecs
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
from flaxyolo.base.reading import LABELS, expanded, reason
from flaxyolo.base.words import one_line, shortened, shown
from flaxyolo.data.images import file_state
from flaxyolo.data.readers.fence import Fence
from flaxyolo.data.readers.left_over import left_asides, left_over
from flaxyolo.data.readers.listing import (
    MOST_BOXES,
    SUFFIXES,
    Row,
    is_image,
    progress,
    records_of,
)
from flaxyolo.data.readers.paths import Listing
from flaxyolo.data.readers.voc_layout import Entry, Layout, layout_of
from flaxyolo.data.records import Fingerprint, Listed, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 2
"""Raised with every change that reads something else from the same files."""

LARGEST_NUMBER = 1e15
"""What is larger is no coordinate."""
DEPTH = 64
"""Levels of an XML file's elements in each other."""
LONGEST_NAME = 1000
"""Letters of the name of a class."""
SLOW = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf_7")
"""Encodings that no annotation has, and whose reading may take for ever."""
EXPECTED = {"object", "filename", "path", "size"}
"""Tags of which an annotation has at least one."""
DECLARATION = re.compile(rb"\s*<\?xml[^>]*encoding\s*=\s*[\"']([\w.:-]+)[\"'][^>]*\?>")
"""The first line of a file, with its encoding."""


class Thing(NamedTuple):
    """One `object` of a file."""

    name: str
    box: tuple[float, float, float, float]
    """As written; NaN where it is no number."""
    difficult: bool


class Page(NamedTuple):
    """What an annotation file says."""

    image: Path
    """Where it is, or would be."""
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
    alone) in `ImageSets/Main`. Other folders: `train` and `val` (`test` where there is no other),
    alone or below `annotations` and `images`, or the folder itself as `train`, with images beside
    the XML files or in `images`. An image is the one named like its XML file, otherwise the one
    that `filename` names. Classes are those of both splits, by name.
    """
    if not root:
        raise InputError("--data: voc needs a folder, as in voc:path/to/VOC2007")
    folder = expanded(root)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder of Pascal VOC's form, found {found} there")
    listing = Listing()
    layout = layout_of(listing, folder)
    entries, fence = layout.splits, Fence([folder])
    fingerprint = Fingerprint("voc", READER_VERSION)
    pages = {}
    for split, files in entries.items():
        fingerprint.update(f"{split} {len(files)}".encode())
        pages[split] = []
        for entry in progress(files, len(files), f"{folder} {split}: XML files"):
            content, problem = _content(fence, entry.path)
            fingerprint.update(f"{len(content)} ".encode() + content)
            page = _page(listing, entry, content, problem)
            fingerprint.update(file_state(page.image, folder).encode(errors="surrogatepass"))
            pages[split].append(page)
    first = _first_pixel(folder, [page for split in pages.values() for page in split])
    things = [thing for page in pages["train"] for thing in page.things]
    if not any(thing.name for thing in things):
        broken = next(
            (f"; {one_line(shortened(str(entry.path)))}: {page.problem}"
             for entry, page in zip(entries["train"], pages["train"], strict=True) if page.problem),
            "",
        )  # fmt: skip
        raise InputError(
            f"{folder}: expected named objects in the training split, found none{broken}"
        )
    things += [thing for page in pages.get("val", ()) for thing in page.things]
    names = tuple(sorted({thing.name for thing in things} - {""}))
    beside = _beside(layout, pages)
    records, first_id = {}, 1
    for split, files in entries.items():
        paths = [entry.path for entry in files]
        records[split] = replace(
            _records(fence, paths, pages[split], names, first, first_id),
            asides=left_asides(
                beside.get(split, {}), unused=layout.unused if split == "val" else ()
            ),
        )
        first_id += len(paths)
    return Source(
        name=f"voc:{root}",
        train=records["train"],
        val=records.get("val"),
        class_names=names,
        category_ids=tuple(range(1, len(names) + 1)),
        fingerprint=fingerprint.now,
        formerly=fingerprint.formerly,
    )


def _beside(layout: Layout, pages: dict[str, list[Page]]) -> dict[str, dict[str, list[Path]]]:
    """What lies in the folders of images and annotations, and is not read."""
    read = {page.image for split in pages.values() for page in split}
    read.update(entry.path for split in layout.splits.values() for entry in split)
    owners = {place: split for split, places in layout.folders.items() for place in places}
    return left_over(owners, read.union(layout.unused), owners)


def _content(fence: Fence, path: Path) -> tuple[bytes, str]:
    """The bytes of a file, or why there are none."""
    try:
        return fence.read(path, LABELS), ""
    except FileNotFoundError:
        return b"", "there is no such file"
    except OSError as error:
        why = reason(error)
        return b"", why if why.startswith("expected") else f"cannot be read: {why}"
    except ValueError as error:
        return b"", f"cannot be read: {error}"


def _page(listing: Listing, entry: Entry, content: bytes, problem: str) -> Page:
    root = None
    if not problem:
        try:
            root = _root(content)
            problem = _strange(root)
        # Unknown encodings are ValueErrors and LookupErrors.
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            problem = f"broken XML: {shortened(str(error))}"
    if root is None or problem:
        return Page(_image(listing, entry, ""), None, None, (), False, problem)
    things = tuple(_thing(element) for element in root.iterfind("object"))
    long = next((thing.name for thing in things if len(thing.name) > LONGEST_NAME), None)
    if long is not None:
        problem = f"expected names of at most {LONGEST_NAME:,} letters, got {shown(long, 40)}"
        return Page(_image(listing, entry, ""), None, None, (), False, problem)
    return Page(
        image=_image(listing, entry, _text(root, "filename")),
        height=_size(_text(root, "size/height")),
        width=_size(_text(root, "size/width")),
        things=things,
        pascal="voc" in _text(root, "source/database").lower(),
        problem="",
    )


class _Shallow(ElementTree.TreeBuilder):
    """A tree of few levels: a deep one takes for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self._depth += 1
        if self._depth > DEPTH:
            raise ValueError(f"more than {DEPTH} levels in each other")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def _parsed(content: bytes | str) -> ElementTree.Element:
    return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Shallow()))


def _root(content: bytes) -> ElementTree.Element:
    """The root, its tags in small letters and without namespaces, which say nothing here."""
    declared = DECLARATION.match(content)
    try:
        root = _parsed(content)
    except ValueError:
        # Encodings of several bytes a letter, as GBK, are known to Python alone.
        if declared is None:
            raise
        encoding = codecs.lookup(declared[1].decode()).name
        if encoding.replace("-", "_") in SLOW:
            raise
        text = content[declared.end() :].decode(encoding)
        root = _parsed(text)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    return root


def _strange(root: ElementTree.Element) -> str:
    """Why a file is no annotation, or empty: what is not understood is not without objects."""
    tags = [element.tag for element in root]
    if not EXPECTED.intersection(tags):
        return f"expected an annotation with filename, size and objects, got <{root.tag[:40]}>"
    inner = sum(1 for _ in root.iter("object"))
    if inner > MOST_BOXES:
        return f"expected at most {MOST_BOXES:,} objects, got {inner:,}"
    if inner != tags.count("object") or (not inner and root.find(".//bndbox") is not None):
        return f"expected its objects right below <{root.tag[:40]}>, found some elsewhere"
    return ""


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


def _image(listing: Listing, entry: Entry, filename: str) -> Path:
    """The image named like the XML file; a copied XML file often names another one.

    Where several are named like it, the one of them that it names.
    """
    stem, named_so = entry.path.stem, Path(filename.replace("\\", "/")).name
    for folder in entry.folders:
        names = [name for name in listing.with_stem(folder, stem) if is_image(Path(name))]
        if names:
            return folder / (named_so if named_so in names else min(names, key=_order))
    found = listing.find(filename, entry.folders) if named_so else None
    return found or entry.folders[0] / (named_so or f"{stem}.jpg")


def _order(name: str) -> tuple[int, str]:
    return SUFFIXES.index(Path(name).suffix.lower()), name


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
    fence: Fence,
    paths: list[Path],
    pages: list[Page],
    names: tuple[str, ...],
    first: float,
    first_id: int,
) -> Records:
    labels = {name: label for label, name in enumerate(names)}
    images, rows, numbers, problems = [], [], [], {}
    for index, (path, page) in enumerate(zip(paths, pages, strict=True)):
        image = fence.image(page.image)
        images.append(Listed(str(path), first_id + index, image, page.height, page.width))
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
