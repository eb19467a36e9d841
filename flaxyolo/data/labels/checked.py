"""One split while the audit goes through it: what is kept, what is mended, what was found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from flaxyolo.base.words import one_line, shortened
from flaxyolo.data.labels.findings import KINDS
from flaxyolo.data.records import Records

LONGEST = 1000
"""Letters of a place that is named, and of what is found there."""


class Found(NamedTuple):
    """A finding by positions in the records."""

    kind: str
    rows: Int64[np.ndarray, " k"]
    """Boxes or images, as the kind says."""
    images_out: Int64[np.ndarray, " i"]
    boxes_out: Int64[np.ndarray, " b"]
    more: Callable[[int], str]
    """What else there is to say of one of the rows."""


@dataclass(eq=False)
class Checked:
    """One split after the audit; one entry for each image and box that the source lists."""

    split: str
    records: Records
    image_ids: list[int]
    heights: Int64[np.ndarray, " i"]
    """As training sees the image, a rotation applied if `oriented`."""
    widths: Int64[np.ndarray, " i"]
    oriented: Bool[np.ndarray, " i"]
    keep_image: Bool[np.ndarray, " i"]
    image: Int64[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]
    areas: Float64[np.ndarray, " n"]
    keep: Bool[np.ndarray, " n"]
    found: list[Found]

    def note(self, kind: str, rows: np.ndarray, more: Callable[[int], str] | None = None) -> None:
        """Count the rows; nothing leaves."""
        nothing = np.zeros(0, np.int64)
        self._add(kind, rows, nothing, nothing, more)

    def drop_boxes(self, kind: str, mask: Bool[np.ndarray, " n"]) -> None:
        """Leave out the boxes that are still there."""
        rows = np.flatnonzero(self.keep & mask)
        self.keep[rows] = False
        self._add(kind, rows, np.zeros(0, np.int64), rows, None)

    def drop_images(
        self,
        kind: str,
        rows: np.ndarray,
        more: Callable[[int], str] | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> None:
        """Leave out the images `out` (all rows if None) that are still there, and their boxes."""
        out = rows if out is None else out
        out = out[self.keep_image[out]]
        self.keep_image[out] = False
        # One more for boxes of unknown images, which say -1.
        gone = np.zeros(len(self.keep_image) + 1, bool)
        gone[out] = True
        boxes = np.flatnonzero(self.keep & gone[self.image])
        self.keep[boxes] = False
        self._add(kind, rows, out, boxes, more)

    def place(self, found: Found, row: int) -> str:
        """File and record of a row, and what is found there."""
        of_boxes = KINDS[found.kind].of == "boxes"
        where = self.records.where(row) if of_boxes else self.records.images[row].where
        told = shortened(where, LONGEST) + shortened(found.more(row), LONGEST)
        return shortened(one_line(told), 2 * LONGEST)

    def _add(
        self,
        kind: str,
        rows: np.ndarray,
        images: np.ndarray,
        boxes: np.ndarray,
        more: Callable[[int], str] | None,
    ) -> None:
        if len(rows):
            self.found.append(Found(kind, rows, images, boxes, more or (lambda row: "")))


def start_check(split: str, records: Records) -> Checked:
    """A split of which nothing is known yet."""
    images = len(records.images)
    return Checked(
        split=split,
        records=records,
        image_ids=[listed.image_id for listed in records.images],
        heights=np.zeros(images, np.int64),
        widths=np.zeros(images, np.int64),
        oriented=np.zeros(images, bool),
        keep_image=np.ones(images, bool),
        image=records.image.copy(),
        boxes=records.boxes.copy(),
        areas=records.areas.copy(),
        keep=np.ones(len(records.image), bool),
        found=[],
    )
