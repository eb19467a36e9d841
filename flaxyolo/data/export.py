"""A data set written anew: as a COCO folder, or as a TFDS data set in array_record files.

Image files are copied as they are. Only pixels that are in no file become PNG files, and so do, in
COCO's form, images whose labels are for the rotated picture where their size cannot say so.
"""

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.base.exif import SIDEWAYS
from flaxyolo.base.files import replacing
from flaxyolo.data.images import ImageFacts, decode, read_image
from flaxyolo.data.readers.listing import progress
from flaxyolo.data.readers.tfds import CLASSES, Record
from flaxyolo.data.sources import Dataset, Example

log = logging.getLogger(__name__)

VERSION = "1.0.0"
"""Of the schema of a TFDS data set written here."""
SHARD = 1000
"""Records in one array_record file, if that makes no more than MOST_SHARDS."""
MOST_SHARDS = 100
CHUNK = 64
"""Records handed to the writer at once; it writes its metadata after each call."""

Form = Literal["coco", "tfds"]


def convert(dataset: Dataset, target: Path, form: Form = "coco") -> None:
    """Write a data set into a new folder, which `coco:DIR` or `tfds:DIR` reads.

    The folder is complete or absent: it is written beside its place and renamed.
    """
    target = target.expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: expected a new folder, found something there; name another")
    with replacing(target) as unfinished:
        try:
            unfinished.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{target}: cannot make a folder there: {error.strerror}") from None
        {"coco": write_coco, "tfds": write_tfds}[form](dataset, unfinished)
    log.info("%s: %s as %s:%s", target, dataset.name, form, target)


def write_coco(dataset: Dataset, folder: Path) -> None:
    """`annotations/instances_{train,val}.json` and `images/{train,val}`."""
    (folder / "annotations").mkdir()
    categories = [
        {"id": category, "name": name}
        for category, name in zip(dataset.category_ids, dataset.class_names, strict=True)
    ]
    for split, examples, facts in _splits(dataset):
        place = folder / "images" / split
        place.mkdir(parents=True)
        images, annotations = [], []
        names = file_names(examples)
        turned = 0
        what = f"{dataset.name} {split}: images written"
        for index, example in enumerate(progress(examples, len(examples), what)):
            name, orientation = names[index], int(facts.orientation[index])
            if _needs_turning(example, orientation):
                name = f"{Path(name).stem}-upright.png"
                content = _png(decode(example.image, oriented=True))
                turned += 1
            else:
                content = content_of(example)
            (place / name).write_bytes(content)
            images.append(
                {
                    "id": example.image_id,
                    "file_name": name,
                    "height": example.height,
                    "width": example.width,
                }
            )
            annotations += _annotations(dataset, example, len(annotations))
        if turned:
            log.info(
                "%s %s: %d images are labelled as rotated by their file (EXIF), and were turned: "
                "their size cannot say so", dataset.name, split, turned,
            )  # fmt: skip
        content = {
            # Whether a mirrored object is still one of its class is known to no COCO file.
            "info": {"description": f"converted from {dataset.name}", "mirror": dataset.mirror},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        with (folder / "annotations" / f"instances_{split}.json").open("w") as file:
            json.dump(content, file)


def write_tfds(dataset: Dataset, folder: Path) -> None:
    """The schema of TFDS' `coco`, with the size of each image besides, in the order of the source.

    The size is 0 where boxes are for the image as its file says that it is shown (EXIF).
    """
    # TFDS takes a second to import, and reading COCO does without.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.dataset_info import DatasetIdentity

    names = dataset.class_names
    plain = len(set(names)) == len(names) and all(name == name.strip() for name in names)
    kind = tfds.features.ClassLabel
    label = kind(names=names) if plain else kind(num_classes=len(names))
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "image/height": np.int64,
            "image/width": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.float32,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "is_crowd": np.bool_,
                }
            ),
        }
    )
    identity = DatasetIdentity("flaxyolo", tfds.core.Version(VERSION), str(folder), __name__)
    info = tfds.core.DatasetInfo(
        builder=identity, description=f"converted from {dataset.name}", features=features,
        disable_shuffling=True,
    )  # fmt: skip
    largest = max(len(dataset.train), len(dataset.val))
    # A builder would hold a whole split in memory to keep its order; this writes as it goes.
    writer = tfds.core.SequentialWriter(
        info, max(SHARD, -(-largest // MOST_SHARDS)), file_format="array_record"
    )
    splits = {"train": "train", "val": "validation"}
    writer.initialize_splits(list(splits.values()))
    for split, examples, _ in _splits(dataset):
        images, first_id, chunk = file_names(examples), 1, []
        what = f"{dataset.name} {split}: records written"
        for index, example in enumerate(progress(examples, len(examples), what)):
            chunk.append(_record(example, images[index], first_id))
            first_id += len(example.boxes)
            if len(chunk) == CHUNK or index == len(examples) - 1:
                writer.add_examples({splits[split]: chunk})
                chunk = []
    writer.close_all()
    extra = {
        "class_names": dataset.class_names,
        "category_ids": dataset.category_ids,
        "mirror": dataset.mirror,
    }
    (folder / CLASSES).write_text(json.dumps(extra))


def file_names(examples: Sequence[Example]) -> list[str]:
    """A name for each image, its own where it has one; no two are equal in any file system."""
    names, taken = [], set()
    for example in examples:
        name = _own_name(example)
        number = 1
        while name.lower() in taken:
            name = f"{example.image_id}-{number}-{_own_name(example)}"
            number += 1
        taken.add(name.lower())
        names.append(name)
    return names


def content_of(example: Example) -> bytes:
    """The bytes of the image's own file, or of a new PNG file."""
    if isinstance(example.image, np.ndarray):
        return _png(example.image)
    return read_image(example.image)


def _splits(dataset: Dataset) -> list[tuple[str, tuple[Example, ...], ImageFacts]]:
    return [
        ("train", dataset.train, dataset.train_facts),
        ("val", dataset.val, dataset.val_facts),
    ]


def _own_name(example: Example) -> str:
    image = example.image
    if isinstance(image, Path):
        return image.name
    own = Path(image.filename).name if isinstance(image, Record) else ""
    return own or f"{example.image_id:012d}.png"


def _needs_turning(example: Example, orientation: int) -> bool:
    """Whether the size of the rotated image is that of the stored one."""
    return example.oriented and (orientation < SIDEWAYS or example.height == example.width)


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Pixels in a file, without any loss."""
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()


def _annotations(dataset: Dataset, example: Example, before: int) -> list[dict[str, Any]]:
    columns = (
        column.tolist() for column in (example.boxes, example.labels, example.areas, example.crowd)
    )
    rows = zip(*columns, strict=True)
    return [
        {
            "id": number,
            "image_id": example.image_id,
            "category_id": dataset.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
        }
        for number, ((x1, y1, x2, y2), label, area, crowd) in enumerate(rows, start=before + 1)
    ]


def _record(example: Example, name: str, first_id: int) -> dict[str, Any]:
    size = np.array([example.height, example.width] * 2, np.float64)
    shares = example.boxes[:, [1, 0, 3, 2]] / size
    return {
        "image": io.BytesIO(content_of(example)),
        "image/filename": name,
        "image/id": example.image_id,
        "image/height": 0 if example.oriented else example.height,
        "image/width": 0 if example.oriented else example.width,
        "objects": [
            {
                "id": first_id + number,
                "area": example.areas[number],
                "bbox": shares[number],
                "label": int(example.labels[number]),
                "is_crowd": bool(example.crowd[number]),
            }
            for number in range(len(shares))
        ],
    }
