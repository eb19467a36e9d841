"""Where images and boxes come from: the table SOURCES, and the checks on what is read.

Boxes change their format here, to xyxy pixels of the original image; pixels are decoded later,
by the cache.
"""

import hashlib
import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from flaxyolo.data import digits
from flaxyolo.errors import InputError

logger = logging.getLogger(__name__)

READER_VERSION = 1
"""Raised with every change that reads something else from the same files."""

BORDER = 1.0
"""Pixels by which a box may pass the border of its image: rounding. It is clipped."""


@dataclass(frozen=True, eq=False)
class Example:
    """One image with its boxes; all boxes are in pixels of the original image."""

    image_id: int
    """As in the annotation file."""
    image: Path | UInt8[np.ndarray, "h w 3"]
    """The file, or RGB pixels."""
    height: int
    width: int
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy."""
    labels: Int32[np.ndarray, " n"]
    """Index into `class_names`."""
    areas: Float32[np.ndarray, " n"]
    """The annotation's own area: COCO's is the area of the mask."""
    crowd: Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images to train on, images to score on, and their classes."""

    name: str
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The annotation file's id of each class."""
    fingerprint: str
    """sha256 of the content and of the version of the reader."""
    mirror: bool = True
    """Whether a mirrored object is still one of its class; a digit is not."""


class AnnotationFile(NamedTuple):
    """A parsed COCO file, its bytes, and its path for messages."""

    path: Path
    content: bytes
    data: dict[str, list[dict[str, Any]]]


def read_dataset(source: str) -> Dataset:
    """The data set that `--data` names: `digits` or `coco:DIR`."""
    name, _, root = source.partition(":")
    if name not in SOURCES:
        raise InputError(
            f"--data: expected one of {', '.join(SOURCES)} (coco as coco:DIR), got {source!r}"
        )
    return SOURCES[name](root)


def read_digits(root: str = "") -> Dataset:
    """The built-in digits; the area of an object is that of its box."""
    if root:
        raise InputError(f"--data: digits is built in and takes no folder, got {root!r}")
    train, val, class_names = digits.build_digits()
    digest = hashlib.sha256(f"digits {digits.VERSION} {READER_VERSION}".encode())
    for scene in (*train, *val):
        digest.update(repr(scene.image.shape).encode())
        for array in (scene.image, scene.boxes, scene.labels):
            digest.update(np.ascontiguousarray(array).data)
    examples = []
    for number, scene in enumerate((*train, *val), start=1):
        sizes = scene.boxes[:, 2:] - scene.boxes[:, :2]
        example = Example(
            image_id=number,
            image=scene.image,
            height=scene.image.shape[0],
            width=scene.image.shape[1],
            boxes=scene.boxes,
            labels=scene.labels,
            areas=sizes.prod(1),
            crowd=np.zeros(len(sizes), bool),
        )
        examples.append(example)
    return Dataset(
        name="digits",
        train=tuple(examples[: len(train)]),
        val=tuple(examples[len(train) :]),
        class_names=class_names,
        category_ids=tuple(range(len(class_names))),
        fingerprint=digest.hexdigest(),
        mirror=False,
    )


def read_coco(root: str) -> Dataset:
    """A folder in COCO form.

    Annotations are `annotations/instances_train.json` and `instances_val.json`, or, where those
    are missing, COCO's own `instances_train2017.json` and `instances_val2017.json`. The images of
    a split are in the first of `images/`, `images/train/`, `images/train2017/`, `train/`,
    `train2017/` and the folder itself that holds the first image of the file (`val` likewise).
    """
    if not root:
        raise InputError("--data: coco needs a folder, as in coco:path/to/folder")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"{folder}: expected a folder in COCO form, found {found} there")
    files = {split: _read_annotations(folder, split) for split in ("train", "val")}
    categories = {split: _categories(file) for split, file in files.items()}
    _check_same_categories(files, categories)
    category_ids = tuple(sorted(categories["train"]))
    digest = hashlib.sha256(f"coco {READER_VERSION}".encode())
    examples = {}
    for split, file in files.items():
        digest.update(hashlib.sha256(file.content).digest())
        labels = {category: label for label, category in enumerate(category_ids)}
        examples[split] = _examples(folder, split, file, labels)
        for example in examples[split]:
            path, state = os.path.relpath(example.image, folder), example.image.stat()
            line = f"{path} {state.st_size} {state.st_mtime_ns}\n"
            digest.update(line.encode())
    return Dataset(
        name=f"coco:{root}",
        train=examples["train"],
        val=examples["val"],
        class_names=tuple(categories["train"][category] for category in category_ids),
        category_ids=category_ids,
        fingerprint=digest.hexdigest(),
    )


def _read_annotations(folder: Path, split: str) -> AnnotationFile:
    """Find and parse the file of a split; its three lists hold objects with unique integer ids."""
    names = [f"instances_{split}.json", f"instances_{split}2017.json"]
    paths = [folder / "annotations" / name for name in names]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"{folder}: expected annotations/{names[0]} or annotations/{names[1]}, "
                         "found neither")  # fmt: skip
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the annotations: {error.strerror}") from None
    try:
        data = json.loads(content)
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected JSON in UTF-8, got other bytes") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    keys = ("images", "annotations", "categories")
    for key in keys:
        records = data.get(key) if isinstance(data, dict) else None
        if not isinstance(records, list):
            found = list(data) if isinstance(data, dict) else type(data).__name__
            raise InputError(
                f"{path}: not COCO: expected an object with the lists {', '.join(keys)}; "
                f"{key!r} is not a list in it (found {str(found)[:80]})"
            )
        seen = set()
        for index, record in enumerate(records):
            if not isinstance(record, dict):
                raise InputError(f"{path}: {key}[{index}]: expected an object, got {record!r:.60}")
            identity = _integer(record, "id", f"{path}: {key}[{index}]")
            if identity in seen:
                raise InputError(f"{path}: {key}[{index}]: id {identity} is used twice in {key}")
            seen.add(identity)
    return AnnotationFile(path, content, {key: data[key] for key in keys})


def _categories(file: AnnotationFile) -> dict[int, str]:
    """Names by id."""
    if not file.data["categories"]:
        raise InputError(f"{file.path}: expected at least one category, got none")
    return {
        record["id"]: _text(record, "name", f"{file.path}: category {record['id']}")
        for record in file.data["categories"]
    }


def _check_same_categories(
    files: dict[str, AnnotationFile], categories: dict[str, dict[int, str]]
) -> None:
    train, val = categories["train"], categories["val"]
    for category in sorted(train.keys() | val.keys()):
        if train.get(category) != val.get(category):
            raise InputError(
                f"{files['val'].path}: expected the categories of {files['train'].path.name}; "
                f"category {category} is {val.get(category, 'missing')!r} here and "
                f"{train.get(category, 'missing')!r} there"
            )


def _examples(
    folder: Path, split: str, file: AnnotationFile, labels: dict[int, int]
) -> tuple[Example, ...]:
    """The images of a split in the order of the file, every record checked."""
    sizes = {}
    for record in file.data["images"]:
        where = f"{file.path}: image {record['id']}"
        sizes[record["id"]] = _size(record, "width", where), _size(record, "height", where)
    paths = _image_paths(folder, split, file)
    rows = _rows(file, sizes, labels)
    examples = []
    for image_id, (width, height) in sizes.items():
        table = np.array(rows[image_id], np.float64).reshape(-1, 7)
        example = Example(
            image_id=image_id,
            image=paths[image_id],
            height=height,
            width=width,
            boxes=table[:, :4].astype(np.float32),
            labels=table[:, 4].astype(np.int32),
            areas=table[:, 5].astype(np.float32),
            crowd=table[:, 6].astype(bool),
        )
        examples.append(example)
    return tuple(examples)


def _image_paths(folder: Path, split: str, file: AnnotationFile) -> dict[int, Path]:
    """The file of every image; the folder is chosen by the first image."""
    names = {
        record["id"]: _text(record, "file_name", f"{file.path}: image {record['id']}")
        for record in file.data["images"]
    }
    if not names:
        raise InputError(f"{file.path}: expected at least one image, got none")
    first = next(iter(names.values()))
    places = ["images", f"images/{split}", f"images/{split}2017", split, f"{split}2017", "."]
    chosen = next((folder / place for place in places if (folder / place / first).is_file()), None)
    if chosen is None:
        raise InputError(
            f"{file.path}: image {next(iter(names))} ({first!r}) is in none of the folders "
            f"{', '.join(places)} of {folder}"
        )
    paths = {image_id: chosen / name for image_id, name in names.items()}
    for image_id, path in paths.items():
        if not path.is_file():
            raise InputError(f"{file.path}: image {image_id}: there is no file {path}")
    return paths


def _rows(
    file: AnnotationFile, sizes: dict[int, tuple[int, int]], labels: dict[int, int]
) -> dict[int, list[tuple[float, ...]]]:
    """x1, y1, x2, y2, label, area and crowd of every annotation, by image."""
    rows, notes = defaultdict(list), defaultdict(list)
    for record in file.data["annotations"]:
        where = f"{file.path}: annotation {record['id']}"
        image_id = _integer(record, "image_id", where)
        category = _integer(record, "category_id", where)
        crowd = record.get("iscrowd", 0)
        if image_id not in sizes:
            raise InputError(f"{where}: there is no image {image_id} in this file")
        if category not in labels:
            raise InputError(f"{where}: there is no category {category} in this file")
        if crowd not in (0, 1):
            raise InputError(f"{where}: expected iscrowd 0 or 1, got {crowd!r:.40}")
        box = _box(record, sizes[image_id], where, notes)
        # COCO's own train2017 has two boxes without height: nothing to learn from.
        if box[2] <= box[0] or box[3] <= box[1]:
            notes["without width or height, left out"].append(record["id"])
            continue
        if record.get("area") is None:
            notes["without 'area': that of the box is taken"].append(record["id"])
            area = (box[2] - box[0]) * (box[3] - box[1])
        else:
            area = _number(record["area"])
            if area is None or area <= 0:
                raise InputError(
                    f"{where}: expected an area above 0, got {record['area']!r:.40}; "
                    "without the key, the area of the box is taken"
                )
        rows[image_id].append((*box, float(labels[category]), area, float(crowd)))
    for note, ids in notes.items():
        shown = ", ".join(str(identity) for identity in ids[:5]) + (" ..." if len(ids) > 5 else "")
        logger.warning("%s: %d annotations %s: id %s", file.path, len(ids), note, shown)
    return rows


def _box(
    record: dict[str, Any], size: tuple[int, int], where: str, notes: dict[str, list[int]]
) -> tuple[float, float, float, float]:
    """xyxy, clipped to the image where it passes the border by no more than BORDER."""
    box = record.get("bbox")
    numbers = [_number(value) for value in box] if isinstance(box, list) else []
    x, y, w, h = numbers if len(numbers) == 4 else [None] * 4
    if x is None or y is None or w is None or h is None:
        raise InputError(f"{where}: expected bbox [x, y, width, height], got {box!r:.80}")
    if w < 0 or h < 0:
        raise InputError(f"{where}: expected a bbox of positive width and height, got {box}")
    width, height = size
    outside = max(-x, -y, x + w - width, y + h - height)
    if outside > BORDER:
        raise InputError(
            f"{where}: bbox {box} (x, y, width, height) passes the border of its image "
            f"({width} x {height}, id {record['image_id']}) by {outside:g} pixels; "
            "correct the box or the image's size"
        )
    if outside > 0:
        notes[f"up to {BORDER:g} pixel outside the image, clipped"].append(record["id"])
    low = min(max(x, 0.0), width), min(max(y, 0.0), height)
    high = min(max(x + w, 0.0), width), min(max(y + h, 0.0), height)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _number(value: object) -> float | None:
    """A finite float, or None for anything else (JSON in Python may hold NaN and infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
        return None
    return float(value) if math.isfinite(value) else None


def _integer(record: dict[str, Any], key: str, where: str) -> int:
    value = record.get(key)
    if type(value) is not int:  # True and 1.0 are no ids
        raise InputError(f"{where}: expected an integer {key!r}, got {value!r:.40}")
    return value


def _size(record: dict[str, Any], key: str, where: str) -> int:
    value = _integer(record, key, where)
    if value < 1:
        raise InputError(f"{where}: expected a {key!r} of at least 1 pixel, got {value}")
    return value


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: expected a text as {key!r}, got {value!r:.40}")
    return value


SOURCES: dict[str, Callable[[str], Dataset]] = {"digits": read_digits, "coco": read_coco}
