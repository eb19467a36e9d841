"""The built-in data set: real handwritten digits pasted on real photographs, the same every time.

Digits are scikit-learn's `load_digits` (8 x 8 pixels, ten classes), backgrounds are crops of its
two sample photographs. Training draws from other digit samples, and from another part of each
photograph, than validation. Nothing is downloaded; building takes about a second.
"""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.data.records import Listed, Records, Source

VERSION = 1
"""Raised with every change that changes a scene."""

SCENES = {"train": 600, "val": 150}
SIDES = (160, 192)
"""Shortest and longest side of the square scenes, in pixels."""

TRAIN_SHARE = 0.8
"""Of the digit samples."""
SPLIT_COLUMN = 400
"""Photographs are 427 x 640: columns left of this are for training, the others for validation."""
CROP_SIDES = (112, 240)
"""Pixels of a photograph that become one scene; the validation part is 240 wide."""

LARGE, MEDIUM, SMALL = (100.0, 132.0), (36.0, 88.0), (17.0, 30.0)
"""Square root of the area of a digit in pixels, inside COCO's limits of 32 and 96."""
COUNTS = ((LARGE, (0, 1, 2), (0.05, 0.65, 0.3)), (MEDIUM, (0, 1, 2), (0.1, 0.6, 0.3)),
          (SMALL, (1, 2, 3), (0.4, 0.4, 0.2)))  # fmt: skip
"""Objects of each size in one scene, and how often each number is drawn."""

INK = 0.5
"""A pixel belongs to a digit where its ink covers more than this share."""
GREY = 0.5
"""Grey of an enlarged `load_digits` image, 0 to 1, at the edge of its strokes."""
VISIBLE = 0.8
"""Least share of a digit's pixels that digits pasted later leave uncovered."""
OVERLAP = 0.25
"""Largest IoU of two boxes at the time the second is pasted."""
CONTRAST = 80.0
"""Wanted difference in brightness (0..255) of ink and the background beneath, on average."""


class Scene(NamedTuple):
    """One image, its objects, and what it was made from."""

    image: UInt8[np.ndarray, "s s 3"]
    """RGB."""
    boxes: Float32[np.ndarray, "n 4"]
    """xyxy pixels: the tight box of the ink of a digit that is visible."""
    labels: Int32[np.ndarray, " n"]
    samples: Int32[np.ndarray, " n"]
    """Index of each digit in `load_digits`."""
    photo: int
    region: tuple[int, int, int, int]
    """xyxy pixels of the photograph."""


class Sources(NamedTuple):
    """What the scenes of one split are made from."""

    photos: list[np.ndarray]
    glyphs: np.ndarray
    targets: np.ndarray
    samples: np.ndarray
    """Digits that this split may use."""
    columns: tuple[int, int]
    """First column of the photographs that this split may use, and the first that it may not."""


class Digit(NamedTuple):
    """A digit of the scene that is being made."""

    mask: np.ndarray
    """Its pixels that no other digit covers, of the whole scene."""
    pixels: int
    """How many it had when it was pasted."""


def read_digits(root: str = "") -> Source:
    """The scenes as a source; the area of an object is that of its box."""
    if root:
        raise InputError(f"--data: digits is built in and takes no folder, got {root!r}")
    train, val, class_names = build_digits()
    digest = hashlib.sha256(f"digits {VERSION}".encode())
    for scene in (*train, *val):
        digest.update(repr(scene.image.shape).encode())
        for array in (scene.image, scene.boxes, scene.labels):
            digest.update(np.ascontiguousarray(array).data)
    return Source(
        name="digits",
        train=_records(train, 1),
        val=_records(val, len(train) + 1),
        class_names=class_names,
        category_ids=tuple(range(len(class_names))),
        fingerprint=digest.hexdigest(),
        mirror=False,
    )


def build_digits() -> tuple[list[Scene], list[Scene], tuple[str, ...]]:
    """Training scenes, validation scenes and class names; two builds are equal."""
    # It takes as long to import as half of what a command imports, and few need it.
    from sklearn.datasets import load_digits, load_sample_images

    photos = load_sample_images().images
    glyphs, targets = load_digits(return_X_y=True)
    glyphs, targets = np.asarray(glyphs).reshape(-1, 8, 8), np.asarray(targets)
    order = np.random.default_rng(VERSION).permutation(len(glyphs))
    cut = round(TRAIN_SHARE * len(order))
    width = photos[0].shape[1]
    samples = {"train": order[:cut], "val": order[cut:]}
    columns = {"train": (0, SPLIT_COLUMN), "val": (SPLIT_COLUMN, width)}
    scenes = {}
    for number, (split, count) in enumerate(SCENES.items()):
        sources = Sources(photos, glyphs, targets, samples[split], columns[split])
        rng = np.random.default_rng((VERSION, number))
        scenes[split] = [_scene(rng, sources) for _ in range(count)]
    return scenes["train"], scenes["val"], tuple(str(name) for name in range(10))


def _records(scenes: list[Scene], first: int) -> Records:
    """One split in columns; the ids of its images count from `first`."""
    counts = [len(scene.boxes) for scene in scenes]
    image = np.repeat(np.arange(len(scenes)), counts)
    return Records(
        images=tuple(
            Listed(f"digits: scene {number}", number, scene.image, *scene.image.shape[:2])
            for number, scene in enumerate(scenes, start=first)
        ),
        image=image,
        boxes=np.concatenate([scene.boxes for scene in scenes]).astype(np.float64),
        labels=np.concatenate([scene.labels for scene in scenes]).astype(np.int64),
        areas=np.full(len(image), np.nan),
        crowd=np.zeros(len(image), bool),
        where=lambda row: f"digits: scene {first + image[row]}: object {row}",
    )


def _scene(rng: np.random.Generator, sources: Sources) -> Scene:
    """Draw scenes until every digit of one has found its place."""
    while True:
        side = int(rng.integers(SIDES[0], SIDES[1] + 1))
        photo, region = int(rng.integers(len(sources.photos))), _region(rng, sources)
        x1, y1, x2, y2 = region
        crop = sources.photos[photo][y1:y2, x1:x2]
        # The exact form gives the same bits on every machine.
        canvas = cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
        spans = [span for span, numbers, odds in COUNTS for _ in range(rng.choice(numbers, p=odds))]
        samples = rng.choice(sources.samples, len(spans)).astype(np.int32)
        digits: list[Digit] = []
        for span, sample in zip(spans, samples, strict=True):
            alpha = _draw(rng, sources.glyphs[sample], rng.uniform(*span), side)
            placed = _place(rng, alpha, side, digits)
            if placed is None:
                break
            y, x, digits = placed
            height, width = alpha.shape
            window = canvas[y : y + height, x : x + width]
            window[:] = _paint(rng, window, alpha)
        else:
            boxes = np.array([_tight_box(digit.mask) for digit in digits], np.float32)
            labels = sources.targets[samples].astype(np.int32)
            return Scene(canvas, boxes, labels, samples, photo, region)


def _region(rng: np.random.Generator, sources: Sources) -> tuple[int, int, int, int]:
    """A square of a photograph inside the columns of the split, xyxy."""
    first, end = sources.columns
    side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1] + 1))
    x = int(rng.integers(first, end - side + 1))
    y = int(rng.integers(sources.photos[0].shape[0] - side + 1))
    return x, y, x + side, y + side


def _draw(
    rng: np.random.Generator, glyph: Float[np.ndarray, "8 8"], size: float, side: int
) -> Float32[np.ndarray, "h w"]:
    """The digit enlarged to about `size` x `size` pixels of area: its ink, 0 to 1.

    The shape of the digit is kept, but for a mild random stretch and a limit on narrow ones,
    which would not fit into the scene when they are large.
    """
    # The margin keeps the ends of strokes from being cut off flat.
    grey = np.pad(glyph / 16, 1).astype(np.float32)
    grey = cv2.resize(grey, None, fx=12, fy=12, interpolation=cv2.INTER_CUBIC)
    x1, y1, x2, y2 = _tight_box(grey > GREY - 0.1)
    grey = grey[y1:y2, x1:x2]
    aspect = np.clip(grey.shape[1] / grey.shape[0] * rng.uniform(0.85, 1.2), 0.42, 1.3)
    height = min(round(size / aspect**0.5), side - 4)
    width = min(round(size * aspect**0.5), side - 4)
    grey = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    # A steep ramp turns the blur of eight grey pixels into strokes with a soft edge.
    ink = np.clip((grey - GREY) / 0.25 + INK, 0, 1)
    x1, y1, x2, y2 = _tight_box(ink > INK)
    return ink[y1:y2, x1:x2]


def _place(
    rng: np.random.Generator, alpha: Float32[np.ndarray, "h w"], side: int, digits: list[Digit]
) -> tuple[int, int, list[Digit]] | None:
    """Row, column and all digits of the scene with this one on top; None if it found no room."""
    height, width = alpha.shape
    for _ in range(40):
        y = int(rng.integers(side - height + 1))
        x = int(rng.integers(side - width + 1))
        mask = np.zeros((side, side), bool)
        mask[y : y + height, x : x + width] = alpha > INK
        visible = [Digit(digit.mask & ~mask, digit.pixels) for digit in digits]
        box = _tight_box(mask)
        if all(
            digit.mask.sum() >= VISIBLE * digit.pixels
            and _iou(box, _tight_box(digit.mask)) <= OVERLAP
            for digit in visible
        ):
            return y, x, [*visible, Digit(mask, int(mask.sum()))]
    return None


def _paint(
    rng: np.random.Generator, window: UInt8[np.ndarray, "h w 3"], alpha: Float32[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The window with the digit on it, in the first colour of eight that stands out enough."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)  # brightness as in ITU-R BT.601
    beneath = window[alpha > INK][::4] @ weights  # a quarter of the pixels is enough
    colours = rng.integers(0, 256, (8, 3)).astype(np.float32)
    contrast = np.abs(beneath[None] - (colours @ weights)[:, None]).mean(1)
    enough = contrast >= CONTRAST
    colour = colours[np.argmax(enough) if enough.any() else np.argmax(contrast)]
    cover = alpha[..., None]
    return (window * (1 - cover) + colour * cover + np.float32(0.5)).astype(np.uint8)


def _tight_box(mask: np.ndarray) -> np.ndarray:
    """xyxy of the true pixels; the far sides are exclusive."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return np.array([x, y, x + width, y + height])


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    size = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    shared = size[0] * size[1]
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)
