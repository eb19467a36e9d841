"""The larger built-in data set: shapes, letters, digits and words on pictures and textures.

It is meant to train a small parent on where nothing may be downloaded: twelve classes in any
colour and of 8 px to half of the image, some partly covered, some in crowds. Nothing is downloaded
either: pictures, fonts and handwritten digits are those of scikit-learn and matplotlib (licences in
`backdrops` and `outlines`; the digits of `load_digits` are the UCI's, CC BY 4.0). Training and
validation share no part of a picture and no handwritten digit.

Drawing takes less than a minute and is done once: the scenes stay in the cache in COCO form.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int32

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import cache_root, replacing
from flaxyolo.data.readers.backdrops import Picture, backdrop
from flaxyolo.data.readers.coco import read_coco
from flaxyolo.data.readers.listing import progress
from flaxyolo.data.readers.outlines import OUTLINES, UPRIGHT, Outline, handwritten
from flaxyolo.data.readers.scene_objects import (
    SIDE,
    Layer,
    Seen,
    colour_of,
    cover_of,
    paint,
    paste,
    place,
    visible_box,
)
from flaxyolo.data.records import Source
from flaxyolo.machine.locks import held

VERSION = 1
"""Raised with every change that changes a scene."""

SCENES = {"train": 2000, "val": 300}
CLASS_NAMES = tuple(OUTLINES)
PARTS = {"train": (0.0, 0.625), "val": (0.625, 1.0)}
"""Shares of a picture's columns, and of the handwritten digits, that each split may use."""
WRITTEN_SHARE = 0.5
"""Of the digits: those by hand; the others are printed."""

SPANS = (8.0, 160.0)
"""Square root of width times height in pixels, drawn evenly by its logarithm."""
COUNTS = (2, 10)
CROWD_SHARE = 0.3
"""Of the scenes: those with many objects of few classes and about one size."""
CROWD_SPANS, CROWD_COUNTS, CROWD_SPREAD = (10.0, 44.0), (10, 30), (0.75, 1.3)
CROWD_CLASSES = 3
FULL_AREA = 0.6
"""Share of a scene up to which objects are added, by their spans."""

ALIKE_SHARE = 0.4
"""Of the scenes: those whose objects are of about one colour."""
CHUNK = 64
"""Scenes that are drawn before the next are begun."""


class Scene(NamedTuple):
    """One image, its objects, and what it was made from."""

    image: Picture
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy pixels: tight around what is visible."""
    labels: Int32[np.ndarray, " n"]
    backdrop: Picture
    layers: tuple[Layer, ...]
    """One for each object, the lowest first."""


class Written(NamedTuple):
    """What is known of a scene whose image lies in its file."""

    boxes: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]
    digest: bytes
    """sha256 of its pixels."""


class Wish(NamedTuple):
    """An object before it is drawn."""

    label: int
    span: float


class Sources(NamedTuple):
    """What the scenes of one split are made from."""

    part: tuple[float, float]
    """Of the pictures."""
    written: Sequence[Outline]
    """Digits by hand."""


def read_scenes(root: str = "") -> Source:
    """The scenes as a source; they are drawn first where the cache has none."""
    if root:
        raise InputError(f"--data: scenes is built in and takes no folder, got {root!r}")
    folder = kept_scenes()
    return replace(
        read_coco(str(folder)),
        name="scenes",
        # Of the pixels, not of the files' times: the same on every machine.
        fingerprint=(folder / "fingerprint").read_text(),
        formerly=(),
    )


def kept_scenes() -> Path:
    """The folder of the scenes in the cache; about half a gigabyte."""
    numbers = "-".join(map(str, (VERSION, *SCENES.values(), SIDE)))
    folder = cache_root(None) / f"scenes-{numbers}"
    if not folder.is_dir():
        with held(folder.with_name(f"{folder.name}.lock")):
            # Another process may have drawn them in the meantime.
            if not folder.is_dir():
                with replacing(folder) as partial_folder:
                    write_scenes(partial_folder)
    return folder


def write_scenes(folder: Path) -> None:
    """Draw all scenes and write them in COCO form, with the sha256 of what they show."""
    cv2.setNumThreads(0)  # One scene a thread: OpenCV's own threads would only compete.
    (folder / "annotations").mkdir(parents=True)
    digest = hashlib.sha256(f"scenes {VERSION}".encode())
    first = 1
    for split, count in SCENES.items():
        place = folder / "images" / split
        place.mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        written = progress(_written(split, count, place), count, f"scenes {split}: images drawn")
        for number, scene in enumerate(written, start=first):
            images.append({"id": number, "file_name": _file_name(number - first),
                           "height": SIDE, "width": SIDE})  # fmt: skip
            for label, box in zip(scene.labels.tolist(), scene.boxes.tolist(), strict=True):
                x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
                annotations.append({"id": len(annotations) + 1, "image_id": number,
                                    "category_id": label, "bbox": [x, y, width, height],
                                    "area": width * height, "iscrowd": 0})  # fmt: skip
            for part in (scene.digest, scene.boxes.data, scene.labels.data):
                digest.update(part)
        first += count
        categories = [{"id": label, "name": name} for label, name in enumerate(CLASS_NAMES)]
        content = {
            "info": {"description": "drawn scenes", "mirror": False},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    (folder / "fingerprint").write_text(digest.hexdigest())


def _written(split: str, count: int, place: Path) -> Iterator[Written]:
    """Draw and write the scenes of a split, in order."""
    write = partial(_write, split, sources_of(split), place)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, count, CHUNK):
            yield from pool.map(write, range(start, min(start + CHUNK, count)))


def _write(split: str, sources: Sources, place: Path, index: int) -> Written:
    scene = draw_scene(split, sources, index)
    bgr = np.ascontiguousarray(scene.image[..., ::-1])
    _, content = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    (place / _file_name(index)).write_bytes(content.tobytes())
    return Written(scene.boxes, scene.labels, hashlib.sha256(scene.image.data).digest())


def _file_name(index: int) -> str:
    return f"{index:04}.png"


def sources_of(split: str) -> Sources:
    """The part of the pictures and the handwritten digits of a split."""
    # As in `digits`: few commands need it.
    from sklearn.datasets import load_digits

    glyphs = np.asarray(load_digits(return_X_y=True)[0]).reshape(-1, 8, 8)
    order = np.random.default_rng(VERSION).permutation(len(glyphs))
    first, end = (round(share * len(order)) for share in PARTS[split])
    return Sources(PARTS[split], [handwritten(glyphs[place]) for place in order[first:end]])


def draw_scene(split: str, sources: Sources, index: int) -> Scene:
    """The scene of that number in a split; it depends on no other."""
    rng = np.random.default_rng((VERSION, list(SCENES).index(split), index))
    back = backdrop(rng, SIDE, sources.part)
    tint = rng.integers(0, 256, 3) if rng.random() < ALIKE_SHARE else None
    canvas = back.copy()
    labels: list[int] = []
    seen: list[Seen] = []
    for wish in wishes(rng):
        name = CLASS_NAMES[wish.label]
        by_hand = name == "digit" and rng.random() < WRITTEN_SHARE
        outline = (
            sources.written[int(rng.integers(len(sources.written)))]
            if by_hand
            else OUTLINES[name](rng)
        )
        cover = cover_of(rng, outline, wish.span, upright=name in UPRIGHT)
        placed = place(rng, cover, seen)
        if placed is not None:
            y, x, cover, seen = placed
            window = canvas[y : y + cover.shape[0], x : x + cover.shape[1]]
            colour = colour_of(rng, window[cover > 0], wish.span, tint)
            layer = Layer(y, x, cover, paint(rng, cover, colour, wish.span, sources.part))
            paste(canvas, layer)
            seen.append(Seen(layer, cover > 0, int((cover > 0).sum())))
            labels.append(wish.label)
    boxes = [visible_box(one) for one in seen]
    return Scene(
        canvas,
        np.array(boxes, np.float32),
        np.array(labels, np.int32),
        back,
        tuple(one.layer for one in seen),
    )


def wishes(rng: np.random.Generator) -> list[Wish]:
    """What a scene shall show, the largest first, as far as it has room."""
    if rng.random() < CROWD_SHARE:
        count = int(rng.integers(*CROWD_COUNTS, endpoint=True))
        spans = np.exp(rng.uniform(*np.log(CROWD_SPANS))) * rng.uniform(*CROWD_SPREAD, count)
        kinds = rng.permutation(len(CLASS_NAMES))[: rng.integers(1, CROWD_CLASSES + 1)]
        labels = rng.choice(kinds, count)
    else:
        count = int(rng.integers(*COUNTS, endpoint=True))
        low, high = np.log(SPANS)
        spans = np.exp(rng.uniform(low, high, count))
        labels = rng.integers(len(CLASS_NAMES), size=count)
    order = np.argsort(-spans)
    fits = np.cumsum(spans[order] ** 2) <= FULL_AREA * SIDE**2
    return [Wish(int(labels[at]), float(spans[at])) for at in order[fits]]


def rendered(back: Picture, layers: Sequence[Layer]) -> Picture:
    """The image of a backdrop and the objects on it."""
    canvas = back.copy()
    for layer in layers:
        paste(canvas, layer)
    return canvas
