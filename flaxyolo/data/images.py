"""Image files as pixels, and what one look at every file tells: size, content, light, sharpness."""

import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from flaxyolo.base.decoding import alone, decoded
from flaxyolo.base.errors import InputError
from flaxyolo.base.exif import orientation_of, upright
from flaxyolo.base.files import cache_root
from flaxyolo.base.headers import stored_size
from flaxyolo.base.limits import BYTES_PER_PIXEL, is_of_limit, max_pixels, too_many_pixels
from flaxyolo.base.reading import read_file
from flaxyolo.data.facts_file import Known, Row, add_facts, facts_file, load_facts
from flaxyolo.data.records import Encoded, Image
from flaxyolo.machine.overhear import overheard, pass_on

log = logging.getLogger(__name__)

MISSING = "there is no such file"
"""The problem of an image that is listed but missing."""
CHUNK = 64
"""Images handed to the threads at once."""
DECODERS = ("Corrupt JPEG", "Premature end of JPEG", "Inconsistent progression", "libpng error")
"""What a decoder's complaint about a damaged file begins with."""
REPORT_S = 5.0
"""Seconds between two lines about the progress."""


class ImageFacts(NamedTuple):
    """One entry per image."""

    height: Int32[np.ndarray, " n"]
    """Pixels as stored, before any rotation; 0 where the image does not decode."""
    width: Int32[np.ndarray, " n"]
    orientation: UInt8[np.ndarray, " n"]
    """EXIF's, 1 to 8; 1 where there is none."""
    digest: tuple[str, ...]
    """sha256 of the bytes of the file, or of the pixels; empty where they cannot be read."""
    brightness: Float32[np.ndarray, " n"]
    """Mean grey level, 0 to 255; NaN where the image does not decode, as the next two."""
    contrast: Float32[np.ndarray, " n"]
    """Standard deviation of the grey level."""
    blur: Float32[np.ndarray, " n"]
    """Variance of the Laplacian of the grey image: low where it is blurred."""
    problem: tuple[str, ...]
    """Empty, or why the image cannot be read."""
    complaint: tuple[str, ...]
    """Empty, or what the decoder says of a file that it decodes all the same."""
    bits: UInt8[np.ndarray, " n"]
    """What the values of an image of 16 bits fit into, if that is fewer; otherwise 0."""


def decode(image: Image, *, oriented: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """An image as RGB, whatever its file holds; a rotation noted there (EXIF) only if `oriented`.

    Most annotations are made for the pixels as they are stored: COCO's sizes say so.
    """
    if isinstance(image, np.ndarray):
        return image
    with alone(size=_size(image)):
        content = read_image(image)
        found = decoded(content)
    if isinstance(found, str):
        raise InputError(
            f"{name_of(image)}: expected an image that OpenCV can decode, got {found}; "
            "replace the file or remove it from the annotations"
        )
    return upright(found.pixels, orientation_of(content)) if oriented else found.pixels


def name_of(image: Image) -> str:
    """How a message names an image."""
    if isinstance(image, np.ndarray):
        return "pixels in memory"
    return str(image) if isinstance(image, Path) else image.name


def image_facts(images: Sequence[Image], what: str, *, cache_dir: Path | None = None) -> ImageFacts:
    """Look at every image once: one decode per file, by one thread per core.

    What is found is kept in the cache by path, size and time of the file (by content for images
    inside other files), so the next call decodes nothing. `what` names the images in the log.
    """
    store = facts_file(images, cache_root(cache_dir))
    known = load_facts(store)
    rows: list[Row] = [Row()] * len(images)
    most = max_pixels()
    # Positions by the name of the file: one that is listed twice is decoded once.
    todo: dict[str, list[int]] = {}
    stamps: dict[str, list[int]] = {}
    for position, image in enumerate(images):
        name = str(position)
        if isinstance(image, Path):
            name = os.path.abspath(image)
            stamp = _stamp(name)
            if isinstance(stamp, str):
                rows[position] = Row(problem=stamp)
                continue
            stored = known.get(name)
            if stored is not None and stored[0] == stamp:
                rows[position] = _within(stored[1], most)
                continue
            stamps[name] = stamp
        todo.setdefault(name, []).append(position)
    fresh: Known = {}
    try:
        work = [(images[positions[0]], known) for positions in todo.values()]
        looked = _in_threads(work, what)
        for (name, positions), row in zip(todo.items(), looked, strict=True):
            for position in positions:
                rows[position] = row
            if is_of_limit(row.problem):  # which may be another one the next time
                continue
            if name in stamps:
                fresh[name] = stamps[name], row
            elif row.digest and not isinstance(images[positions[0]], np.ndarray):
                fresh[row.digest] = [], row
    finally:
        # What was found before an interruption need not be found again.
        if any(known.get(name) != entry for name, entry in fresh.items()):
            add_facts(store, fresh)
    return _columns(rows)


def pick_facts(facts: ImageFacts, rows: Int[np.ndarray, " k"]) -> ImageFacts:
    """The facts of some of the images."""
    chosen = rows.tolist()
    return ImageFacts(
        facts.height[rows],
        facts.width[rows],
        facts.orientation[rows],
        tuple(facts.digest[row] for row in chosen),
        facts.brightness[rows],
        facts.contrast[rows],
        facts.blur[rows],
        tuple(facts.problem[row] for row in chosen),
        tuple(facts.complaint[row] for row in chosen),
        facts.bits[rows],
    )


def no_facts() -> ImageFacts:
    """The facts of no image."""
    return _columns([])


def file_state(path: Path, folder: Path) -> str:
    """Name inside `folder`, size and time of a file, for a fingerprint."""
    text, inside = str(path), f"{folder}{os.sep}"
    stamp = _stamp(text)
    state = stamp if isinstance(stamp, str) else f"{stamp[0]} {stamp[1]}"
    return f"{text.removeprefix(inside)!a} {state}\n"


def _columns(rows: list[Row]) -> ImageFacts:
    height, width, orientation, digest, brightness, contrast, blur, problem, complaint, bits = (
        zip(*rows, strict=True) if rows else ((),) * len(Row._fields)
    )
    return ImageFacts(
        np.array(height, np.int32),
        np.array(width, np.int32),
        np.array(orientation, np.uint8),
        tuple(digest),
        np.array(brightness, np.float32),
        np.array(contrast, np.float32),
        np.array(blur, np.float32),
        tuple(problem),
        tuple(complaint),
        np.array(bits, np.uint8),
    )


def _in_threads(work: list[tuple[Image, Known]], what: str) -> Iterable[Row]:
    """The facts of all images in order; how far it is, every few seconds."""
    # One image a thread: OpenCV's own threads would only compete.
    cv2.setNumThreads(0)
    start = reported = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for first in range(0, len(work), CHUNK):
            yield from _listening(pool, work[first : first + CHUNK])
            now, done = time.monotonic(), first + CHUNK
            if now - reported >= REPORT_S and done < len(work):
                reported = now
                left = (now - start) / done * (len(work) - done)
                log.info("%s: %d of %d images looked at, %.0f s left", what, done, len(work), left)


def _listening(pool: ThreadPoolExecutor, work: list[tuple[Image, Known]]) -> list[Row]:
    """The facts of a few images, and which of them the decoder complains of.

    It says so on stderr, without a name: where it said something, each is decoded once more.
    """
    with overheard() as said:
        try:
            rows = list(pool.map(_look, work))
        finally:
            complaints, others = _complaints(said())
        if complaints:
            for position, one in enumerate(work):
                _look(one)
                own, more = _complaints(said())
                others += more
                if own:
                    rows[position] = rows[position]._replace(complaint="; ".join(own)[:200])
    pass_on(others)
    return rows


def _complaints(text: str) -> tuple[list[str], str]:
    """What decoders have said, each line once, and the rest."""
    lines = text.splitlines(keepends=True)
    own = [line.strip() for line in lines if line.startswith(DECODERS)]
    return list(dict.fromkeys(own)), "".join(line for line in lines if line.strip() not in own)


def _look(image_and_known: tuple[Image, Known]) -> Row:
    image, known = image_and_known
    if isinstance(image, np.ndarray):
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        return _measure(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 1, digest.hexdigest())
    with alone(size=_size(image)):
        try:
            content = read_image(image)
        except InputError as error:
            return Row(problem=str(error).removeprefix(f"{name_of(image)}: "))
        digest = hashlib.sha256(content).hexdigest()
        if digest in known:
            return _within(known[digest][1], max_pixels())
        height, width = stored_size(content) or (0, 0)
        with alone(pixels=height * width):
            found = decoded(content)
            if isinstance(found, str):
                return Row(digest=digest, problem=found)
            bits, orientation = found.bits, orientation_of(content)
            grey = cv2.cvtColor(found.pixels, cv2.COLOR_RGB2GRAY)
            # Of a large image each copy counts.
            del found, content
            return _measure(grey, orientation, digest)._replace(bits=bits)


def _measure(grey: UInt8[np.ndarray, "h w"], orientation: int, digest: str) -> Row:
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    light = float(mean[0, 0]), float(deviation[0, 0]), float(edges[0, 0]) ** 2
    return Row(grey.shape[0], grey.shape[1], orientation, digest, *light)


def _within(row: Row, most: int) -> Row:
    """Facts that are known, unless the image has more pixels than are allowed now."""
    problem = too_many_pixels(row.height, row.width, most)
    return Row(digest=row.digest, problem=problem) if problem else row


def _size(image: Image) -> int:
    """Bytes of an image's file; 0 where it has none of its own, or cannot be asked."""
    stamp = _stamp(str(image)) if isinstance(image, Path) else ""
    return 0 if isinstance(stamp, str) else stamp[0]


def read_image(image: Path | Encoded) -> bytes:
    """The bytes of an image file; InputError where it is no regular one, or much too large."""
    try:
        if isinstance(image, Path):
            return read_file(image, BYTES_PER_PIXEL * max_pixels())
        return image.read()
    except InputError:
        raise
    except OSError as error:
        more = "; --max-pixels with more allows it" if error.errno == errno.EFBIG else ""
        raise InputError(
            f"{name_of(image)}: cannot read the image: {error.strerror}{more}"
        ) from None
    except ValueError:  # a zero byte in the name, or half a character
        raise InputError(f"{name_of(image)!r}: cannot read the image: no file name") from None


def _stamp(path: str) -> list[int] | str:
    """Size and time of a file, or its problem."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot read the image: {error.strerror}"
    except ValueError:  # a zero byte in the name, or half a character
        return "cannot read the image: no file name"
    return [state.st_size, state.st_mtime_ns]
