"""What a source says of its images and boxes before anything is checked: the audit's input."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8


@runtime_checkable
class Encoded(Protocol):
    """An image file that lies inside a larger one, such as a record of a TFDS data set."""

    @property
    def name(self) -> str:
        """How a message names it."""
        ...

    def read(self) -> bytes:
        """The bytes of the image file (JPEG, PNG)."""
        ...


Image = Path | Encoded | UInt8[np.ndarray, "_ _ 3"]
"""A file, a file inside another, or RGB pixels; the sizes of several need not agree."""


@dataclass(frozen=True, eq=False)
class Listed:
    """One image as its source lists it."""

    where: str
    """File and record, for messages: `instances_train.json: image 17`."""
    image_id: int
    image: Image
    height: int | None = None
    """As the source says; None where it says nothing."""
    width: int | None = None


class Noted(NamedTuple):
    """What a reader has found wrong by itself, because the columns have no place for it."""

    kind: str
    """A key of `findings.KINDS`."""
    rows: Int64[np.ndarray, " k"]
    """Positions in the boxes, or in the images, as the kind says."""


class Aside(NamedTuple):
    """What a reader has found beside images and boxes: files, classes."""

    kind: str
    """A key of `findings.KINDS`."""
    places: tuple[str, ...]
    """Each of them, as a message names it."""


@dataclass(frozen=True, eq=False)
class Records:
    """One split: its images in order, and all their boxes in columns."""

    images: tuple[Listed, ...]
    image: Int64[np.ndarray, " n"]
    """Position in `images`; -1 where the source names an image that it does not list."""
    boxes: Float64[np.ndarray, "n 4"]
    """xyxy in pixels of the image, not clipped; NaN where it is no number."""
    labels: Int64[np.ndarray, " n"]
    """Index into the class names; -1 where there is no such class."""
    areas: Float64[np.ndarray, " n"]
    """The annotation's own area in square pixels; NaN where it has none."""
    crowd: Bool[np.ndarray, " n"]
    where: Callable[[int], str]
    """File and record of a box, and what it says: `train.json: annotation 3: bbox [...]`."""
    relative: bool = False
    """Whether the boxes are shares of width and height, 0 to 1, which the audit makes pixels."""
    noted: tuple[Noted, ...] = ()
    asides: tuple[Aside, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as it was found."""

    name: str
    """As in `--data`."""
    train: Records
    val: Records | None
    """None where the source has no validation split."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The source's own id of each class."""
    fingerprint: str
    """sha256 of the annotations, and of name, size and time of every image file."""
    formerly: tuple[str, ...] = ()
    """What earlier versions of the reader gave the same files for a fingerprint."""
    mirror: bool = True
    """Whether a mirrored object is still one of its class; a digit is not."""


class Fingerprint:
    """sha256 of what a source holds, under the version of its reader and under earlier ones."""

    def __init__(self, head: str, version: int, more: str = ""):
        versions = range(version, 0, -1)
        self._digests = [hashlib.sha256(f"{head} {each}{more}".encode()) for each in versions]

    def update(self, content: bytes) -> None:
        """Add what comes next."""
        for digest in self._digests:
            digest.update(content)

    @property
    def now(self) -> str:
        """Of the version that reads it."""
        return self._digests[0].hexdigest()

    @property
    def formerly(self) -> tuple[str, ...]:
        """Of the versions before, the last first."""
        return tuple(digest.hexdigest() for digest in self._digests[1:])
