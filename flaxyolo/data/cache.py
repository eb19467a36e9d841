"""Images decoded and letterboxed once, kept as uint8 arrays that all processes share."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from flaxyolo.base.boxes import letterbox, letterbox_boxes, letterbox_image
from flaxyolo.base.decoding import alone
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import beside, blaming, cache_root, remove
from flaxyolo.base.kept import DAMAGE, brief, read_regular, sealed, unsealed
from flaxyolo.data.cache_checks import Summed, require_checksums, require_sound
from flaxyolo.data.images import decode, name_of
from flaxyolo.data.sources import Dataset, Example

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Raised with every change of what is stored."""

CHUNK = 64
"""Images decoded ahead of the writer, so that memory does not grow with the data."""
LEFTOVER_S = 3600.0
"""Unfinished folders that nobody has written to for so long belong to a process that was killed."""
REPORT_S = 5.0
"""Seconds between two lines about the progress."""


class Pixels(NamedTuple):
    """One split, letterboxed to `s` x `s`; boxes in letterboxed pixels, without crowd boxes."""

    images: UInt8[np.ndarray, "n s s 3"]
    """RGB, memory-mapped and read-only; grey outside the picture."""
    boxes: Float32[np.ndarray, "n g 4"]
    """xyxy; zeros where not valid."""
    labels: Int32[np.ndarray, "n g"]
    valid: Bool[np.ndarray, "n g"]
    content: Float32[np.ndarray, "n 4"]
    """xyxy of the picture inside the square."""


def load_pixels(
    dataset: Dataset,
    split: Literal["train", "val"],
    image_size: int,
    *,
    cache_dir: Path | None = None,
) -> Pixels:
    """The pixels of a split, from the cache if it has them, which is filled otherwise.

    The cache is `cache_dir`, or $FLAXYOLO_CACHE, or ~/.cache/flaxyolo. A folder in it is complete
    or absent: it is written beside its place and renamed.
    """
    examples = dataset.train if split == "train" else dataset.val
    if not examples:
        raise InputError(f"{dataset.name}: expected images in {split}, got none")
    root = cache_root(cache_dir)
    place = _place(root, dataset, split, image_size)
    # More than one round only if a damaged folder is replaced by several processes at once.
    for _ in range(3):
        pixels = _open(place)
        if pixels is not None:
            return pixels
        _remove_leftovers(root)
        unfinished = beside(place.folder)
        try:
            with blaming(place.folder):
                unfinished.mkdir()
                _write(unfinished, examples, dataset.name, place.settings)
            _publish(unfinished, place)
            # What was just written is what the data set says, be that as it may.
            pixels = _open(place, written=True)
            if pixels is not None:
                return pixels
        finally:
            # Gone already if it was published; otherwise nothing half-written may stay.
            shutil.rmtree(unfinished, ignore_errors=True)
    raise OSError(f"{place.folder}: the cache is damaged again as soon as it is written; remove it")


def is_cached(
    dataset: Dataset,
    split: Literal["train", "val"],
    image_size: int,
    *,
    cache_dir: Path | None = None,
) -> bool:
    """Whether the cache has the pixels of a split, whole."""
    return _open(_place(cache_root(cache_dir), dataset, split, image_size)) is not None


class _Place(NamedTuple):
    """The folder of a split in the cache, and what must be in it."""

    folder: Path
    settings: dict[str, str | int]
    length: int
    classes: int


def _place(root: Path, dataset: Dataset, split: Literal["train", "val"], image_size: int) -> _Place:
    settings: dict[str, str | int] = {
        "format": FORMAT_VERSION,
        "fingerprint": dataset.fingerprint,
        "split": split,
        "image_size": image_size,
    }
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    folder = root / f"{split}-{image_size}-{key[:20]}"
    length = len(dataset.train if split == "train" else dataset.val)
    return _Place(folder, settings, length, len(dataset.class_names))


def _open(place: _Place, *, tell: bool = True, written: bool = False) -> Pixels | None:
    """A finished folder; None if there is none, or if it is damaged, which the log may tell.

    The values of one that was just `written` are not looked at.
    """
    folder = place.folder
    if not os.path.lexists(folder):
        return None
    try:
        meta = unsealed(read_regular(folder / "meta.json"))
        if meta["settings"] != place.settings:
            raise ValueError(f"made with {meta['settings']}")
        require_checksums(folder, meta["checksums"], Pixels._fields)
        images = np.load(folder / "images.npy", mmap_mode="r")
        boxes, labels, valid, content = (
            np.load(folder / f"{name}.npy") for name in Pixels._fields[1:]
        )
        pixels = Pixels(images, boxes, labels, valid, content)
        size = int(place.settings["image_size"])
        if not written:
            require_sound(*pixels, count=place.length, size=size, classes=place.classes)
    except DAMAGE as error:
        if tell and os.path.lexists(folder):
            log.warning("%s is damaged and is made again: %s", folder, brief(error))
        return None
    return pixels


def _publish(unfinished: Path, place: _Place) -> None:
    """Rename into place, unless another process has been faster."""
    target = place.folder
    try:
        unfinished.rename(target)
    except OSError:
        # A folder with content cannot be renamed over: it is the winner's, or a damaged one.
        if not os.path.lexists(target):
            raise
        if _open(place, tell=False) is None:
            damaged = beside(target)
            target.rename(damaged)
            remove(damaged)
            unfinished.rename(target)


def _remove_leftovers(root: Path) -> None:
    """Remove what killed processes have left behind."""
    for folder in root.glob(".*-*-*"):
        try:
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            continue  # finished in this moment, or not ours
        if time.time() - newest > LEFTOVER_S:
            log.warning("%s: removed, its process has ended without finishing it", folder)
            shutil.rmtree(folder, ignore_errors=True)


def _write(
    folder: Path, examples: tuple[Example, ...], name: str, settings: dict[str, str | int]
) -> None:
    """Write the arrays of a split and `meta.json`, which says what they are."""
    size = int(settings["image_size"])
    what = f"{name} {settings['split']}"
    # One image a thread: OpenCV's own threads would only compete.
    cv2.setNumThreads(0)
    sums: dict[str, tuple[int, int]] = {}
    with (folder / "images.npy").open("wb") as plain:
        # Plain writes, because a full disk under a memory map kills the process.
        file = Summed(plain)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(examples), size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        for image in _progress(_letterboxed(examples, size), len(examples), what):
            file.write(image.data)
        _sync(plain)
        sums["images"] = file.sum
    arrays = annotation_arrays(examples, size)
    for field, array in arrays.items():
        with (folder / f"{field}.npy").open("wb") as plain:
            file = Summed(plain)
            np.lib.format.write_array(file, array, allow_pickle=False)
            _sync(plain)
            sums[field] = file.sum
    crowd = sum(int(example.crowd.sum()) for example in examples)
    meta = {
        "data": name,
        "settings": settings,
        "images": len(examples),
        "boxes": int(arrays["valid"].sum()),
        "crowd_boxes_left_out": crowd,
        "checksums": sums,
    }
    with (folder / "meta.json").open("wb") as file:
        file.write(sealed(meta))
        _sync(file)
    log.info(
        "%s: %d images at %d px, %d boxes, %d crowd boxes left out",
        what,
        len(examples),
        size,
        meta["boxes"],
        crowd,
    )


def _sync(file: BinaryIO) -> None:
    """Onto the disk now, so that a power cut after the rename finds everything."""
    file.flush()
    os.fsync(file.fileno())


def _letterboxed(examples: tuple[Example, ...], size: int) -> Iterator[UInt8[np.ndarray, "s s 3"]]:
    """All images in order, decoded by one thread per core."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(examples), CHUNK):
            chunk = examples[start : start + CHUNK]
            yield from pool.map(load_square, chunk, [size] * len(chunk))


def load_square(example: Example, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The image, enlarged or shrunk with its shape kept, centred in a grey square."""
    with alone(pixels=example.height * example.width):
        pixels = decode(example.image, oriented=example.oriented)
        height, width = pixels.shape[:2]
        if (height, width) != (example.height, example.width):
            raise InputError(
                f"{name_of(example.image)}: the annotations of image {example.image_id} say "
                f"{example.width} x {example.height} pixels (width x height), the image has "
                f"{width} x {height}"
            )
        return letterbox_image(pixels, size)


def annotation_arrays(examples: tuple[Example, ...], size: int) -> dict[str, np.ndarray]:
    """Boxes, labels and their validity, padded to the most boxes of an image, and `content`."""
    kept = [np.flatnonzero(~example.crowd) for example in examples]
    slots = max(1, *(len(rows) for rows in kept))
    boxes = np.zeros((len(examples), slots, 4), np.float32)
    labels = np.zeros((len(examples), slots), np.int32)
    valid = np.zeros((len(examples), slots), bool)
    content = np.zeros((len(examples), 4), np.float32)
    for index, (example, rows) in enumerate(zip(examples, kept, strict=True)):
        box = letterbox(example.height, example.width, size)
        count = len(rows)
        boxes[index, :count] = letterbox_boxes(example.boxes[rows], box)
        labels[index, :count] = example.labels[rows]
        valid[index, :count] = True
        content[index] = box.pad_x, box.pad_y, box.pad_x + box.width, box.pad_y + box.height
    return {"boxes": boxes, "labels": labels, "valid": valid, "content": content}


def _progress(images: Iterator[np.ndarray], count: int, what: str) -> Iterator[np.ndarray]:
    """Pass the images on and log how far it is, every few seconds."""
    start = reported = time.monotonic()
    for done, image in enumerate(images, start=1):
        yield image
        now = time.monotonic()
        if now - reported >= REPORT_S and done < count:
            reported = now
            left = (now - start) / done * (count - done)
            log.info("%s: %d of %d images decoded, %.0f s left", what, done, count, left)
