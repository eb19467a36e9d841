"""Data sets in COCO form, as COCO, CVAT, FiftyOne, Label Studio, Roboflow and our repair write it.

What breaks a whole file is an InputError. What breaks one record goes into the columns, so that
the audit counts and names it.
"""

import gc
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import expanded, read_json
from flaxyolo.base.words import shortened, shown
from flaxyolo.data.images import file_state
from flaxyolo.data.readers.coco_file import AnnotationFile, Id, classes, numbered, parse, text_of
from flaxyolo.data.readers.coco_layout import TEST_FILES, find_files, first_of, image_paths
from flaxyolo.data.readers.fence import Fence
from flaxyolo.data.readers.json_columns import (
    column,
    look_up,
    outline_box,
    read_areas,
    read_boxes,
    read_crowd,
    read_side,
    without_own_id,
)
from flaxyolo.data.readers.left_over import left_asides, left_over
from flaxyolo.data.readers.listing import namesakes
from flaxyolo.data.readers.paths import Listing
from flaxyolo.data.records import Fingerprint, Listed, Noted, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 3
"""Raised with every change that reads something else from the same files."""


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
    files = {split: parse(path) for split, path in find_files(listing, folder).items()}
    names, roots = classes(files)
    numbers = numbered(list(names))
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
    test = first_of(listing, folder, TEST_FILES)
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
        text_of(record, "file_name", f"{file.path}: image {one}")
        for record, one in zip(records, ids, strict=True)
    ]
    paths = image_paths(listing, folder, split, file.path, names)
    numbers = numbered([record["id"] for record in records])
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
