"""Small sound data sets of all four forms."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

FORMS = ("coco", "yolo", "voc", "tfds")
IMAGES = 4
"""Of each split."""


def write(path: Path, content: bytes) -> Path:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_sound(root: Path, form: str) -> None:
    """A sound data set; that of `tfds` is converted from the one of `coco` beside it."""
    random_ = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(IMAGES):
            pixels = random_.integers(0, 256, (24, 32, 3), np.uint8)
            name = f"{split}{number}"
            suffix = ".jpg" if number % 2 else ".png"
            content = cv2.imencode(suffix, pixels)[1].tobytes()
            WRITERS[form](root, split, name, name + suffix, content)
    FINISHERS[form](root)


def _coco_image(root: Path, split: str, name: str, file: str, content: bytes) -> None:
    write(root / "images" / file, content)


def _coco_end(root: Path) -> None:
    categories = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    for split in ("train", "val"):
        files = sorted(path.name for path in (root / "images").glob(f"{split}*"))
        images = [{"id": number, "file_name": file, "width": 32, "height": 24}
                  for number, file in enumerate(files, 1)]  # fmt: skip
        boxes = [
            {"id": 2 * n + k, "image_id": n, "category_id": 1 + k, "area": 36, "iscrowd": 0,
             "bbox": [3 + 9 * k, 4, 6, 6]}
            for n in range(1, IMAGES + 1) for k in (0, 1)
        ]  # fmt: skip
        data = {"images": images, "annotations": boxes, "categories": categories}
        write(root / "annotations" / f"instances_{split}.json", json.dumps(data).encode())


def _yolo_image(root: Path, split: str, name: str, file: str, content: bytes) -> None:
    write(root / "images" / split / file, content)
    write(root / "labels" / split / f"{name}.txt", b"0 0.3 0.4 0.2 0.2\n1 0.6 0.5 0.2 0.3\n")


def _yolo_end(root: Path) -> None:
    write(root / "data.yaml", b"train: images/train\nval: images/val\nnames: [odd, even]\n")


def _voc_image(root: Path, split: str, name: str, file: str, content: bytes) -> None:
    write(root / "JPEGImages" / file, content)
    things = "".join(
        f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>4</ymin>"
        f"<xmax>{x + 6}</xmax><ymax>10</ymax></bndbox></object>"
        for kind, x in (("odd", 3), ("even", 15))
    )
    text = (
        f"<annotation><filename>{file}</filename><size><width>32</width><height>24</height>"
        f"<depth>3</depth></size>{things}</annotation>"
    )
    write(root / "Annotations" / f"{name}.xml", text.encode())


def _voc_end(root: Path) -> None:
    for split in ("train", "val"):
        names = sorted(path.stem for path in (root / "Annotations").glob(f"{split}*"))
        write(root / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names).encode())


def _tfds_end(root: Path) -> None:
    from flaxyolo.data.export import convert
    from flaxyolo.data.sources import read_dataset

    _coco_end(root)
    beside = root.with_name("as-tfds")
    convert(read_dataset(f"coco:{root}"), beside, "tfds")
    shutil.rmtree(root)
    beside.rename(root)


WRITERS = {"coco": _coco_image, "yolo": _yolo_image, "voc": _voc_image, "tfds": _coco_image}
FINISHERS = {"coco": _coco_end, "yolo": _yolo_end, "voc": _voc_end, "tfds": _tfds_end}
