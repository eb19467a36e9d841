"""Checks of letterbox and augmentation: how pixels are moved, told from the pixels alone.

A picture is painted with ramps, red along x and green along y, and given to the real transform.
The colours that come out say where each pixel came from, hence where a box must lie.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flaxyolo.base import boxes as geometry
from flaxyolo.checks.check import Check
from flaxyolo.checks.labels import readings
from flaxyolo.config import Augmentation
from flaxyolo.data.augment import DevicePixels, augment
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Example

MIN_IOU = 0.98
"""Least overlap of a box with itself after a transform and back."""
ROUNDING = 0.1
"""Pixels by which corners may be off all the same: a tiny box loses overlap by rounding."""

MOST_SIZES = 24
"""Sizes of image whose letterbox is told from its pixels; the most frequent ones."""
MOST_EXAMPLES = 4000
"""Images whose boxes are taken there and back."""

RAMPS = 8
"""Images that the augmentation moves for its check; each has a shade of blue of its own."""
RAMP_BOXES = 16
"""Boxes of each, the largest."""
ROUNDS = 3
"""Draws of the augmentation for each of these images, with and without mosaic."""
LEAST_TILE = 32
"""Pixels of a picture that must be seen, each way, to tell how it was moved."""
LEAST_SIDE = 4.0
"""Boxes with shorter sides are left out: the augmentation may drop them."""
SHADE = 13
"""Steps of blue between images; all are below the grey outside."""
GOLDEN = (5**0.5 - 1) / 2
MOST_NOISE = 2.0
"""Levels of colour by which pixels may differ from what a move explains: more is no one move."""


class Move(NamedTuple):
    """`output = matrix @ source + shift`, both in pixels."""

    matrix: Float[np.ndarray, "2 2"]
    shift: Float[np.ndarray, "2"]

    def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
        """Boxes where the pixels under them went."""
        corners = boxes.astype(np.float64).reshape(-1, 2, 2) @ self.matrix.T + self.shift
        return np.concatenate([corners.min(1), corners.max(1)], 1)


def ramps(height: int, width: int, blue: int) -> UInt8[np.ndarray, "h w 3"]:
    """An image whose red says x and whose green says y, in steps of 1/255 of the image.

    Each row rounds x another way, and each column y, so that the mean is exact.
    """
    picture = np.full((height, width, 3), blue, np.uint8)
    x, y = (np.arange(width) + 0.5) * (255 / width), (np.arange(height) + 0.5) * (255 / height)
    row_phase, column_phase = np.arange(height) * GOLDEN % 1, np.arange(width) * GOLDEN % 1
    picture[..., 0] = np.floor(x[None] + row_phase[:, None])
    picture[..., 1] = np.floor(y[:, None] + column_phase[None])
    return picture


def told_move(
    colours: Float[np.ndarray, "h w 3"], left: int, top: int, source: tuple[int, int]
) -> Move | None:
    """How ramps of a `source` (height, width) were moved, from a part of the output.

    `left` and `top` are where the part lies. None where no single move explains the colours.
    """
    height, width = source
    y, x = np.mgrid[: colours.shape[0], : colours.shape[1]]
    places = np.stack([x.ravel() + left + 0.5, y.ravel() + top + 0.5, np.ones(x.size)], 1)
    levels = colours[..., :2].reshape(-1, 2)
    solution = np.linalg.lstsq(places, levels, rcond=None)[0]
    if np.sqrt(((places @ solution - levels) ** 2).mean()) > MOST_NOISE:
        return None
    solution = solution * (np.array([width, height]) / 255)
    back = solution[:2].T
    if abs(np.linalg.det(back)) < 1e-6:
        return None
    matrix = np.linalg.inv(back)
    return Move(matrix, -matrix @ solution[2])


def same(
    a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "n 4"]
) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Overlap of pairs of boxes, and whether they are the same."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    shared = np.maximum(high - low, 0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    overlap = shared / np.where(union > 0, union, 1)
    return overlap, (overlap >= MIN_IOU) | (np.abs(a - b).max(1) <= ROUNDING)


def mistake(
    expected: Float[np.ndarray, "n 4"],
    got: Float[np.ndarray, "n 4"],
    content: Float[np.ndarray, "n 4"],
    otherwise: str,
) -> str:
    """The usual mistake that makes `got` of `expected`."""
    for name, corrected in readings(got, content).items():
        if same(expected, corrected)[1].mean() > 0.9:
            return name
    return otherwise


def check_transforms(
    pixels: Pixels, examples: Sequence[Example], augmentation: Augmentation
) -> Check:
    """Boxes go where their pixels go, through letterbox and augmentation, and come back."""
    letterboxed = check_letterbox(pixels, examples)
    if not letterboxed.passed:
        return letterboxed
    augmented = check_augmentation(pixels, augmentation)
    return replace(augmented, measured=f"{letterboxed.measured}; {augmented.measured}")


def check_letterbox(pixels: Pixels, examples: Sequence[Example]) -> Check:
    """Original boxes against the boxes of the network's input, there and back."""
    fail = partial(Check, "transforms", False)
    size = pixels.images.shape[1]
    if len(examples) != len(pixels.images):
        return fail(
            f"{len(pixels.images)} letterboxed images of {len(examples)}",
            "the pixels are those of another split or data set",
        )
    sizes = Counter((example.height, example.width) for example in examples)
    moves = {
        (height, width): letterbox_move(height, width, size)
        for (height, width), _ in sizes.most_common(MOST_SIZES)
    }
    rows = np.linspace(0, len(examples) - 1, min(MOST_EXAMPLES, len(examples))).astype(int)
    lowest, count = 1.0, 0
    for row in np.unique(rows):
        example = examples[row]
        height, width = example.height, example.width
        original = example.boxes[~example.crowd]
        stored = pixels.boxes[row][pixels.valid[row]]
        if len(original) != len(stored):
            return fail(
                f"image {example.image_id}: {len(stored)} boxes in the network's input, "
                f"{len(original)} in the annotations",
                "boxes are lost or doubled on the way, or the cache is of other data",
            )
        place = geometry.letterbox(height, width, size)
        move = moves.get((height, width))
        if move is None:
            move = Move(
                np.diag([place.scale_x, place.scale_y]), np.array([place.pad_x, place.pad_y])
            )
        expected = move.boxes(original)
        content = np.tile(pixels.content[row], (len(original), 1))
        back = geometry.unletterbox_boxes(stored, place, height, width)
        pairs = (
            (expected, stored, "the boxes are letterboxed by another map than the pixels"),
            (original, back, "the inverse of the letterbox is not its inverse"),
        )
        for wanted, got, otherwise in pairs:
            overlap, equal = same(wanted, got)
            count, lowest = count + len(overlap), min(lowest, overlap.min(initial=1.0))
            if not equal.all():
                worst = int(np.argmin(np.where(equal, 1.0, overlap)))
                return fail(
                    f"letterbox to {size} px: IoU {overlap[worst]:.3f} in image "
                    f"{example.image_id} ({width} x {height}), expected {shown(wanted[worst])}, "
                    f"got {shown(got[worst])}",
                    mistake(wanted, got, content, otherwise),
                )
    return Check(
        "transforms",
        True,
        f"letterbox of {min(len(sizes), MOST_SIZES)} sizes of image told from pixels, {count} "
        f"boxes there and back: IoU at least {lowest:.4f}",
    )


def letterbox_move(height: int, width: int, size: int) -> Move | None:
    """How `letterbox_image` moves the pixels of such an image; None where too few are seen."""
    painted = ramps(height, width, 0)
    square = geometry.letterbox_image(painted, size).astype(np.float64)
    # The ramps' own blue is far from the grey outside.
    rows, columns = np.nonzero(square[..., 2] < geometry.GREY / 2)
    if not len(rows):
        return None
    # Two pixels from the border, where the resampling has nothing outside to blend with.
    left, top = int(columns.min()) + 2, int(rows.min()) + 2
    right, bottom = int(columns.max()) - 1, int(rows.max()) - 1
    if right - left < LEAST_TILE or bottom - top < LEAST_TILE:
        return None
    # Resampled bytes are rounded upwards at a half: ramps that fall err the other way.
    falling = geometry.letterbox_image(255 - painted, size).astype(np.float64)
    said = (square + 255 - falling) / 2
    return told_move(said[top:bottom, left:right], left, top, (height, width))


def check_augmentation(pixels: Pixels, augmentation: Augmentation) -> Check:
    """Boxes that are wholly seen after the augmentation lie where their pixels went."""
    plain = replace(augmentation, hue=0.0, saturation=0.0, value=0.0)
    source = ramp_pixels(pixels)
    size, slots = pixels.images.shape[1], 4 * RAMP_BOXES
    indices = jnp.arange(len(source.images))
    mirrored, expected, got, content = 0, [], [], []
    for number in range(2 * ROUNDS):
        mosaic = number % 2 == 0 and augmentation.mosaic > 0
        key = jax.random.key(number)
        made = moved(source, indices, key, plain, jnp.asarray(mosaic), slots=slots)
        for output in zip(*(np.asarray(field) for field in made[:4]), strict=True):
            tiles = seen_tiles(source, output[0])
            if not tiles and not mosaic:
                return Check(
                    "transforms",
                    False,
                    "augmentation: an image is not scaled, shifted and mirrored as one",
                    "the augmentation reads its pixels from wrong places",
                )
            for tile in tiles:
                for box, moved_box in followed_boxes(source, tile, *output[1:]):
                    expected.append(box)
                    got.append(moved_box)
                    content.append(np.asarray(source.content[tile.number]))
                    mirrored += tile.move.matrix[0, 0] < 0
    if not expected:
        return Check(
            "transforms", True, "augmentation: no box is large enough, or seen, to be followed"
        )
    wanted, found, pictures = np.stack(expected), np.stack(got), np.stack(content)
    overlap, equal = same(wanted, found)
    lowest, count = float(overlap.min()), len(overlap)
    if not equal.all():
        worst = int(np.argmin(np.where(equal, 1.0, overlap)))
        square = np.tile(np.array([0, 0, size, size], np.float64), (count, 1))
        otherwise = "boxes and pixels are augmented by different maps"
        return Check(
            "transforms",
            False,
            f"augmentation: {(~equal).sum()} of {count} boxes do not lie where their pixels went, "
            f"IoU {overlap[worst]:.3f}: expected {shown(wanted[worst])}, got {shown(found[worst])}",
            mistake(wanted, found, square, mistake(wanted, found, pictures, otherwise)),
        )
    return Check(
        "transforms",
        True,
        f"augmentation: {count} boxes followed by their pixels ({mirrored} mirrored): IoU at "
        f"least {lowest:.4f}",
    )


moved = jax.jit(augment, static_argnames=("strengths", "slots"))
"""The real augmentation, compiled for the ramps."""


def ramp_pixels(pixels: Pixels) -> DevicePixels:
    """Ramps in place of some images of the data, with their largest boxes; labels number these."""
    rows = np.flatnonzero(np.asarray(pixels.valid).any(1))
    rows = rows[np.linspace(0, len(rows) - 1, min(RAMPS, len(rows))).astype(int)]
    size = pixels.images.shape[1]
    boxes = np.zeros((len(rows), RAMP_BOXES, 4), np.float32)
    valid = np.zeros((len(rows), RAMP_BOXES), bool)
    for number, row in enumerate(rows):
        own = pixels.boxes[row][pixels.valid[row]]
        sides = (own[:, 2:] - own[:, :2]).min(1)
        chosen = np.argsort(-sides, kind="stable")[:RAMP_BOXES]
        chosen = chosen[sides[chosen] >= LEAST_SIDE]
        boxes[number, : len(chosen)], valid[number, : len(chosen)] = own[chosen], True
    images = [ramps(size, size, SHADE * number) for number in range(len(rows))]
    labels = np.arange(boxes.shape[0] * RAMP_BOXES, dtype=np.int32).reshape(-1, RAMP_BOXES)
    arrays = np.stack(images), boxes, labels, valid, np.asarray(pixels.content)[rows]
    return DevicePixels(*map(jnp.asarray, arrays))


class Tile(NamedTuple):
    """Part of an augmented image that shows one of the ramps."""

    number: int
    """Of the ramps."""
    move: Move
    seen: tuple[float, float, float, float]
    """xyxy of the part in the output, half a pixel wider."""


def seen_tiles(source: DevicePixels, image: Float[np.ndarray, "s s 3"]) -> list[Tile]:
    """The parts of an augmented image whose move can be told.

    Parts of ramps that are there twice are left out, as are small ones.
    """
    size, colours, tiles = image.shape[0], image.astype(np.float64) * 255, []
    for number in range(len(source.images)):
        rows, columns = np.nonzero(np.abs(colours[..., 2] - SHADE * number) < 0.25)
        if not len(rows):
            continue
        left, top = int(columns.min()), int(rows.min())
        right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
        whole = len(rows) == (right - left) * (bottom - top)
        if not whole or min(right - left, bottom - top) < LEAST_TILE:
            continue
        part = colours[top + 2 : bottom - 2, left + 2 : right - 2]
        move = told_move(part, left + 2, top + 2, (size, size))
        if move is not None:
            seen = (left - 0.5, top - 0.5, right + 0.5, bottom + 0.5)
            tiles.append(Tile(number, move, seen))
    return tiles


def followed_boxes(
    source: DevicePixels,
    tile: Tile,
    boxes: Float[np.ndarray, "g 4"],
    labels: Int[np.ndarray, " g"],
    valid: Bool[np.ndarray, " g"],
) -> Iterator[tuple[Float[np.ndarray, "4"], Float[np.ndarray, "4"]]]:
    """Where each wholly seen box of a tile must be, and where it is; a missing one is at zeros."""
    size, own = source.images.shape[1], np.asarray(source.valid[tile.number])
    original = np.asarray(source.boxes[tile.number])[own]
    numbers = np.asarray(source.labels[tile.number])[own]
    low, high = np.maximum(tile.seen[:2], 0), np.minimum(tile.seen[2:], size)
    for expected, number in zip(tile.move.boxes(original), numbers, strict=True):
        mine = boxes[valid & (labels == number)]
        within = (expected[:2] >= low).all() and (expected[2:] <= high).all()
        large = (expected[2:] - expected[:2]).min() >= LEAST_SIDE
        # Two: the same ramps are there a second time, in a part that is not a tile.
        if within and large and len(mine) < 2:
            yield expected, mine[0].astype(np.float64) if len(mine) else np.zeros(4)


def shown(box: Float[np.ndarray, "4"]) -> str:
    """A box as a person reads it."""
    return "[" + ", ".join(f"{value:.1f}" for value in box) + "]"
