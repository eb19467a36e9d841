"""What is annotated in the images that are judged, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int

from flaxyolo.base.detections import Detections, check_boxes, check_places, xyxy_to_xywh

if TYPE_CHECKING:
    # Only for types: scoring a file must not wait for the readers and JAX to be imported.
    import flaxyolo.data.sources


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """All annotated objects, sorted by image and in the order of their file; a column a field."""

    image_ids: tuple[int | str, ...]
    """Of all images, also of those without objects; as in the annotation file."""
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    """The annotation file's id of each class."""
    image: Int[np.ndarray, " m"]
    """Index into `image_ids`."""
    labels: Int[np.ndarray, " m"]
    """Index into `class_names`."""
    xywh: Float64[np.ndarray, "m 4"]
    """Left, top, width, height in original pixels."""
    areas: Float64[np.ndarray, " m"]
    """The annotation's own area."""
    crowd: Bool[np.ndarray, " m"]

    def __post_init__(self):
        check_boxes("ground truth", self.xywh, areas=self.areas, crowd=self.crowd)
        check_places("ground truth", len(self.xywh), image=self.image, labels=self.labels)
        if (np.diff(self.image) < 0).any():
            raise ValueError("ground truth: expected the objects sorted by image")

    def check(self, detections: Detections) -> None:
        """A ValueError where detections are of images or classes that are not there."""
        for name, places, known in (
            ("images", detections.image, self.image_ids),
            ("classes", detections.labels, self.class_names),
        ):
            if len(places) and places.max() >= len(known):
                raise ValueError(
                    f"detections: expected those of {len(known)} {name}, got one of number "
                    f"{places.max()}, counted from 0"
                )


def ground_truth(
    examples: "Sequence[flaxyolo.data.sources.Example]",
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> GroundTruth:
    """The objects of examples: boxes in original pixels, areas and crowds as given."""
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0), np.zeros(0, bool)
    parts = [(one.boxes, one.labels, one.areas, one.crowd) for one in examples]
    boxes, labels, areas, crowd = map(np.concatenate, zip(none, *parts, strict=True))
    return GroundTruth(
        image_ids=tuple(example.image_id for example in examples),
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        image=np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts]),
        labels=labels,
        xywh=xyxy_to_xywh(boxes),
        areas=areas,
        crowd=crowd,
    )


def places(ids: Sequence[int | str]) -> Int[np.ndarray, " n"]:
    """The place of each id once all are sorted, from 0 on."""
    order = sorted(range(len(ids)), key=lambda index: ids[index])
    found = np.empty(len(ids), np.int64)
    found[order] = np.arange(len(ids))
    return found
