"""Data sets of tensorflow-datasets (TFDS) with the schema of its `coco` or `voc`.

One that is prepared in array_record files is read without TensorFlow, and its images stay where
they are until they are decoded. Boxes are shares of the image as it is stored.
"""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from flaxyolo.base.decoding import decoded
from flaxyolo.base.errors import InputError
from flaxyolo.base.exif import orientation_of
from flaxyolo.base.limits import allow_outside
from flaxyolo.base.reading import MIB, read_file, reason
from flaxyolo.base.words import one_line, shortened
from flaxyolo.data.images import file_state, image_facts
from flaxyolo.data.readers.listing import progress, records_of
from flaxyolo.data.readers.prepared import find_prepared, line_of, open_prepared
from flaxyolo.data.records import Listed, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 1
"""Raised with every change that reads something else from the same files."""

CLASSES = "flaxyolo.json"
"""In the folder where `data convert` has written it: what TFDS has no place for."""
TEXTS = (".json", ".txt")
"""What TFDS and `data convert` say of a data set."""
LARGEST_TEXT = 64 * MIB
"""Bytes of such a file at most."""
VALIDATION = ("validation", "val", "test")
"""Splits to score on: the first that there is and that has boxes."""


class Schema(NamedTuple):
    """What a prepared data set says of itself."""

    folder: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    mirror: bool
    whole_areas: bool
    """Whether areas are whole numbers, cut off, as in TFDS' own `coco`."""
    pascal: bool
    """Whether pixels count from 1: TFDS' own `voc` keeps Pascal's coordinates."""


@dataclass(frozen=True)
class Record:
    """The image of one record: read when it is needed, by any thread or process."""

    folder: str
    split: str
    index: int
    filename: str

    @property
    def name(self) -> str:
        """How a message names it."""
        return f"{self.folder}: {self.split} record {self.index} ({self.filename})"

    def read(self) -> bytes:
        """The bytes of the image file."""
        try:
            return open_split(self.folder, self.split)[self.index]["image"]
        # The reader of array_record raises several kinds, and RuntimeError for a damaged file.
        except Exception as error:
            raise OSError(5, f"{line_of(error)}", self.folder) from error


def read_tfds(root: str) -> Source:
    """A prepared data set, `NAME[/CONFIG][/VERSION]` or its folder.

    Names are looked for in $TFDS_DATA_DIR, or ~/tensorflow_datasets. One that is not prepared is
    prepared first where TensorFlow is installed.
    """
    if not root:
        raise InputError("--data: tfds needs a name or a folder, as in tfds:coco/2017")
    folder = find_prepared(root)
    _check_files(folder)
    builder, schema = _open_builder(folder)
    splits = {name: split.num_examples for name, split in builder.info.splits.items()}
    if not splits.get("train"):
        found = ", ".join(splits) or "none"
        raise InputError(f"{folder}: expected a split 'train' with records, found: {found}")
    train = _read_split(schema, "train", splits["train"], 1)
    val = None
    for name in VALIDATION:
        if val is None and splits.get(name):
            val = _read_split(schema, name, splits[name], 1 + splits["train"])
            if len(val.boxes):
                log.info("tfds:%s: scored on the split %r", root, name)
            else:
                log.warning("tfds:%s: the split %r has no boxes and is left out", root, name)
                val = None
    return Source(
        name=f"tfds:{root}",
        train=train,
        val=val,
        class_names=schema.class_names,
        category_ids=schema.category_ids,
        fingerprint=_fingerprint(folder),
        mirror=schema.mirror,
    )


def _check_files(folder: Path) -> None:
    """Refuse what TFDS would wait for, or read for ever."""
    for path in sorted(folder.iterdir()):
        if path.suffix in TEXTS:
            try:
                read_file(path, LARGEST_TEXT)
            except IsADirectoryError:
                continue
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {reason(error)}") from None
        elif not (path.is_file() or path.is_dir() or path.is_symlink()):
            raise InputError(f"{path}: expected a file of a prepared data set, found none")


@lru_cache(maxsize=16)
def open_split(folder: str, split: str) -> Sequence[Any]:
    """The records of a split, with images as bytes; kept open, and safe for threads."""
    import tensorflow_datasets as tfds

    builder = open_prepared(Path(folder))
    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _open_builder(folder: Path) -> tuple[Any, Schema]:
    try:
        builder = open_prepared(folder)
        features, splits = builder.info.features, builder.info.splits
        stored = {form.value for form in builder.info.available_file_formats()}
        files = [str(file) for split in splits.values() for file in split.filepaths]
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise InputError(
            f"{folder}: cannot be read as a prepared TFDS data set: {line_of(error)}"
        ) from error
    if "array_record" not in stored:
        raise InputError(
            f"{folder}: expected array_record files, which can be read in any order, found "
            f"{', '.join(sorted(stored))}; prepare it with --file_format=array_record, or run "
            f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        )
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        told = one_line(shortened(missing[0]))
        raise InputError(f"{folder}: {len(missing)} files are missing: {told}")
    outside = [file for file in files if Path(os.path.realpath(file)).parent != folder.resolve()]
    if outside and not allow_outside():
        raise InputError(f"{outside[0]}: leads out of {folder}; --allow-outside reads it")
    inner = _objects(folder, features)
    names = tuple(inner["label"].names)
    extra = _extra(folder, len(names))
    schema = Schema(
        folder=folder,
        class_names=extra.get("class_names", names),
        category_ids=extra.get("category_ids", tuple(range(1, len(names) + 1))),
        mirror=extra.get("mirror", True),
        whole_areas="area" in inner and np.issubdtype(inner["area"].np_dtype, np.integer),
        pascal=builder.name == "voc",
    )
    return builder, schema


def _objects(folder: Path, features: Any) -> dict[str, Any]:
    """The features of an object, in data with the right schema."""
    import tensorflow_datasets as tfds

    nested = tfds.features.FeaturesDict
    parts = dict(features.items()) if isinstance(features, nested) else {}
    objects = getattr(parts.get("objects"), "feature", None)
    inner = dict(objects.items()) if isinstance(objects, nested) else {}
    box = inner.get("bbox")
    # Sets prepared by an older TFDS say no format: there was only this one.
    form = getattr(box, "bbox_format", None)
    shares = isinstance(box, tfds.features.BBoxFeature) and (
        form is None or getattr(form, "value", form) == "REL_YXYX"
    )
    label = isinstance(inner.get("label"), tfds.features.ClassLabel)
    if "image" not in parts or not shares or not label:
        found = sorted([*parts, *(f"objects/{key}" for key in inner)])
        raise InputError(
            f"{folder}: expected the schema of TFDS' coco or voc, with image, objects/bbox "
            f"(REL_YXYX) and objects/label; found {', '.join(found) or 'another form'}"
        )
    return inner


def _extra(folder: Path, classes: int) -> dict[str, Any]:
    """What `data convert` keeps of the source beside the records; empty for other data sets."""
    path = folder / CLASSES
    if not path.is_file():
        return {}
    try:
        data = json.loads(read_file(path, LARGEST_TEXT))
        names = tuple(str(name) for name in data["class_names"])
        ids = tuple(int(number) for number in data["category_ids"])
        if len(names) != classes or len(set(ids)) != classes:
            raise ValueError(f"expected {classes} classes")
        return {"class_names": names, "category_ids": ids, "mirror": bool(data["mirror"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read: {line_of(error)}; convert again") from None


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256(f"tfds {READER_VERSION}".encode())
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if path.suffix in TEXTS:
            digest.update(f"{path.name} ".encode() + read_file(path, LARGEST_TEXT))
        else:
            digest.update(file_state(path, folder).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _read_split(schema: Schema, split: str, count: int, first_id: int) -> Records:
    """One pass over the records; their images are not decoded."""
    folder = str(schema.folder)
    images, rows, numbers = [], [], []
    for index in progress(range(count), count, f"tfds:{folder} {split}: records"):
        try:
            record = open_split(folder, split)[index]
            objects = record["objects"]
            boxes = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
            labels = np.asarray(objects["label"], np.int64)
            areas = _areas(schema, objects, len(boxes))
            crowd = np.zeros(len(boxes), bool)
            for key in ("is_crowd", "is_difficult"):
                crowd |= np.asarray(objects.get(key, crowd), bool)
            filename = record.get("image/filename", b"").decode(errors="replace")
            image_id = int(record.get("image/id", first_id + index))
            image = Record(folder, split, index, filename)
            images.append(Listed(image.name, image_id, image, *_size(record)))
        except Exception as error:  # whatever a damaged file leads to
            reason = f"{line_of(error)}; prepare it again"
            raise InputError(
                f"{folder}: {split} record {index} cannot be read: {reason}"
            ) from error
        known = (labels >= 0) & (labels < len(schema.class_names))
        labels = np.where(known, labels, -1)
        columns = boxes.tolist(), labels.tolist(), areas.tolist(), crowd.tolist()
        for number, ((y1, x1, y2, x2), *rest) in enumerate(zip(*columns, strict=True)):
            rows.append((index, x1, y1, x2, y2, *rest))
            numbers.append(number)
    records = replace(records_of(images, rows, str), relative=True)
    records = replace(records, where=partial(_where, records, np.array(numbers, np.int32)))
    return _from_zero(schema, records) if schema.pascal else records


def _size(record: dict[str, Any]) -> tuple[int | None, int | None]:
    """Height and width that the boxes are for, where they are known or matter.

    A set written by `data convert` notes them, with 0 where boxes are for the image as its file
    says that it is shown. In any other set boxes are for the pixels as stored, whatever is noted.
    """
    if "image/height" in record and "image/width" in record:
        return int(record["image/height"]) or None, int(record["image/width"]) or None
    content = record["image"]
    if orientation_of(content) == 1:
        return None, None
    found = decoded(content)
    return (None, None) if isinstance(found, str) else found.pixels.shape[:2]


def _from_zero(schema: Schema, records: Records) -> Records:
    """Pascal's coordinates count pixels from 1: the left and upper sides are one pixel further."""
    log.info("%s: Pascal's coordinates: the first pixel is 1", schema.folder)
    facts = image_facts([listed.image for listed in records.images], f"{schema.folder} images")
    pixel = 1 / np.maximum(np.stack([facts.width, facts.height], 1), 1).astype(np.float64)
    boxes = records.boxes.copy()
    boxes[:, :2] -= pixel[records.image]
    return replace(records, boxes=boxes)


def _areas(schema: Schema, objects: dict[str, Any], count: int) -> np.ndarray:
    areas = np.asarray(objects.get("area", [np.nan] * count), np.float64)
    # Cut off to a whole number, an area below 1 is 0: that of the box is the better one.
    return np.where(areas == 0, np.nan, areas) if schema.whole_areas else areas


def _where(records: Records, numbers: Int32[np.ndarray, " n"], index: int) -> str:
    box = ", ".join(f"{records.boxes[index, side]:g}" for side in (1, 0, 3, 2))
    return (
        f"{records.images[records.image[index]].where}: object {numbers[index]}: "
        f"label {records.labels[index]}, bbox (ymin, xmin, ymax, xmax) [{box}]"
    )
