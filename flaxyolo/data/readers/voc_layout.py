"""Where the annotation files of a VOC data set lie, and its images."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flaxyolo.base.errors import InputError
from flaxyolo.data.readers.listing import (
    files_below,
    is_image,
    read_names,
)
from flaxyolo.data.readers.paths import Listing

log = logging.getLogger(__name__)

VALIDATION = ("val", "valid", "validation", "test")
"""Folders that hold the images to score on; `test` where there is no other."""
LISTS = (("train", "val"), ("trainval", ""), ("train", ""), ("default", ""))
"""Lists of `ImageSets/Main`, in pairs; the last is CVAT's."""
XML_FOLDER = "Annotations"
IMAGE_FOLDERS = ("JPEGImages", "images")


class Entry(NamedTuple):
    """An annotation file, whether it exists or not, and where its image may lie."""

    path: Path
    folders: tuple[Path, ...]


class Layout(NamedTuple):
    """The annotation files of every split, and what else lies with them."""

    splits: dict[str, list[Entry]]
    folders: dict[str, list[Path]]
    """Those that hold images and annotations of the split."""
    unused: list[Path]
    """Annotation files of a split that has no use."""


def layout_of(listing: Listing, folder: Path) -> Layout:
    """Of a folder as VOC's own, or one with a folder for each split."""
    places = [folder, *sorted(folder.glob("VOC20*")), *sorted(folder.glob("VOCdevkit/VOC20*"))]
    kits = [place for place in places if (place / "ImageSets" / "Main").is_dir()]
    if len(kits) > 1:
        choices = " or ".join(f"voc:{kit}" for kit in kits)
        raise InputError(f"{folder}: expected one VOC set, found {len(kits)}; name {choices}")
    if kits:
        kit = kits[0]
        places = [*_images_of(listing, kit), listing.below(kit, [XML_FOLDER]) or kit / XML_FOLDER]
        return Layout(_listed_splits(listing, kit), {"train": places}, [])
    train = _split_of(listing, folder, ("train", "training"))
    if train is None:
        splits = {"train": (folder, _entries(listing, folder))}
    else:
        val = _split_of(listing, folder, VALIDATION)
        splits = {"train": train} | ({"val": val} if val else {})
        if val and val[0].name.lower() == "test":
            log.warning("%s: there is no folder val: %s is taken for validation", folder, val[0])
    if not splits["train"][1]:
        raise InputError(
            f"{folder}: expected ImageSets/Main and Annotations, or XML files in train, in "
            f"annotations or in the folder itself; found none of them"
        )
    used = {place for place, _ in splits.values()}
    test = _split_of(listing, folder, ("test",)) if train else None
    unused = [] if test is None or test[0] in used else [entry.path for entry in test[1]]
    return Layout(
        {split: entries for split, (_, entries) in splits.items()},
        {
            split: [place, *{entry.path.parent for entry in entries}]
            for split, (place, entries) in splits.items()
        },
        unused,
    )


def _split_of(
    listing: Listing, folder: Path, words: Sequence[str]
) -> tuple[Path, list[Entry]] | None:
    """Folder of the images and annotation files of the first word that has some."""
    for word in words:
        place = listing.below(folder, [word])
        entries = [] if place is None else _entries(listing, place)
        if place is not None and entries:
            return place, entries
        xml = listing.below(folder, [XML_FOLDER, word])
        entries = (
            [] if xml is None else _entries_in(xml, (folder, word), _images_of(listing, folder))
        )
        if entries:
            images = (listing.below(place, [word]) for place in _images_of(listing, folder))
            return next((place for place in images if place), folder / word), entries
    return None


def _images_of(listing: Listing, folder: Path) -> list[Path]:
    """The folders of a folder that hold images alone."""
    places = (listing.below(folder, [name]) for name in IMAGE_FOLDERS)
    return [place for place in places if place is not None]


def _listed_splits(listing: Listing, kit: Path) -> dict[str, list[Entry]]:
    lists = kit / "ImageSets" / "Main"
    pairs = [
        [listing.below(lists, [f"{word}.txt"]) for word in pair if word] for pair in LISTS
    ]  # fmt: skip
    paths = next((pair for pair in pairs if all(pair)), None)
    if paths is None:
        raise InputError(f"{lists}: expected train.txt and val.txt, or trainval.txt")
    names = {split: path for split, path in zip(("train", "val"), paths, strict=False) if path}
    folders = tuple(_images_of(listing, kit))
    xml = listing.below(kit, [XML_FOLDER]) or kit / XML_FOLDER
    splits = {}
    for split, path in names.items():
        lines = read_names(path, "the list of images")
        # The lists of one class have a 1, 0 or -1 behind each name.
        stems = [re.sub(r"\s+(-?1|0)$", "", line.strip()) for line in lines if line.strip()]
        if not stems:
            raise InputError(f"{path}: expected names of images, one a line; found none")
        splits[split] = [_listed(listing, xml, stem, folders or (kit,)) for stem in stems]
    return splits


def _listed(listing: Listing, xml: Path, name: str, folders: tuple[Path, ...]) -> Entry:
    """The entry of a name in a list, which may have folders and the image's suffix."""
    stem = name[: -len(Path(name).suffix)] if is_image(Path(name)) else name
    path = listing.find(f"{stem}.xml", [xml]) or xml / f"{stem}.xml"
    inner = path.parent.relative_to(xml) if path.is_relative_to(xml) else Path()
    return Entry(path, tuple(dict.fromkeys((*(folder / inner for folder in folders), *folders))))


def _entries(listing: Listing, folder: Path) -> list[Entry]:
    """XML files of a folder or of its `annotations`, and below."""
    place = listing.below(folder, [XML_FOLDER]) or folder
    return _entries_in(place, (folder,), _images_of(listing, folder))


def _entries_in(place: Path, beside: Sequence[Path | str], images: Sequence[Path]) -> list[Entry]:
    """XML files below a folder; images lie beside them, or in the same folder of `images`."""
    if not place.is_dir():
        return []
    entries = []
    for path in files_below(place).texts:
        if path.suffix.lower() == ".xml":
            inner = Path(*beside[1:]) / path.parent.relative_to(place)
            folders = (path.parent, *(folder / inner for folder in images), *images, Path(*beside))
            entries.append(Entry(path, tuple(dict.fromkeys(folders))))
    return entries
