"""A COCO folder of two small images a split, which the tests of the readers spoil."""

import copy
import json
import zlib
from pathlib import Path

import cv2
import numpy as np

IMAGES = [
    {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
    {"id": 3, "file_name": "b.png", "width": 20, "height": 20},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 5, 20.5, 10], "area": 77.5},
    {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 40, 30], "area": 9, "iscrowd": 1},
    {"id": 5, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4], "area": 12},
    {"id": 6, "image_id": 3, "category_id": 4, "bbox": [2, 2, 8, 8], "area": 64},
]
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]


def coco(split: str = "train") -> dict:
    """The content of a file; images of `val` have names of their own."""
    data = copy.deepcopy({"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES})
    if split == "val":
        for record in data["images"]:
            record["file_name"] = f"val_{record['file_name']}"
    return data


def write_image(path: Path, height: int, width: int, seed: int | None = None) -> Path:
    """Noise that depends on the name alone, or on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()) if seed is None else seed)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)
    return path


def write(
    root: Path, train: object, val: object = None, *, suffix: str = "", images: str = "images"
) -> Path:
    """Both annotation files (a text is written as it is) and the four images."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, data in (("train", train), ("val", coco("val") if val is None else val)):
        text = data if isinstance(data, str) else json.dumps(data)
        (root / "annotations" / f"instances_{split}{suffix}.json").write_text(text)
        for record in coco(split)["images"]:
            path = root / images.format(split=split) / record["file_name"]
            write_image(path, record["height"], record["width"])
    return root


def turned(path: Path, orientation: int) -> Path:
    """Note a rotation (EXIF) in a JPEG."""
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + b"\0" * 6
    exif = b"Exif\0\0" + tiff
    plain = path.read_bytes()
    path.write_bytes(
        plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    )
    return path
