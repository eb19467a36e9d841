"""Checks of the data before a run: values of the labels, and boxes against pixels."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from flaxyolo.checks.check import Check
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Example

BORDER = 1.0
"""Pixels of the network's input by which a box may pass the border of its picture."""

FITTED_IMAGES = 100
"""Images whose boxes are compared with their pixels."""
FEWEST_IMAGES = 8
"""Below this many images with boxes the comparison says nothing."""
PLACES = 4
"""Random places that a box is compared with."""
CLEAR = 5.0
"""Standard errors, over images, from which a difference is no accident."""


class Boxes(NamedTuple):
    """All boxes of a split, with the place of each."""

    boxes: Float32[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    """Row of its image."""
    content: Float32[np.ndarray, "n 4"]
    """The picture that it lies in."""


def all_boxes(pixels: Pixels) -> Boxes:
    """The valid boxes of a split, in order."""
    image, _ = np.nonzero(pixels.valid)
    valid = np.asarray(pixels.valid)
    return Boxes(pixels.boxes[valid], pixels.labels[valid], image, pixels.content[image])


def check_labels(
    pixels: Pixels, examples: Sequence[Example], class_names: Sequence[str], num_classes: int
) -> Check:
    """Coordinates are numbers and corners in order inside the picture; classes are known ones."""
    fail = partial(Check, "labels", False)
    boxes, labels, image, content = all_boxes(pixels)
    if len(class_names) != num_classes:
        return fail(
            f"{len(class_names)} class names, and a network of {num_classes} classes",
            "detector.num_classes is not that of the data",
        )
    if not len(boxes):
        return fail("no box in any image", "all annotations are crowds, or none was read")

    def first(wrong: np.ndarray) -> str:
        row = int(np.argmax(wrong))
        numbers = ", ".join(f"{value:g}" for value in boxes[row])
        where = examples[image[row]].image_id
        return f"the first in image {where}: [{numbers}], class {labels[row]}"

    nan = np.logical_not(np.isfinite(boxes).all(1))
    if nan.any():
        return fail(
            f"{nan.sum()} of {len(boxes)} boxes with a coordinate that is no number, {first(nan)}",
            "NaN or infinity in the annotations, which makes the loss NaN; correct or repair them",
        )
    stray = (labels < 0) | (labels >= num_classes)
    if stray.any():
        low, high = int(labels.min()), int(labels.max())
        off = "off by one: " if (low, high) in ((1, num_classes), (-1, num_classes - 2)) else ""
        return fail(
            f"class ids {low} to {high} with {num_classes} classes, {stray.sum()} of "
            f"{len(labels)} outside 0 to {num_classes - 1}, {first(stray)}",
            f"class ids are {off}not counted from 0 in the order of the class names",
        )
    wrong = ~sound(boxes, content)
    if wrong.any():
        likely = likely_mistake(pixels) or "wrong boxes in the annotations"
        return fail(
            f"{wrong.sum()} of {len(boxes)} boxes have corners out of order or lie outside their "
            f"picture, {first(wrong)}",
            likely,
        )
    unused = [
        str(class_names[label]) for label in range(num_classes) if not (labels == label).any()
    ]
    note = f"; no box of {', '.join(unused[:5])}" if unused else ""
    return Check(
        "labels",
        True,
        f"{len(boxes)} boxes in {len(pixels.images)} images are numbers, in order and inside; "
        f"class ids {labels.min()} to {labels.max()} of {num_classes}{note}",
    )


def sound(
    boxes: Float[np.ndarray, "n 4"], content: Float[np.ndarray, "n 4"]
) -> Bool[np.ndarray, " n"]:
    """Boxes whose corners are in order and inside their picture."""
    ordered = (boxes[:, 2:] > boxes[:, :2]).all(1)
    inside = (boxes[:, :2] >= content[:, :2] - BORDER).all(1)
    ended = (boxes[:, 2:] <= content[:, 2:] + BORDER).all(1)
    return np.asarray(ordered & inside & ended)


def readings(
    boxes: Float[np.ndarray, "n 4"], content: Float[np.ndarray, "n 4"]
) -> dict[str, Float[np.ndarray, "n 4"]]:
    """What the boxes should have been, had one of the usual mistakes been made; by the mistake."""
    offset = np.tile(content[:, :2], 2)
    own = boxes - offset
    low, high = own[:, :2], own[:, 2:]
    half = (high - low) / 2
    width, height = (content[:, 2:] - content[:, :2]).T[:, :, None]

    def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.concatenate([first, second], 1) + offset

    left, top, right, bottom = (own[:, side : side + 1] for side in range(4))
    return {
        "x, y, width, height are read as two corners (xywh as xyxy)": joined(low, low + high),
        "two corners are read as x, y, width, height (xyxy as xywh)": joined(low, high - low),
        "x and y of the boxes are swapped": joined(low[:, ::-1], high[:, ::-1]),
        "x and y of the boxes are swapped after letterboxing": boxes[:, [1, 0, 3, 2]],
        "the letterbox's offset is missing from the boxes": boxes + offset,
        "the letterbox's offset is added to the boxes twice": boxes - offset,
        "centre, width, height are read as two corners": joined(low - high / 2, low + high / 2),
        "the centre of a box is taken for its corner": joined(low - half, high - half),
        "the corner of a box is taken for its centre": joined(low + half, high + half),
        "the images are mirrored and the boxes are not": joined(
            np.concatenate([width - right, top], 1), np.concatenate([width - left, bottom], 1)
        ),
        "the images are turned upside down and the boxes are not": joined(
            np.concatenate([left, height - bottom], 1), np.concatenate([right, height - top], 1)
        ),
    }


def likely_mistake(pixels: Pixels) -> str | None:
    """The mistake whose correction makes (nearly) all boxes sound, and fits the pixels best."""
    given = all_boxes(pixels)
    share = {
        mistake: float(sound(other, given.content).mean())
        for mistake, other in readings(given.boxes, given.content).items()
    }
    best = max(share.values())
    if best < 0.99 or best <= float(sound(given.boxes, given.content).mean()):
        return None
    fits = standing_out(pixels, [mistake for mistake in share if share[mistake] >= 0.99])
    return max(fits, key=lambda mistake: float(fits[mistake].sum()))


def check_objects(pixels: Pixels) -> Check:
    """Boxes stand out from what surrounds them, more than what the usual mistakes would make them.

    A mistake that leaves boxes inside their picture shows in nothing but the pixels.
    """
    given = all_boxes(pixels)
    names = list(readings(given.boxes[:1], given.content[:1]))
    fits = standing_out(pixels, ["", *names])
    own = fits[""]
    if len(own) < FEWEST_IMAGES:
        return Check("objects", True, f"only {len(own)} images with boxes: too few to tell")
    measured = (
        f"contrast of boxes to their surroundings {own.mean():+.3f} above that of random places "
        f"of the same size in the same image ({len(own)} images)"
    )
    name = max(names, key=lambda name: float(fits[name].mean()))
    other = fits[name]
    better = in_errors(other - own) > CLEAR and in_errors(other) > CLEAR
    if better and other.mean() > 2 * own.mean():
        return Check("objects", False, f"{measured}; {other.mean():+.3f} if read otherwise", name)
    return Check("objects", True, measured)


def in_errors(values: Float[np.ndarray, " n"]) -> float:
    """A mean in standard errors of it; 0 where all values are the same."""
    error = float(values.std()) / np.sqrt(max(len(values) - 1, 1))
    return float(values.mean()) / error if error > 0 else 0.0


def standing_out(pixels: Pixels, names: Sequence[str]) -> dict[str, Float[np.ndarray, " n"]]:
    """For each image the mean contrast of its boxes, above that of the same boxes elsewhere.

    By the name of a reading of the boxes; "" is the boxes as given.
    """
    rows = np.flatnonzero(np.asarray(pixels.valid).any(1))
    rows = rows[np.linspace(0, len(rows) - 1, min(FITTED_IMAGES, len(rows))).astype(int)]
    found: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(0)
    for row in rows:
        content = pixels.content[row]
        left, top, right, bottom = content.round().astype(int)
        picture = np.asarray(pixels.images[row][top:bottom, left:right], np.float64)
        sums = np.zeros((picture.shape[0] + 1, picture.shape[1] + 1, 3))
        sums[1:, 1:] = picture.cumsum(0).cumsum(1)
        spread = max(float(np.linalg.norm(picture.std((0, 1)))), 1.0)
        boxes = pixels.boxes[row][pixels.valid[row]]
        boxes = boxes[np.isfinite(boxes).all(1)]
        if not len(boxes):
            continue
        others = {"": boxes} | readings(boxes, np.tile(content, (len(boxes), 1)))
        for name in names:
            placed = others[name] - np.tile([left, top], 2)
            found[name].append(float(extra_contrast(sums, placed, rng).mean()) / spread)
    return {name: np.array(values) for name, values in found.items()}


def extra_contrast(
    sums: Float[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"], rng: np.random.Generator
) -> Float[np.ndarray, " n"]:
    """Contrast of each box less its mean over random places; `sums` are those of a picture."""
    limit = np.array([sums.shape[1] - 1, sums.shape[0] - 1] * 2)
    boxes = np.clip(np.rint(boxes), 0, limit)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    low = np.floor(rng.random((PLACES, len(boxes), 2)) * (limit[:2] - size + 1))
    elsewhere = np.concatenate([low, low + size], -1).reshape(-1, 4)
    return contrast(sums, boxes) - contrast(sums, elsewhere).reshape(PLACES, -1).mean(0)


def contrast(
    sums: Float[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, " n"]:
    """Distance of the mean colour of a box to that of a ring around it; 0 where one is missing."""
    limit = np.array([sums.shape[1] - 1, sums.shape[0] - 1] * 2)
    margin = np.maximum(np.rint((boxes[:, 2:] - boxes[:, :2]) / 4), 2)
    outer = np.clip(boxes + np.concatenate([-margin, margin], 1), 0, limit)
    totals, areas = [], []
    for box in (boxes, outer):
        left, top, right, bottom = box.astype(int).T
        totals.append(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
        areas.append((right - left) * (bottom - top))
    inner, ring = areas[0], areas[1] - areas[0]
    shown = ((boxes[:, 2:] - boxes[:, :2]) >= 2).all(1) & (ring > 0)
    inside = totals[0] / np.maximum(inner, 1)[:, None]
    around = (totals[1] - totals[0]) / np.maximum(ring, 1)[:, None]
    return np.where(shown, np.linalg.norm(inside - around, axis=1), 0)
