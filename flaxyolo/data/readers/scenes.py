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
from jaxtyping import Bool, Float32, Float64, Int, Int32, UInt8
from sklearn.datasets import load_digits

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import cache_root, replacing
from flaxyolo.data.readers.backdrops import Picture, backdrop, crop, spread
from flaxyolo.data.readers.coco import read_coco
from flaxyolo.data.readers.listing import progress
from flaxyolo.data.readers.outlines import OUTLINES, UPRIGHT, Outline, handwritten
from flaxyolo.data.records import Source
from flaxyolo.machine.locks import held

VERSION = 1
"""Raised with every change that changes a scene."""

SCENES = {"train": 2000, "val": 300}
SIDE = 320
"""Of the square scenes, in pixels."""
CLASS_NAMES = tuple(OUTLINES)
PARTS = {"train": (0.0, 0.625), "val": (0.625, 1.0)}
"""Shares of a picture's columns, and of the handwritten digits, that each split may use."""
WRITTEN_SHARE = 0.5
"""Of the digits: those by hand; the others are printed."""

SPANS = (8.0, 160.0)
"""Square root of width times height in pixels, drawn evenly by its logarithm."""
LONGEST = 200.0
"""Pixels of the longer side."""
COUNTS = (2, 10)
CROWD_SHARE = 0.3
"""Of the scenes: those with many objects of few classes and about one size."""
CROWD_SPANS, CROWD_COUNTS, CROWD_SPREAD = (10.0, 44.0), (10, 30), (0.75, 1.3)
CROWD_CLASSES = 3
FULL_AREA = 0.6
"""Share of a scene up to which objects are added, by their spans."""

FINE = 4
"""Rows and columns of points in a pixel, that are inside or not."""
FRACTION_BITS = 3
"""Of the coordinates of corners, in such points."""
FULL = 240
"""Cover of a pixel that is all inside; a multiple of FINE squared below 256."""
LEAST = 60
"""What is covered less is left out."""
VISIBLE = 0.65
"""Least share of an object's pixels inside the image that stay uncovered."""
OVERLAP = 0.3
"""Largest IoU of two boxes at the time the second is pasted."""
TRIES = 30
HANGS = 0.2
"""Share of its side by which an object may be drawn across the image's border."""

CONTRASTS = (25.0, 130.0)
"""Wanted difference in brightness (0..255) of an object and what is beneath."""
SMALL, SMALL_CONTRAST = 16.0, 60.0
"""Objects below that span have at least that contrast wanted."""
COLOURS = 12
"""Drawn, of which the one is taken whose contrast is nearest to the wanted one."""
ALIKE_SHARE = 0.4
"""Of the scenes: those whose objects are of about one colour."""
NEAR = 50
"""Grey levels by which such colours differ."""
MOTTLED = 60
"""Grey levels by which the colour of one object changes, at most."""
PATTERN_SHARE = 0.1
"""Of the objects: those with a picture in their colour."""
RIM_SHARE, RIM = 0.3, 90
"""Of the objects: those with a rim, and the grey levels by which that differs."""
BRIGHTNESS = np.array([77, 150, 29])
"""Weights of red, green and blue in 256ths, as in ITU-R BT.601."""
CHUNK = 64
"""Scenes that are drawn before the next are begun."""


class Layer(NamedTuple):
    """One object as it is pasted."""

    y: int
    x: int
    """Of its first row and column in the scene."""
    cover: UInt8[np.ndarray, "h w"]
    """0 to FULL; every row and column at the sides has some."""
    paint: UInt8[np.ndarray, "h w 3"]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy."""
        height, width = self.cover.shape
        return self.x, self.y, self.x + width, self.y + height


class Scene(NamedTuple):
    """One image, its objects, and what it was made from."""

    image: Picture
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy pixels: tight around what is visible."""
    labels: Int32[np.ndarray, " n"]
    backdrop: Picture
    layers: tuple[Layer, ...]
    """One for each object, the lowest first."""


class Seen(NamedTuple):
    """An object of the scene that is being made."""

    layer: Layer
    visible: Bool[np.ndarray, "h w"]
    """Its pixels that no other covers fully."""
    pixels: int
    """How many it had when it was pasted."""


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


def cover_of(
    rng: np.random.Generator, outline: Outline, span: float, *, upright: bool
) -> UInt8[np.ndarray, "h w"]:
    """The outline turned, slanted and scaled to the span: how much of each pixel it covers."""
    angle = rng.uniform(-0.4, 0.4) if upright else rng.uniform(0, 2 * np.pi)
    cos, sin, slant = np.cos(angle), np.sin(angle), rng.uniform(-0.25, 0.25)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, slant], [0, 1]])
    turned = [_times(polygon, matrix) for polygon in outline]
    low = np.min([polygon.min(0) for polygon in turned], 0)
    size = np.max([polygon.max(0) for polygon in turned], 0) - low
    scale = min(span / np.sqrt(size[0] * size[1]), LONGEST / size.max())
    width, height = (int(side) + 2 for side in np.ceil(size * scale))
    points = np.zeros((height * FINE, width * FINE), np.uint8)
    unit = FINE * 2**FRACTION_BITS
    corners = [np.round((polygon - low) * (scale * unit)).astype(np.int32) for polygon in turned]
    cv2.fillPoly(points, corners, FULL, shift=FRACTION_BITS)
    cover = np.asarray(cv2.resize(points, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    cover[cover < LEAST] = 0
    return cover


def _times(points: Float64[np.ndarray, "n 2"], matrix: Float64[np.ndarray, "2 2"]) -> np.ndarray:
    """The points times a matrix, in an order of sums that is the same on every machine."""
    x, y = points[:, :1], points[:, 1:]
    return x * matrix[:, 0] + y * matrix[:, 1]


def place(
    rng: np.random.Generator, cover: UInt8[np.ndarray, "h w"], seen: list[Seen]
) -> tuple[int, int, UInt8[np.ndarray, "_ _"], list[Seen]] | None:
    """Row, column, cover inside the scene, and the others as they are then seen.

    None if there is no room, or nothing to see.
    """
    height, width = cover.shape
    pixels = int((cover > 0).sum())
    if not pixels:
        return None
    boxes = np.array([visible_box(one) for one in seen]).reshape(-1, 4)
    hang_y, hang_x = int(HANGS * height), int(HANGS * width)
    for _ in range(TRIES):
        y = int(rng.integers(-hang_y, SIDE - height + hang_y + 1))
        x = int(rng.integers(-hang_x, SIDE - width + hang_x + 1))
        inside = cover[max(-y, 0) : SIDE - y, max(-x, 0) : SIDE - x]
        rows, columns = (np.flatnonzero((inside > 0).any(axis)) for axis in (1, 0))
        if not len(rows) or (inside > 0).sum() < VISIBLE * pixels:
            continue
        tight = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = max(y, 0) + int(rows[0]), max(x, 0) + int(columns[0])
        box = np.array([left, top, left + tight.shape[1], top + tight.shape[0]])
        if (_ious(box, boxes) > OVERLAP).any():
            continue
        others = [_beneath(one, top, left, tight) for one in seen]
        if all(one.visible.sum() >= VISIBLE * one.pixels for one in others):
            return top, left, tight, others
    return None


def _beneath(one: Seen, y: int, x: int, cover: UInt8[np.ndarray, "h w"]) -> Seen:
    """What is left of an object to see under a cover."""
    x1, y1, x2, y2 = one.layer.box
    top, left = max(y, y1), max(x, x1)
    bottom, right = min(y + cover.shape[0], y2), min(x + cover.shape[1], x2)
    if top >= bottom or left >= right:
        return one
    visible = one.visible.copy()
    above = cover[top - y : bottom - y, left - x : right - x]
    visible[top - y1 : bottom - y1, left - x1 : right - x1] &= above < FULL
    return one._replace(visible=visible)


def visible_box(one: Seen) -> tuple[int, int, int, int]:
    """xyxy of what is visible of an object; the far sides are exclusive."""
    left, top, width, height = cv2.boundingRect(one.visible.view(np.uint8))
    y, x = one.layer.y + top, one.layer.x + left
    return x, y, x + width, y + height


def _ious(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)


def colour_of(
    rng: np.random.Generator,
    beneath: UInt8[np.ndarray, "p 3"],
    span: float,
    tint: Int[np.ndarray, "3"] | None,
) -> Int[np.ndarray, "3"]:
    """A colour of about the drawn contrast with the pixels beneath, near the tint where it can."""
    low, high = CONTRASTS
    wanted = rng.uniform(SMALL_CONTRAST if span < SMALL else low, high)
    level = int((beneath @ BRIGHTNESS).sum()) // (256 * len(beneath))
    greys, vivid = rng.integers(0, 256, (COLOURS, 1)), rng.integers(0, 256, (COLOURS, 3))
    choices = [greys + (vivid - greys) * int(rng.integers(257)) // 256]
    if tint is not None:
        near = tint + rng.integers(-NEAR, NEAR + 1, (COLOURS, 3))
        choices.insert(0, np.clip(near, 0, 255))
    for colours in choices:
        contrasts = np.abs(colours @ BRIGHTNESS // 256 - level)
        best = np.argmin(np.abs(contrasts - wanted))
        if contrasts[best] >= low:
            return colours[best]
    return np.full(3, 255 if level < 128 else 0)


def paint(
    rng: np.random.Generator,
    cover: UInt8[np.ndarray, "h w"],
    colour: Int[np.ndarray, "3"],
    span: float,
    part: tuple[float, float],
) -> Picture:
    """The surface of an object: even, shaded, mottled, or with a picture in it."""
    height, width = cover.shape
    cells = rng.choice((1, 2, 3, 8))
    difference = int(rng.integers(MOTTLED)) if cells > 1 else 0
    grid = colour + rng.integers(-difference, difference + 1, (cells, cells, 3))
    inside = spread(np.clip(grid, 0, 255).astype(np.uint8), height, width)
    if rng.random() < PATTERN_SHARE:
        pattern = crop(rng, max(height, width), part)[:height, :width]
        inside = ((3 * inside.astype(np.int64) + pattern) // 4).astype(np.uint8)
    if rng.random() < RIM_SHARE:
        thick = int(rng.integers(1, 2 + int(span) // 12))
        core = cv2.erode(
            (cover == FULL).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thick,
            borderType=cv2.BORDER_CONSTANT, borderValue=0,
        )  # fmt: skip
        shade = np.clip(colour + rng.integers(-RIM, RIM + 1, 3), 0, 255).astype(np.uint8)
        inside = np.where(core[..., None] > 0, inside, shade)
    return inside


def paste(canvas: Picture, layer: Layer) -> None:
    """Lay an object on the canvas, in place."""
    x1, y1, x2, y2 = layer.box
    window = canvas[y1:y2, x1:x2]
    cover = layer.cover[..., None].astype(np.uint16)
    window[:] = (window * (FULL - cover) + layer.paint * cover + FULL // 2) // FULL


def rendered(back: Picture, layers: Sequence[Layer]) -> Picture:
    """The image of a backdrop and the objects on it."""
    canvas = back.copy()
    for layer in layers:
        paste(canvas, layer)
    return canvas
