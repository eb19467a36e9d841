"""Where the images of a YOLO data set lie, and the names of its classes: what a data.yaml says."""

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import (
    YAML,
    expanded,
    load_yaml,
    read_file,
    read_lines,
    reason,
)
from flaxyolo.base.words import one_line, shortened, shown
from flaxyolo.data.readers.listing import (
    files_below,
    named,
    read_names,
)
from flaxyolo.data.readers.paths import SPLIT_WORDS, Listing

log = logging.getLogger(__name__)

VALIDATION = ("val", "valid", "validation")
"""Keys under which a data.yaml names its validation images."""
NAME_FILES = ("classes.txt", "labels/classes.txt")
"""Where Label Studio and labelImg write the names of the classes; Darknet's end in `.names`."""
MOST_CLASSES = 10_000
"""Names that are made where there is only their number."""
LONGEST_NAME = 1000
"""Letters of the name of a class."""
MOST_PLACES = 1000
"""Folders and lists of a split."""


class Split(NamedTuple):
    """Where the images of a split are."""

    images: list[Path]
    folders: list[Path]
    """Those that are taken as a whole."""
    lists: list[Path]
    """Texts that list images."""


class Layout(NamedTuple):
    """What a data.yaml says."""

    path: Path
    base: Path
    """Folder that the splits are relative to."""
    names: dict[int, str]
    """By class number."""
    splits: dict[str, Split]
    """`train` and, where there is one, `val`."""
    keypoints: int
    """Numbers that follow a box in every line; 0 but for pose data sets."""
    test: list[Path]
    """The folder of the images to test on, which have no use."""


def layout_of_folder(listing: Listing, folder: Path) -> Layout:
    """Of a folder with a data.yaml or another file like it, or as Darknet's users have it."""
    there = sorted(folder / name for name in listing.names(str(folder)))
    files = [path for path in there if path.suffix.lower() in (".yaml", ".yml")]
    path = folder / "data.yaml"
    if path in files or len(files) == 1:
        return layout_of_file(listing, path if path in files else files[0])
    lists = [path for path in there if path.suffix == ".data"]
    if len(lists) == 1:
        return _darknet(listing, lists[0])
    named_so = [path for path in there if path.suffix == ".names"]
    named_so += [folder / name for name in NAME_FILES]
    names = next((path for path in named_so if path.is_file()), None)
    if names is None:
        raise InputError(
            f"{folder}: expected a data.yaml, or class names one a line in classes.txt; found "
            "neither; write a data.yaml with two lines, as `train: .` and `names: [cat, dog]`"
        )
    return _bare(listing, folder, names)


def _darknet(listing: Listing, path: Path) -> Layout:
    """Of Darknet's own file, as CVAT writes it: lines `train = data/train.txt`, `names = ...`."""
    pairs = [line.split("=", 1) for line in _lines_of(path) if "=" in line]
    said = {key.strip(): value.strip() for key, value in pairs}
    names = listing.find(said.get("names", ""), [path.parent])
    if names is None:
        told = one_line(shortened(str(said.get("names"))))
        raise InputError(f"{path}: names: expected a file of class names, got {told}")
    data = {key: said[key] for key in ("train", *VALIDATION) if said.get(key)}
    return _splits_of(listing, path, path.parent, data | {"names": _names_in(names)})


def _bare(listing: Listing, folder: Path, names: Path) -> Layout:
    """Of a folder of images and labels, with lists or folders of the splits or without any."""
    data: dict[str, Any] = {"names": _names_in(names)}
    for key, words in zip(("train", "val"), SPLIT_WORDS[:2], strict=True):
        places = [
            place for word in words
            for place in (f"{word}.txt", f"images/{word}", f"{word}/images", word)
        ]  # fmt: skip
        place = next((place for place in places if listing.exact(place, [folder])), None)
        data |= {} if place is None else {key: place}
    whole = "images" if listing.exact("images", [folder]) else "."
    return _splits_of(listing, names, folder, {"train": whole} | data)


def _names_in(path: Path) -> list[str]:
    """A name a line: an empty line between others is a class without a name."""
    lines = _lines_of(path)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _lines_of(path: Path) -> list[str]:
    return read_lines(path, "the list")


def layout_of_file(listing: Listing, path: Path) -> Layout:
    """Of a data.yaml."""
    try:
        data = load_yaml(read_file(path, YAML))
    except OSError as error:
        raise InputError(f"{path}: cannot read the data.yaml: {error.strerror}") from None
    except Exception as error:  # PyYAML raises nearly anything for a wrong date, number or tag
        text = one_line(" ".join(shortened(str(error), 1000).split()))
        raise InputError(f"{path}: not valid YAML: {text:.200}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys such as train, val, names; got {shown(data, 60)}")
    return _splits_of(listing, path, _base(path, data.get("path")), data)


def _splits_of(listing: Listing, path: Path, base: Path, data: dict[Any, Any]) -> Layout:
    validation = next((key for key in VALIDATION if data.get(key)), None)
    keys = {"train": "train"} | ({} if validation is None else {"val": validation})
    splits = {
        split: _images(listing, path, base, key, data.get(key)) for split, key in keys.items()
    }
    test = data.get("test")
    tests = [base / test] if isinstance(test, str) and test.strip() else []
    return Layout(path, base, _names(path, data), splits, _keypoints(path, data), tests)


def _base(path: Path, said: Any) -> Path:
    """The folder that `path` in the file names; the file's own where that does not exist."""
    if said is None:
        return path.parent
    if not isinstance(said, str):
        raise InputError(f"{path}: path: expected a folder, got {shown(said, 60)}")
    base = path.parent / expanded(said)
    if base.is_dir():
        return base
    told = one_line(shortened(str(base)))
    log.warning("%s: path: there is no folder %s; %s is taken", path, told, path.parent)
    return path.parent


def _names(path: Path, data: dict[Any, Any]) -> dict[int, str]:
    names, count = data.get("names"), data.get("nc")
    if names is None and type(count) is int and 0 < count <= MOST_CLASSES:
        names = [f"class_{number}" for number in range(count)]
        log.warning("%s: no names: the classes are called class_0 to class_%d", path, count - 1)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(
            f"{path}: names: expected a list or numbered names, got {shown(names, 60)}"
        )
    for number, name in names.items():
        if type(number) is not int or not 0 <= number < 2**31:
            raise InputError(
                f"{path}: names: expected numbers from 0 as keys, got {shown(number, 40)}"
            )
        # YAML reads a bare `no` as False and `1` as a number.
        if not _is_name(name):
            long = isinstance(name, str) and len(name) > LONGEST_NAME
            hint = f"at most {LONGEST_NAME:,} letters are read" if long else "put it in quotes"
            raise InputError(
                f"{path}: names: class {number}: expected a text, got {shown(name, 40)}; {hint}"
            )
    count = data.get("nc", len(names))
    if count != len(names):
        raise InputError(
            f"{path}: nc: expected the number of names, {len(names)}, got {shown(count, 40)}"
        )
    return {number: str(name) for number, name in names.items()}


def _is_name(name: Any) -> bool:
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        return False
    if isinstance(name, int) and name.bit_length() > 64:
        return False
    text = str(name)
    return len(text) <= LONGEST_NAME and bool(text.strip()) and text.isprintable()


def _keypoints(path: Path, data: dict[Any, Any]) -> int:
    """Numbers that pose data sets write behind each box, from `kpt_shape: [points, 2 or 3]`."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(points), int(values)] if 0 < points < 10_000 and values in (2, 3):
            return points * values
    raise InputError(f"{path}: kpt_shape: expected [points, 2 or 3], got {shown(shape, 60)}")


def _images(listing: Listing, path: Path, base: Path, key: str, said: Any) -> Split:
    """The image files of a split: of a folder, of a text file that lists them, or of several."""
    places = said if isinstance(said, list) else [said]
    if len(places) > MOST_PLACES:
        raise InputError(
            f"{path}: {key}: expected at most {MOST_PLACES:,} folders and lists, "
            f"got {len(places):,}"
        )
    split = Split([], [], [])
    for place in places:
        if not isinstance(place, str) or not place.strip():
            raise InputError(
                f"{path}: {key}: expected a folder, a .txt file or a list of them, "
                f"got {shown(said, 60)}"
            )
        found = _existing(listing, path, base, place.strip())
        for whole, part in zip(split, _images_at(listing, path, base, key, found), strict=True):
            whole += part
    if not split.images:
        raise InputError(f"{path}: {key}: expected image files in {shown(said, 120)}, found none")
    return split


def _images_at(listing: Listing, path: Path, base: Path, key: str, place: Path) -> Split:
    if place.is_dir():
        return Split(files_below(place).images, [place], [])
    if not place.is_file():
        told = one_line(shortened(str(place)))
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, found nothing: {told}")
    if place.suffix.lower() != ".txt":
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, got {place}")
    names = read_names(place, "the list")
    found = listing.find_all(names, [base, place.parent], [path.parent])
    if names and all(image is None for image in found):
        raise InputError(
            f"{path}: {key}: expected image files as {place} lists them, but none of the "
            f"{len(names)} images is there: {named(names, 1)}"
        )
    images = [base / name if image is None else image
              for name, image in zip(names, found, strict=True)]  # fmt: skip
    return Split(images, [], [place])


def _existing(listing: Listing, path: Path, base: Path, place: str) -> Path:
    """Where `place` is, relative to `base`; what is not there as it is written is looked for.

    Roboflow writes `../train/images` for `train/images`.
    """
    names = (expanded(place), Path(place.removeprefix("../")))
    candidates = [base / name for name in names]
    for candidate in candidates:
        try:
            os.stat(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # too long, a zero byte, no permission
            raise InputError(f"{path}: cannot look for {shown(place)}: {reason(error)}") from None
        return candidate
    found = listing.find_split(place, base)
    if found is not None:
        log.warning("%s: there is no %s; %s is taken", path, candidates[0], found)
    return found or candidates[0]
