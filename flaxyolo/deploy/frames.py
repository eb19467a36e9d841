"""Sources as pixels: an image is one frame, a video many."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.base.limits import BYTES_PER_PIXEL, max_pixels
from flaxyolo.base.pixels import file_pixels, rgb_pixels
from flaxyolo.deploy.sources import Problem, Source
from flaxyolo.machine.overhear import overheard


class Frame(NamedTuple):
    """An image, or a frame of a video."""

    source: Source
    pixels: UInt8[np.ndarray, "h w 3"]
    number: int | None = None
    """Of a video's frame, from 1 on."""
    rate: float = 0.0
    """Frames of the video in a second; 0 where it does not say."""


def read_frames(sources: Sequence[Source], problems: list[Problem]) -> Iterator[Frame]:
    """The pixels of one source after the other; what cannot be read is added to the problems."""
    for source in sources:
        try:
            if source.path is not None and source.video:
                yield from _video_frames(source, source.path, problems)
            elif source.path is not None:
                yield Frame(source, rgb_pixels(source.path))
            else:
                yield Frame(source, file_pixels(_standard_input(source.name), source.name))
        except InputError as error:
            problems.append(Problem(source.name, str(error).removeprefix(f"{source.name}: ")))


def _standard_input(name: str) -> bytes:
    """No more than the largest image has: a pipe may have no end."""
    most = BYTES_PER_PIXEL * max_pixels()
    content = sys.stdin.buffer.read(most + 1)
    if len(content) > most:
        raise InputError(f"{name}: expected an image of at most {most:,} bytes, got more")
    return content


def count_frames(sources: Sequence[Source]) -> int:
    """How many there will be, as far as the videos say."""
    videos = [one.path for one in sources if one.video and one.path is not None]
    return len(sources) - len(videos) + sum(map(_told_frames, videos))


def _told_frames(path: Path) -> int:
    capture = _opened(path)
    told = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(told, 0)


def _opened(path: Path) -> cv2.VideoCapture:
    # Decoders write of a damaged file to stderr, without its name.
    with overheard():
        return cv2.VideoCapture(str(path))


def _video_frames(source: Source, path: Path, problems: list[Problem]) -> Iterator[Frame]:
    capture = _opened(path)
    try:
        rate, told = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number = 0
        while True:
            good, pixels = capture.read()
            if not good:
                break
            number += 1
            rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
            yield Frame(source, np.asarray(rgb, np.uint8), number, max(rate, 0.0))
        if not number:
            raise InputError(f"{path}: expected a video that OpenCV can decode, got other bytes")
        if number < told:
            why = f"only {number} of {told} frames could be read"
            problems.append(Problem(source.name, why))
    finally:
        capture.release()
