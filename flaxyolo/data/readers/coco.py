"""Data sets in COCO form, as COCO itself, CVAT, Label Studio, Roboflow and our repair write them.

What breaks a whole file is an InputError. What breaks one record goes into the columns, so that
the audit counts and names it.
"""

import gc
import hashlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import file_state
from flaxyolo.data.readers.json_columns import (
    column,
    load,
    look_up,
    read_areas,
    read_boxes,
    read_crowd,
    read_side,
    shown,
    without_own_id,
)
from flaxyolo.data.records import Listed, Noted, Records, Source, one_line

log = logging.getLogger(__name__)

READER_VERSION = 2
"""Raised with every change that reads something else from the same files."""

LIMIT = 2**53
"""Ids below it are exact in float64, in which scores are worked out."""

LARGE = 64 << 20
"""Bytes of a file that takes more than a second."""

LISTS = ("images", "annotations", "categories")
TRAIN_FILES = (
    "annotations/instances_train.json",
    "annotations/instances_train2017.json",
    "train/_annotations.coco.json",
)
"""The last is Roboflow's."""
VAL_FILES = (
    "annotations/instances_val.json",
    "annotations/instances_val2017.json",
    "valid/_annotations.coco.json",
    "val/_annotations.coco.json",
)
SINGLE_FILES = (
    "annotations/instances_default.json",
    "annotations/instances.json",
    "instances.json",
    "_annotations.coco.json",
    "result.json",
)
"""Files of all images: the first is CVAT's, the last Label Studio's."""


class AnnotationFile(NamedTuple):
    """A parsed COCO file, and its path for messages."""

    path: Path
    digest: bytes
    data: dict[str, list[Any]]
    doubled: list[dict[str, Any]]
    """Objects that say a key twice."""
    info: Any
    """What the file says of itself, unchecked."""


def read_coco(root: str) -> Source:
    """A folder in COCO form.

    Annotations are `annotations/instances_train.json` and `instances_val.json`, or COCO's own
    `instances_train2017.json` and `instances_val2017.json`, or Roboflow's
    `train/_annotations.coco.json` and `valid/_annotations.coco.json`, or one file of all images.
    The images of a split lie beside its file, or in the first of `images/`, `images/train/`,
    `images/train2017/`, `train/`, `train2017/` and the folder itself that holds one of them
    (`val` likewise). A file name may also be a whole path.
    """
    if not root:
        raise InputError("--data: coco needs a folder, as in coco:path/to/folder")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder in COCO form, found {found} there")
    files = {split: _parse(path) for split, path in _find_files(folder).items()}
    categories = {split: _categories(file) for split, file in files.items()}
    _check_same_categories(files, categories)
    category_ids = tuple(sorted(categories["train"]))
    labels = {category: label for label, category in enumerate(category_ids)}
    digest = hashlib.sha256(f"coco {READER_VERSION}".encode())
    splits = {}
    for split, file in files.items():
        splits[split] = _records(folder, split, file, labels)
        digest.update(file.digest)
        for listed in splits[split].images:
            if isinstance(listed.image, Path):
                digest.update(file_state(listed.image, folder).encode())
    return Source(
        name=f"coco:{root}",
        train=splits["train"],
        val=splits.get("val"),
        class_names=tuple(categories["train"][category] for category in category_ids),
        category_ids=category_ids,
        fingerprint=digest.hexdigest(),
        # As the export writes it.
        mirror=not any(
            isinstance(file.info, dict) and file.info.get("mirror") is False
            for file in files.values()
        ),
    )


def _find_files(folder: Path) -> dict[str, Path]:
    train, val = _first(folder, TRAIN_FILES), _first(folder, VAL_FILES)
    if train is None and val is None:
        train = _first(folder, SINGLE_FILES)
    if train is None:
        raise InputError(
            f"{folder}: expected one of {', '.join(TRAIN_FILES)}, or, for images that are to be "
            f"split, one of {', '.join(SINGLE_FILES)}; found none"
        )
    if val is None:
        log.warning(
            "%s: none of %s is there: a part of %s is kept for validation",
            folder,
            ", ".join(VAL_FILES),
            train.name,
        )
        return {"train": train}
    return {"train": train, "val": val}


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _parse(path: Path) -> AnnotationFile:
    """The three lists of a file, and which of its objects say a key twice."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the annotations: {error.strerror}") from None
    if len(content) > LARGE:
        log.info("%s: reading %d MB of annotations", path, len(content) >> 20)
    doubled: list[dict[str, Any]] = []

    # Millions of new objects, none of them garbage: looking for some takes most of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        data = load(content, doubled)
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected JSON in UTF-8, got other bytes") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(str(error))}") from None
    finally:
        if collects:
            gc.enable()
    for key in LISTS:
        records = data.get(key) if isinstance(data, dict) else None
        if not isinstance(records, list):
            found = shown(list(data)) if isinstance(data, dict) else type(data).__name__
            raise InputError(
                f"{path}: not COCO: expected an object with the lists {', '.join(LISTS)}; "
                f"{key!r} is not a list in it (found {found})"
            )
    if any(record is data for record in doubled):
        raise InputError(
            f"{path}: expected each key once, but one of {shown(list(data))} is there twice"
        )
    file = AnnotationFile(path, hashlib.sha256(content).digest(), data, doubled, data.get("info"))
    twice = {id(record) for record in doubled}
    for key in ("images", "categories"):
        for index, record in enumerate(data[key]):
            where = f"{path}: {key}[{index}]"
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected an object, got {shown(record)}")
            if id(record) in twice:
                raise InputError(f"{where}: expected each key once, got one twice: {shown(record)}")
            _identity(record, where)
    return file


def _categories(file: AnnotationFile) -> dict[int, str]:
    """Names by id."""
    if not file.data["categories"]:
        raise InputError(f"{file.path}: expected at least one category, got none")
    names: dict[int, str] = {}
    for index, record in enumerate(file.data["categories"]):
        if record["id"] in names:
            raise InputError(
                f"{file.path}: categories[{index}]: id {record['id']} is used twice in categories"
            )
        names[record["id"]] = _text(record, "name", f"{file.path}: category {record['id']}")
    return names


def _check_same_categories(
    files: dict[str, AnnotationFile], categories: dict[str, dict[int, str]]
) -> None:
    if "val" not in files:
        return
    train, val = categories["train"], categories["val"]
    for category in sorted(train.keys() | val.keys()):
        if train.get(category) != val.get(category):
            raise InputError(
                f"{files['val'].path}: expected the categories of {files['train'].path}; "
                f"category {category} is {val.get(category, 'missing')!r} here and "
                f"{train.get(category, 'missing')!r} there"
            )


def _records(folder: Path, split: str, file: AnnotationFile, labels: dict[int, int]) -> Records:
    images, image_noted = _images(folder, split, file)
    positions: dict[int, int] = {}
    for position, listed in enumerate(images):
        positions.setdefault(listed.image_id, position)
    said = file.data["annotations"]
    whole = set(map(type, said)) <= {dict}
    records = said if whole else [one if isinstance(one, dict) else {} for one in said]
    boxes = read_boxes(column(records, "bbox"))
    areas, no_area = read_areas(column(records, "area"))
    crowd, strange = read_crowd(column(records, "iscrowd", 0))
    twice = {id(record) for record in file.doubled}
    again = [row for row, one in enumerate(said) if id(one) in twice] if twice else []
    noted = {
        "no_area": no_area,
        "crowd_text": strange,
        "box_id": without_own_id(column(records, "id")),
        "double_key": again,
    }

    return Records(
        images=tuple(images),
        image=look_up(column(records, "image_id"), positions),
        boxes=boxes,
        labels=look_up(column(records, "category_id"), labels),
        areas=areas,
        crowd=crowd,
        where=partial(_where, file.path, said),
        noted=tuple(
            Noted(kind, np.array(rows, np.int64))
            for kind, rows in (image_noted | noted).items()
            if len(rows)
        ),
    )


def _where(path: Path, records: list[Any], row: int) -> str:
    record = records[row]
    if not isinstance(record, dict):
        return f"{path}: annotations[{row}]: {shown(record)}"
    named = type(record.get("id")) is int
    name = f"annotation {shown(record['id'])}" if named else f"annotations[{row}]"
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    told = ", ".join(f"{key} {shown(record[key])}" for key in keys if key in record)
    return f"{path}: {name}: {told}"


def _images(
    folder: Path, split: str, file: AnnotationFile
) -> tuple[list[Listed], dict[str, Sequence[int]]]:
    """The images in order, and which of them have no size, or one that is none."""
    records = file.data["images"]
    if not records:
        raise InputError(f"{file.path}: expected at least one image, got none")
    names = [_text(record, "file_name", f"{file.path}: image {record['id']}") for record in records]
    chosen = _image_folder(folder, split, file.path, names)
    images, silent, strange = [], [], []
    for row, (record, name) in enumerate(zip(records, names, strict=True)):
        said = record.get("height"), record.get("width")
        height, width = read_side(said[0]), read_side(said[1])
        where = f"{file.path}: image {record['id']}"
        if height is None or width is None:
            height = width = None
            (silent if said == (None, None) else strange).append(row)
            where = f"{where}: width {shown(said[1])}, height {shown(said[0])}"
        images.append(Listed(where, record["id"], chosen / name, height, width))
    return images, {"no_size": silent, "size_text": strange}


def _image_folder(folder: Path, split: str, file: Path, names: list[str]) -> Path:
    """The first folder that holds an image of the file."""
    places = ["images", f"images/{split}", f"images/{split}2017", split, f"{split}2017", "."]
    folders = [folder / place for place in places]
    beside = file.parent
    if beside != folder / "annotations" and beside not in folders[:-1]:
        folders.insert(0, beside)
    for name in names:
        for place in folders:
            if _is_file(place / name):
                return place
    raise InputError(
        f"{file}: of its {len(names)} images (first {names[0]!r}), none is in any of the folders "
        f"{', '.join(os.path.relpath(place, folder) for place in folders)} of {folder}"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _identity(record: dict[str, Any], where: str) -> int:
    value = record.get("id")
    if type(value) is not int or abs(value) >= LIMIT:  # True and 1.0 are no ids
        raise InputError(f"{where}: expected an integer 'id' below 2**53, got {shown(value)}")
    return value


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if isinstance(value, str) and value and "\0" not in value and _is_whole(value):
        return value
    raise InputError(f"{where}: expected a text as {key!r}, got {shown(value)}")


def _is_whole(text: str) -> bool:
    """Whether it has no half characters, which no file can be named by."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
