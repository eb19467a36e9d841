"""Detections as columns: one form from the network to scoring, drawing and the disk."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from flaxyolo.base.drawing import draw_boxes
from flaxyolo.base.errors import InputError
from flaxyolo.base.notebook import cell
from flaxyolo.base.picture import Picture
from flaxyolo.base.pixels import rgb_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 3
"""Classes in the line that stands for detections."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one or several images, in pixels of the originals; a column a field.

    Boxes are kept as COCO keeps them: corners in float32 come back from that to the bit, while the
    sizes that a result file gives would not come back from corners.
    """

    xywh: Float64[np.ndarray, "n 4"]
    """Left, top, width, height."""
    scores: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    """Index into the class names."""
    image: Int[np.ndarray, " n"]
    """Place among the images that are judged; 0 where there is one image."""
    class_names: tuple[str, ...] = ()
    """Of all classes; empty where they are not known."""
    picture: Picture | None = None
    """The one image that these are of, where it is known."""

    def __post_init__(self):
        check_boxes("detections", self.xywh, scores=self.scores)
        check_places("detections", len(self.xywh), labels=self.labels, image=self.image)

    @classmethod
    def from_corners(
        cls,
        boxes: Float[np.ndarray, "n 4"],
        scores: Float[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
        image: Int[np.ndarray, " n"] | None = None,
    ) -> "Detections":
        """From xyxy boxes; of one image unless `image` says."""
        places = np.zeros(len(boxes), np.int64) if image is None else image
        return cls(xyxy_to_xywh(boxes), scores, labels, places)

    @classmethod
    def joined(cls, parts: "Sequence[Detections]") -> "Detections":
        """Those of several images, a part each: `image` becomes the place of the part."""
        none = cls.from_corners(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        )
        return cls(
            np.concatenate([part.xywh for part in (none, *parts)]),
            np.concatenate([part.scores for part in (none, *parts)]),
            np.concatenate([part.labels for part in (none, *parts)]),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            parts[0].class_names if parts else (),
        )

    @cached_property
    def boxes(self) -> Float32[np.ndarray, "n 4"]:
        """Corners xyxy."""
        return xywh_to_xyxy(self.xywh).astype(np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each; its number as text where the names are not known."""
        return tuple(
            self.class_names[label] if self.class_names else str(label)
            for label in self.labels.tolist()
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        if not len(self):
            return "<no detections>"
        counts = self.counts
        told = ", ".join(f"{name:.40} ({count})" for name, count in list(counts.items())[:SHOWN])
        more = ", ..." if len(counts) > SHOWN else ""
        word = "detection" if len(self) == 1 else "detections"
        return f"<{len(self)} {word}: {told}{more}; best score {self.scores.max():.2f}>"

    def _repr_html_(self) -> str:
        picture = None if self._pixels is None else self.plot()
        rows = list(zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True))
        return cell(repr(self), rows, picture)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each class that was found, most first."""
        return dict(Counter(self.names).most_common())

    def plot(self, image: Any = None) -> "Image":
        """The image as a PIL image in its own pixels, with boxes, classes and scores drawn on it.

        Without `image` it is the one that the detector was given, if that is still at hand.
        """
        if self.image.any():
            raise InputError(
                "expected detections of one image to plot, got those of several; take one's by "
                ".part(found.image == 0)"
            )
        pixels = self._pixels if image is None else rgb_pixels(image)
        if pixels is None:
            raise InputError(
                "the image of these detections is no longer at hand: give it, as .plot(image)"
            )
        # Best last, so that it lies on top.
        order = np.argsort(self.scores, kind="stable")
        names, scores = self.names, self.scores.tolist()
        captions = [f"{names[place]} {scores[place]:.2f}" for place in order.tolist()]
        most = len(self.class_names) or int(self.labels.max(initial=0)) + 1
        return draw_boxes(pixels, self.boxes[order], self.labels[order], captions, most)

    @property
    def _pixels(self) -> "UInt8[np.ndarray, 'h w 3'] | None":
        return None if self.picture is None or self.image.any() else self.picture.pixels()

    def to_coco(
        self,
        image_id: int | str | Sequence[int | str] = 0,
        category_ids: Sequence[int] | None = None,
    ) -> list[dict[str, Any]]:
        """COCO's results; `bbox` is left, top, width, height in pixels.

        `image_id` is that of the image, or a sequence with one for each of several; `category_ids`
        has one for each class, by default 1, 2, ...
        """
        ids = [image_id] if isinstance(image_id, int | str) else list(image_id)
        _check_ids("image_id", len(ids), self.image)
        if category_ids is not None:
            _check_ids("category_ids", len(category_ids), self.labels)
        return [
            {
                "image_id": ids[place],
                "category_id": label + 1 if category_ids is None else int(category_ids[label]),
                "bbox": box,
                "score": score,
            }
            for place, label, box, score in zip(
                self.image.tolist(),
                self.labels.tolist(),
                self.xywh.tolist(),
                self.scores.tolist(),
                strict=True,
            )
        ]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, the names in `data["class_name"]`; of Roboflow's library,
        which `pip install supervision` installs.
        """
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                f"to_supervision needs the library supervision ({error}): pip install supervision"
            ) from None
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(np.int64),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def part(self, chosen: Bool[np.ndarray, " n"] | Int[np.ndarray, " k"]) -> "Detections":
        """Those that a mask or indices choose, in the order of these."""
        return replace(
            self,
            xywh=self.xywh[chosen],
            scores=self.scores[chosen],
            labels=self.labels[chosen],
            image=self.image[chosen],
        )


def xyxy_to_xywh(boxes: Float[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 4"]:
    """COCO's boxes (left, top, width, height), in float64, from corners."""
    exact = boxes.astype(np.float64)
    return np.concatenate([exact[..., :2], exact[..., 2:] - exact[..., :2]], -1)


def xywh_to_xyxy(boxes: Float64[np.ndarray, "*n 4"]) -> Float64[np.ndarray, "*n 4"]:
    """Corners from COCO's boxes."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def check_boxes(what: str, xywh: np.ndarray, **numbers: np.ndarray) -> None:
    """A ValueError where a column has another length; InputError where a value is no number."""
    if xywh.ndim != 2 or xywh.shape[1] != 4:
        raise ValueError(f"{what}: expected boxes of shape (n, 4), got {xywh.shape}")
    if not (good := np.isfinite(xywh).all(1) & (xywh[:, 2:] >= 0).all(1)).all():
        row = int(good.argmin())
        raise InputError(
            f"{what}: row {row}: expected a box of 4 finite numbers [x, y, width, height] with no "
            f"negative size, got {xywh[row].tolist()}"
        )
    for name, column in numbers.items():
        _check_length(what, len(xywh), name, column)
        if not (good := np.isfinite(column)).all():
            row = int(good.argmin())
            raise InputError(f"{what}: row {row}: expected finite {name}, got {column[row]}")


def check_places(what: str, rows: int, **places: np.ndarray) -> None:
    """A ValueError where a column of indices has another length, or holds what is no index."""
    for name, column in places.items():
        _check_length(what, rows, name, column)
        if not np.issubdtype(column.dtype, np.integer) or (column < 0).any():
            raise ValueError(f"{what}: expected {name} as integers from 0 on, got {column!r:.60}")


def _check_ids(name: str, given: int, used: np.ndarray) -> None:
    if (needed := int(used.max(initial=-1)) + 1) > given:
        raise InputError(f"to_coco: expected {name} for {needed}, got {given}")


def _check_length(what: str, rows: int, name: str, column: np.ndarray) -> None:
    if column.shape != (rows,):
        raise ValueError(f"{what}: expected {name} of {rows} boxes, got shape {column.shape}")
