"""Data sets in COCO form, as COCO, CVAT, FiftyOne, Label Studio, Roboflow and our repair write it.

What breaks a whole file is an InputError. What breaks one record goes into the columns, so that
the audit counts and names it.
"""

import gc
import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import expanded, read_json
from flaxyolo.base.words import one_line, shortened, shown
from flaxyolo.data.images import file_state
from flaxyolo.data.readers.fence import Fence, is_vouched_for
from flaxyolo.data.readers.json_columns import (
    column,
    load,
    look_up,
    outline_box,
    read_areas,
    read_boxes,
    read_crowd,
    read_side,
    without_own_id,
)
from flaxyolo.data.readers.left_over import left_asides, left_over
from flaxyolo.data.readers.listing import named, namesakes
from flaxyolo.data.readers.paths import Listing
from flaxyolo.data.records import Fingerprint, Listed, Noted, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 3
"""Raised with every change that reads something else from the same files."""

LIMIT = 2**53
"""Ids below it are exact in float64, in which scores are worked out."""

LONGEST = 4096
"""Letters of a text, such as the name of a file or of a class."""

LARGE = 64 << 20
"""Bytes of a file that takes more than a second."""

NUMBER = re.compile(r"[0-9]{1,15}")
"""A text that may be an id as it is."""
Id = int | str

LISTS = ("images", "annotations", "categories")
TRAIN_FILES = (
    "annotations/instances_train.json",
    "annotations/instances_train2017.json",
    "train/_annotations.coco.json",
    "annotations/train.json",
    "train/labels.json",
    "train.json",
)
"""The third is Roboflow's, the fifth FiftyOne's."""
VAL_FILES = (
    "annotations/instances_val.json",
    "annotations/instances_val2017.json",
    "valid/_annotations.coco.json",
    "val/_annotations.coco.json",
    "annotations/instances_valid.json",
    "annotations/instances_validation.json",
    "annotations/val.json",
    "annotations/valid.json",
    "annotations/validation.json",
    "val/labels.json",
    "valid/labels.json",
    "validation/labels.json",
    "val.json",
    "valid.json",
    "validation.json",
)
TEST_FILES = tuple(name.replace("train", "test") for name in TRAIN_FILES)
"""Of a split that is neither trained on nor scored."""
SINGLE_FILES = (
    "annotations/instances_default.json",
    "annotations/instances.json",
    "instances.json",
    "_annotations.coco.json",
    "result.json",
    "labels.json",
    "annotations.json",
    "coco.json",
)
"""Files of all images: the first is CVAT's, `result` Label Studio's, `labels` FiftyOne's."""
NOTHING = ("background", "_background_", "__background__", "__ignore__")
"""Classes that are none, where no box has them."""


class AnnotationFile(NamedTuple):
    """A parsed COCO file, and its path for messages."""

    path: Path
    digest: bytes
    data: dict[str, list[Any]]
    doubled: list[dict[str, Any]]
    """Objects that say a key twice."""
    info: Any
    """What the file says of itself, unchecked."""
    ours: bool = False
    """Whether our own `--repair` has written it, with whole paths."""

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """Those that are objects, an empty one instead of any other."""
        said = self.data["annotations"]
        whole = set(map(type, said)) <= {dict}
        return said if whole else [one if isinstance(one, dict) else {} for one in said]


def read_coco(root: str) -> Source:
    """A folder in COCO form.

    Annotations are `annotations/instances_train.json` and `instances_val.json`, or COCO's own
    `instances_train2017.json` and `instances_val2017.json`, or Roboflow's
    `train/_annotations.coco.json` and `valid/_annotations.coco.json`, or one file of all images.
    The images of a split lie beside its file, or in the first of `images/`, `images/train/`,
    `images/train2017/`, `train/`, `train2017/`, `data/`, `data/train/` and the folder itself that
    holds one of them (`val` likewise; for `instances_default.json` also `images/default/`). A file
    name may also be a whole path. Ids of images and categories may be texts.
    """
    # Millions of new objects, none of them garbage: looking for some takes most of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _read(root)
    finally:
        if collects:
            gc.enable()


def _read(root: str) -> Source:
    if not root:
        raise InputError("--data: coco needs a folder, as in coco:path/to/folder")
    folder = expanded(root)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder in COCO form, found {found} there")
    listing = Listing()
    files = {split: _parse(path) for split, path in _find_files(listing, folder).items()}
    names, roots = _classes(files)
    numbers = _numbers(list(names))
    category_ids = tuple(sorted(numbers[category] for category in names))
    labels = {category: category_ids.index(numbers[category]) for category in names}
    fingerprint = Fingerprint("coco", READER_VERSION)
    splits = {}
    for split, file in files.items():
        splits[split] = _records(listing, folder, split, file, labels)
        fingerprint.update(file.digest)
        files_of = (listed.image for listed in splits[split].images)
        states = [file_state(one, folder) for one in files_of if isinstance(one, Path)]
        fingerprint.update("".join(states).encode())
    class_names = {numbers[category]: name for category, name in names.items()}
    splits = _with_asides(
        listing, folder, files, splits, roots, namesakes(files["train"].path, class_names)
    )
    return Source(
        name=f"coco:{root}",
        train=splits["train"],
        val=splits.get("val"),
        class_names=tuple(class_names[category] for category in category_ids),
        category_ids=category_ids,
        fingerprint=fingerprint.now,
        formerly=fingerprint.formerly,
        # As the export writes it.
        mirror=not any(
            isinstance(file.info, dict) and file.info.get("mirror") is False
            for file in files.values()
        ),
    )


def _find_files(listing: Listing, folder: Path) -> dict[str, Path]:
    train, val = _first(listing, folder, TRAIN_FILES), _first(listing, folder, VAL_FILES)
    if train is None and val is None:
        train = _first(listing, folder, SINGLE_FILES) or _only(listing, folder)
    if train is None:
        raise InputError(
            f"{folder}: expected one of {', '.join(TRAIN_FILES)}, or, for images that are to be "
            f"split, one of {', '.join(SINGLE_FILES)}, or a single JSON file; found none"
        )
    if val is None:
        log.warning(
            "%s: none of %s is there: a part of %s is kept for validation",
            folder,
            named(VAL_FILES, 4),
            train.name,
        )
        return {"train": train}
    return {"train": train, "val": val}


def _first(listing: Listing, folder: Path, names: Sequence[str]) -> Path | None:
    paths = (listing.below(folder, name.split("/")) for name in names)
    return next((path for path in paths if path is not None and path.is_file()), None)


def _only(listing: Listing, folder: Path) -> Path | None:
    """The JSON file of a folder, or of its `annotations`, that has no other beside it."""
    for place in (folder / "annotations", folder):
        files = [name for name in listing.names(str(place)) if name.lower().endswith(".json")]
        if files:
            return place / files[0] if len(files) == 1 else None
    return None


def _parse(path: Path) -> AnnotationFile:
    """The three lists of a file, and which of its objects say a key twice."""
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read the annotations: {error.strerror}") from None
    if len(content) > LARGE:
        log.info("%s: reading %d MB of annotations", path, len(content) >> 20)
    doubled: list[dict[str, Any]] = []

    try:
        data = load(content, doubled)
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected JSON in UTF-8, got other bytes") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(shortened(str(error)))}") from None
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
    digest = hashlib.sha256(content)
    ours = is_vouched_for(digest.hexdigest())
    file = AnnotationFile(path, digest.digest(), data, doubled, data.get("info"), ours)
    twice = {id(record) for record in doubled}
    for key in ("images", "categories"):
        for index, record in enumerate(data[key]):
            where = f"{path}: {key}[{index}]"
            if not isinstance(record, dict):
                raise InputError(f"{where}: expected an object, got {shown(record)}")
            if id(record) in twice:
                raise InputError(f"{where}: expected each key once, got one twice: {shown(record)}")
        _check_ids(data[key], f"{path}: {key}")
    return file


def _classes(files: dict[str, AnnotationFile]) -> tuple[dict[Id, str], list[str]]:
    """Names by id, of all files, and what is listed as a class but is none."""
    categories = {split: _categories(file) for split, file in files.items()}
    _check_same_categories(files, categories)
    names = {key: name for split in categories.values() for key, name in split.items()}
    used = {
        key for file in files.values() for key in _hashable(column(file.annotations, "category_id"))
    }
    parents = {
        record["id"]: record.get("supercategory")
        for file in files.values() for record in file.data["categories"]
    }  # fmt: skip
    free = [key for key in names if key not in used]
    left_out = [
        key for key in free
        if names[key].lower() in NOTHING or _is_root(key, names, parents)
    ]  # fmt: skip
    if len(left_out) == len(names):
        left_out = []
    path = files["train"].path
    told = [f"{path}: category {shown(key)}: {shown(names[key])}" for key in left_out]
    return {key: name for key, name in names.items() if key not in left_out}, told


def _is_root(key: Id, names: dict[Id, str], parents: dict[Id, object]) -> bool:
    """Whether a class is what all others are put under, as Roboflow writes it."""
    others = [parents[other] for other in names if other != key]
    own = parents[key] in (None, "", "none", names[key])
    return own and bool(others) and all(parent == names[key] for parent in others)


def _hashable(values: list[Any]) -> set[Any]:
    try:
        return set(values)
    except TypeError:
        return {value for value in values if isinstance(value, int | str)}


def _numbers(ids: Sequence[Id]) -> dict[Id, int]:
    """A number for each id: itself, the number that a text says, or its place from 1."""
    texts = [one for one in ids if isinstance(one, str)]
    if not texts:
        return {one: int(one) for one in ids}
    said: dict[Id, int] = {one: int(one) for one in texts if NUMBER.fullmatch(one)}
    if len(set(said.values())) == len(set(ids)):
        return said
    return {one: place for place, one in enumerate(dict.fromkeys(ids), start=1)}


def _categories(file: AnnotationFile) -> dict[Id, str]:
    """Names by id."""
    if not file.data["categories"]:
        raise InputError(f"{file.path}: expected at least one category, got none")
    names: dict[Id, str] = {}
    for index, record in enumerate(file.data["categories"]):
        if record["id"] in names:
            raise InputError(
                f"{file.path}: categories[{index}]: id {shown(record['id'])} is used twice in "
                "categories"
            )
        where = f"{file.path}: category {shortened(str(record['id']))}"
        names[record["id"]] = _text(record, "name", where)
    return names


def _check_same_categories(
    files: dict[str, AnnotationFile], categories: dict[str, dict[Id, str]]
) -> None:
    """A category may be in one file only, but not be two classes."""
    if "val" not in files:
        return
    train, val = categories["train"], categories["val"]
    if len({type(category) for category in train.keys() | val.keys()}) > 1:
        raise InputError(
            f"{files['val'].path}: expected ids of categories like those of "
            f"{files['train'].path}, got texts in one and numbers in the other"
        )
    there = {name: category for category, name in train.items()}
    for category, name in val.items():
        twin = there.get(name, category)
        if train.get(category, name) != name or (category not in train and twin != category):
            raise InputError(
                f"{files['val'].path}: expected the categories of {files['train'].path}; "
                f"category {category} is {shown(name)} here and "
                f"{shown(train.get(category, 'missing'))} there"
            )


def _records(
    listing: Listing, folder: Path, split: str, file: AnnotationFile, labels: dict[Id, int]
) -> Records:
    images, image_noted = _images(listing, folder, split, file)
    positions: dict[Id, int] = {}
    for position, record in enumerate(file.data["images"]):
        positions.setdefault(record["id"], position)
    said, records = file.data["annotations"], file.annotations
    written = column(records, "bbox")
    boxes = read_boxes(written)
    outlined = _fill_in_outlines(file, written, boxes)
    areas, no_area = read_areas(column(records, "area"))
    crowd, strange = read_crowd(column(records, "iscrowd", 0))
    twice = {id(record) for record in file.doubled}
    again = [row for row, one in enumerate(said) if id(one) in twice] if twice else []
    noted = {
        "no_area": no_area,
        "crowd_text": strange,
        "box_id": without_own_id(column(records, "id")),
        "double_key": again,
        "outline": outlined,
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


def _fill_in_outlines(
    file: AnnotationFile, written: list[Any], boxes: Float64[np.ndarray, "n 4"]
) -> list[int]:
    """Set the boxes of annotations that have none, but an outline; which of them have one.

    The file is read again, with its outlines: few files lack boxes.
    """
    lacking = [row for row, box in enumerate(written) if box in (None, [], [0, 0, 0, 0])]
    if not lacking:
        return []
    content = read_json(file.path)
    if hashlib.sha256(content).digest() != file.digest:
        raise InputError(f"{file.path}: was changed while it was read; start again")
    whole = json.loads(content)["annotations"]
    rows = []
    for row in lacking:
        record = whole[row]
        box = outline_box(record.get("segmentation")) if isinstance(record, dict) else None
        if box is not None:
            boxes[row] = box
            rows.append(row)
    return rows


def _with_asides(
    listing: Listing,
    folder: Path,
    files: dict[str, AnnotationFile],
    splits: dict[str, Records],
    roots: list[str],
    same: list[str],
) -> dict[str, Records]:
    """The splits with the files beside their images that no annotation names, and more."""
    inside = f"{folder}{os.sep}"
    owners: dict[Path, str] = {}
    seen: set[str] = set()
    read = {file.path for file in files.values()}
    for split, records in splits.items():
        for listed in records.images:
            if isinstance(listed.image, Path):
                read.add(listed.image)
                place = os.path.dirname(str(listed.image))
                if place not in seen and f"{place}{os.sep}".startswith(inside):
                    owners.setdefault(listed.image.parent, split)
                seen.add(place)
    images = folder / "images"
    places = {images if images in place.parents else place for place in owners}
    found = left_over(places, read, owners)
    test = _first(listing, folder, TEST_FILES)
    told = {}
    for split, records in splits.items():
        is_first = split == "train"
        told[split] = replace(
            records,
            asides=left_asides(
                found.get(split, {}),
                unused=[test] if test and is_first else (),
                root_class=roots if is_first else (),
                same_name=same if is_first else (),
            ),
        )
    return told


def _images(
    listing: Listing, folder: Path, split: str, file: AnnotationFile
) -> tuple[list[Listed], dict[str, Sequence[int]]]:
    """The images in order, and which of them have no size, or one that is none."""
    records = file.data["images"]
    if not records:
        raise InputError(f"{file.path}: expected at least one image, got none")
    fence = Fence([folder])
    ids = [shortened(str(record["id"])) for record in records]
    names = [
        _text(record, "file_name", f"{file.path}: image {one}")
        for record, one in zip(records, ids, strict=True)
    ]
    paths = _image_paths(listing, folder, split, file.path, names)
    numbers = _numbers([record["id"] for record in records])
    images, silent, strange = [], [], []
    for row, (record, path) in enumerate(zip(records, paths, strict=True)):
        said = record.get("height"), record.get("width")
        height, width = read_side(said[0]), read_side(said[1])
        where = f"{file.path}: image {ids[row]}"
        if height is None or width is None:
            height = width = None
            (silent if said == (None, None) else strange).append(row)
            where = f"{where}: width {shown(said[1])}, height {shown(said[0])}"
        image = fence.image(path, whole=file.ours)
        images.append(Listed(where, numbers[record["id"]], image, height, width))
    return images, {"no_size": silent, "size_text": strange}


def _image_paths(
    listing: Listing, folder: Path, split: str, file: Path, names: list[str]
) -> list[Path]:
    """Where each image is; where one that is missing would be."""
    # CVAT's `instances_default.json` has its images in `images/default`.
    words = dict.fromkeys((split, f"{split}2017", file.stem.removeprefix("instances_")))
    places = ["images", *(f"images/{word}" for word in words), *words]
    places += ["data", *(f"data/{word}" for word in words), "."]
    folders = [folder / place for place in places]
    beside = file.parent
    if beside != folder / "annotations" and beside not in folders[:-1]:
        folders.insert(0, beside)
    chosen = next(
        (place for place in folders for name in names if listing.exact(name, [place])), None
    )
    if chosen is None:
        paths = listing.find_all(names, folders)
    else:
        paths = listing.find_all(names, [chosen], [folder])
    upwards = [
        (chosen or folder) / name if path is None and ".." in Path(name).parts else None
        for path, name in zip(paths, names, strict=True)
    ]
    paths = [
        up if up is not None and os.path.exists(up) else path
        for path, up in zip(paths, upwards, strict=True)
    ]
    if not any(paths):
        raise InputError(
            f"{file}: of its {len(names)} images (first {shown(names[0])}), none is in any of the "
            f"folders {', '.join(os.path.relpath(place, folder) for place in folders)} of {folder}"
        )
    known = next((path.parent for path in paths if path is not None), folder)
    return [
        (chosen or known) / Path(name.replace("\\", "/")).name if path is None else path
        for path, name in zip(paths, names, strict=True)
    ]


def _check_ids(records: list[dict[str, Any]], where: str) -> None:
    """Integers or, in all records of a list, texts."""
    texts = all(isinstance(record.get("id"), str) for record in records)
    for index, record in enumerate(records):
        value = record.get("id")
        if texts:
            _text(record, "id", f"{where}[{index}]")
        elif type(value) is not int or abs(value) >= LIMIT:  # True and 1.0 are no ids
            raise InputError(
                f"{where}[{index}]: expected an integer 'id' below 2**53, got {shown(value)}"
            )


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if isinstance(value, str) and value and "\0" not in value and _is_whole(value):
        if len(value) <= LONGEST:
            return value
        raise InputError(
            f"{where}: expected at most {LONGEST:,} letters as {key!r}, got {len(value):,}"
        )
    raise InputError(f"{where}: expected a text as {key!r}, got {shown(value)}")


def _is_whole(text: str) -> bool:
    """Whether it has no half characters, which no file can be named by."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
