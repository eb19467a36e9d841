"""Mosaic, scale, shift, flip and colour of one training image, on the device, inside the step.

Nothing rotates or shears, so the source row of an output pixel depends on its y (and on whether
it lies left or right), and the source column on its x: each pixel is four taps straight from the
uint8 images, and the mosaic's canvas is never built.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, PRNGKeyArray, UInt8

from flaxyolo.base.boxes import GREY
from flaxyolo.config import Augmentation
from flaxyolo.data.colour import jitter
from flaxyolo.nn.platform import of_each

MIN_SIDE = 2.0
MIN_AREA_SHARE = 0.1
MAX_ASPECT = 100.0
DRAWS = 14
"""Random numbers for one image."""


class DevicePixels(NamedTuple):
    """One letterboxed split as arrays on the device; the fields of `data.cache.Pixels`."""

    images: UInt8[Array, "n s s 3"]
    boxes: Float32[Array, "n g 4"]
    """xyxy in input pixels."""
    labels: Int32[Array, "n g"]
    valid: Bool[Array, "n g"]
    content: Float32[Array, "n 4"]
    """xyxy of the picture inside the square."""


class Augmented(NamedTuple):
    """Images as the network is to see them, and their boxes, first in their slots."""

    images: Float32[Array, "b s s 3"]
    boxes: Float32[Array, "b slots 4"]
    labels: Int32[Array, "b slots"]
    valid: Bool[Array, "b slots"]
    dropped: Int32[Array, " b"]
    """Boxes of each image that found no slot."""


class _Canvas(NamedTuple):
    """Four sources on a canvas; the first axis is top, bottom, the second left, right."""

    images: Int32[Array, "2 2"]
    offset: Float32[Array, "2 2 2"]
    """Canvas minus source coordinates, as x, y."""
    shown: Float32[Array, "2 2 4"]
    """xyxy of what is seen of each source, in its own pixels."""
    used: Bool[Array, "2 2"]
    """Sources whose boxes count."""
    split: Float32[Array, "2"]
    """x, y on the canvas where the four meet."""
    side: Float32[Array, ""]


class _Draws(NamedTuple):
    """All that is random in one image, uniform in 0..1."""

    mosaic: Float[Array, ""]
    split: Float[Array, "2"]
    others: Float[Array, "3"]
    place: Float[Array, ""]
    gain: Float[Array, ""]
    shift: Float[Array, "2"]
    flip: Float[Array, ""]
    colour: Float[Array, "3"]


class _View(NamedTuple):
    """`output = canvas * gain + shift`, then mirrored where `flip`."""

    gain: Float32[Array, ""]
    shift: Float32[Array, "2"]
    flip: Bool[Array, ""]


class _Lines(NamedTuple):
    """The two sources of each output row (or column), for either half of the other axis."""

    far: Bool[Array, " s"]
    """In the bottom (right) half of the canvas."""
    first: Int32[Array, "2 s"]
    second: Int32[Array, "2 s"]
    weight: Float32[Array, "2 s"]
    """Share of the second."""
    inside: Bool[Array, "2 s"]


class _Taps(NamedTuple):
    """Where each output pixel is read."""

    images: Int32[Array, "2 2"]
    rows: _Lines
    columns: _Lines


def augment(
    pixels: DevicePixels,
    indices: Int[Array, " b"],
    epoch_key: PRNGKeyArray,
    strengths: Augmentation,
    mosaic: Bool[Array, ""],
    slots: int,
    sources: Int[Array, "b 4"] | None = None,
) -> Augmented:
    """The images `indices` of the data, each augmented with draws of (epoch_key, index) alone.

    With `sources`, `pixels` is a part of the data only: they say where in it each image lies, and
    the three others that `mosaic_sources` names for it.

    Where `mosaic` is true, a share `strengths.mosaic` of the images is made of four: the image and
    three others meet at a random point of a canvas of twice the size. The canvas (or the image
    itself) is scaled about its centre and shifted. Boxes are clipped to what is seen; those of
    at most 2 px a side, a tenth of their area or an aspect of 100 are left out, as are those that
    find no slot, which are counted.
    """
    size = pixels.images.shape[1]

    def draw(index):
        return _draw(epoch_key, index)

    def choose(order, values):
        draws = _name_draws(values)
        canvas = _choose_canvas(draws, pixels, order, strengths.mosaic, mosaic)
        view = _choose_view(draws, canvas, size, strengths)
        return draws.colour, _taps(canvas, view, size), _move_boxes(pixels, canvas, view, slots)

    # XLA fuses all it can: it would work out small things anew for every pixel, and read the taps
    # anew for every use of a colour. `of_each` parts the stages. By its loops that is 10 times the
    # speed on a CPU, and for the draws a third of the time to compile.
    values = of_each(draw, indices)
    if sources is None:
        count = pixels.images.shape[0]
        sources = jax.vmap(lambda index, v: _order(_name_draws(v), index, count))(indices, values)
    colour, taps, boxes = jax.vmap(choose)(sources, values)
    images = of_each(lambda one: _sample(pixels.images, one), taps)
    if strengths.hue or strengths.saturation or strengths.value:
        images = jax.vmap(lambda draws, image: jitter(draws, image, strengths))(colour, images)
    return Augmented(images, *boxes)


def mosaic_sources(
    indices: Int[Array, " b"],
    epoch_key: PRNGKeyArray,
    count: int,
    share: float,
    mosaic: Bool[Array, ""],
) -> Int32[Array, "b 4"]:
    """What `augment` reads of `count` images for each of `indices`: itself, and three others.

    Where no mosaic is drawn it is the image itself, four times.
    """

    def one(index):
        draws = _name_draws(_draw(epoch_key, index))
        chosen = mosaic & (draws.mosaic < share)
        return jnp.where(chosen, _order(draws, index, count), index)

    return of_each(one, indices.astype(jnp.int32))


def _draw(epoch_key: PRNGKeyArray, index: Int[Array, ""]) -> Float[Array, " 14"]:
    return jax.random.uniform(jax.random.fold_in(epoch_key, index), (DRAWS,))


def _order(draws: _Draws, index: Int[Array, ""], count: int) -> Int32[Array, "4"]:
    """The image itself and three others of `count`."""
    others = jnp.minimum(jnp.floor(draws.others * count), count - 1).astype(jnp.int32)
    return jnp.concatenate([index.astype(jnp.int32)[None], others])


def _name_draws(values: Float[Array, " 14"]) -> _Draws:
    return _Draws(
        mosaic=values[0],
        split=values[1:3],
        others=values[3:6],
        place=values[6],
        gain=values[7],
        shift=values[8:10],
        flip=values[10],
        colour=values[11:14],
    )


def _choose_canvas(
    draws: _Draws,
    pixels: DevicePixels,
    order: Int[Array, "4"],
    share: float,
    mosaic: Bool[Array, ""],
) -> _Canvas:
    size = pixels.images.shape[1]
    split = jnp.floor((0.5 + draws.split) * size)
    # The image itself takes each of the four places as often.
    place = jnp.floor(draws.place * 4).astype(jnp.int32)
    images = order[(jnp.arange(4) + place) % 4].reshape(2, 2)
    content = pixels.content[images]
    left, top, right, bottom = (content[..., side] for side in range(4))
    # The picture's corner that touches the meeting point: the right side of a left picture, ...
    corner_x = jnp.stack([right[:, 0], left[:, 1]], 1)
    corner_y = jnp.stack([bottom[0], top[1]], 0)
    offset = split[None, None] - jnp.stack([corner_x, corner_y], -1)
    seen_from = jnp.maximum(content[..., :2], -offset)
    seen_to = jnp.minimum(content[..., 2:], 2 * size - offset)
    four = _Canvas(
        images=images,
        offset=offset,
        shown=jnp.concatenate([seen_from, seen_to], -1),
        used=jnp.ones((2, 2), bool),
        split=split,
        side=jnp.float32(2 * size),
    )
    one = _Canvas(
        images=jnp.full((2, 2), order[0], jnp.int32),
        offset=jnp.zeros((2, 2, 2)),
        shown=jnp.broadcast_to(jnp.array([0, 0, size, size], jnp.float32), (2, 2, 4)),
        used=jnp.array([[True, False], [False, False]]),
        split=jnp.full(2, size / 2),
        side=jnp.float32(size),
    )
    chosen = mosaic & (draws.mosaic < share)
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), four, one)


def _choose_view(draws: _Draws, canvas: _Canvas, size: int, strengths: Augmentation) -> _View:
    gain = 1 + strengths.scale * (2 * draws.gain - 1)
    centre = 0.5 + strengths.translate * (2 * draws.shift - 1)
    return _View(
        gain=gain,
        shift=centre * size - canvas.side / 2 * gain,
        flip=draws.flip < strengths.flip,
    )


def _taps(canvas: _Canvas, view: _View, size: int) -> _Taps:
    steps = jnp.arange(size, dtype=jnp.float32)
    x = jnp.where(view.flip, size - 1 - steps, steps)
    x, y = ((axis + 0.5 - view.shift[i]) / view.gain for i, axis in enumerate((x, steps)))
    offset, shown = canvas.offset, canvas.shown
    return _Taps(
        images=canvas.images,
        rows=_lines(y, canvas.split[1], offset[..., 1].T, shown[..., 1].T, shown[..., 3].T),
        columns=_lines(x, canvas.split[0], offset[..., 0], shown[..., 0], shown[..., 2]),
    )


def _lines(
    position: Float[Array, " s"],
    split: Float[Array, ""],
    offset: Float[Array, "2 2"],
    low: Float[Array, "2 2"],
    high: Float[Array, "2 2"],
) -> _Lines:
    """Sources along one axis; the tables' last axis is the near and far half of this axis."""
    far = position >= split

    def pick(table):
        return jnp.where(far[None], table[:, 1:], table[:, :1])

    low, high = pick(low), pick(high)
    source = position[None] - pick(offset)
    below = jnp.floor(source - 0.5)
    first = jnp.clip(below, jnp.floor(low), jnp.ceil(high) - 1)
    second = jnp.clip(below + 1, jnp.floor(low), jnp.ceil(high) - 1)
    return _Lines(
        far=far,
        first=first.astype(jnp.int32),
        second=second.astype(jnp.int32),
        weight=source - 0.5 - below,
        inside=(source >= low) & (source < high),
    )


def _sample(images: UInt8[Array, "n s s 3"], taps: _Taps) -> Float32[Array, "s s 3"]:
    """One output in 0..1, interpolated between pixel centres, grey outside."""
    rows, columns = taps.rows, taps.columns

    def of_row(values):
        return jnp.where(columns.far[None], values[1][:, None], values[0][:, None])

    def of_column(values):
        return jnp.where(rows.far[:, None], values[1][None], values[0][None])

    def tap(row, column):
        upper, lower = (jnp.where(columns.far, pair[1], pair[0]) for pair in taps.images)
        place = images.at[of_column(jnp.stack([upper, lower])), of_row(row), of_column(column)]
        # The indices are clipped already, so the gather need not check them again.
        return place.get(mode="promise_in_bounds").astype(jnp.float32)

    def blend(a, b, weight):
        return a + (b - a) * weight[..., None]

    across = of_column(columns.weight)
    upper = blend(tap(rows.first, columns.first), tap(rows.first, columns.second), across)
    lower = blend(tap(rows.second, columns.first), tap(rows.second, columns.second), across)
    inside = of_row(rows.inside) & of_column(columns.inside)
    colour = blend(upper, lower, of_row(rows.weight))
    return jnp.where(inside[..., None], colour, GREY) * (1 / 255)


def _move_boxes(
    pixels: DevicePixels, canvas: _Canvas, view: _View, slots: int
) -> tuple[
    Float32[Array, "slots 4"], Int32[Array, " slots"], Bool[Array, " slots"], Int32[Array, ""]
]:
    """Boxes, labels and validity of the view, compacted to the front, and the overflow."""
    size = pixels.images.shape[1]
    offset = jnp.concatenate([canvas.offset, canvas.offset], -1)[:, :, None]
    whole = jnp.clip(pixels.boxes[canvas.images] + offset, 0, canvas.side).reshape(-1, 4)
    whole = whole * view.gain + jnp.concatenate([view.shift, view.shift])[None]
    boxes = jnp.clip(whole, 0, size)
    left, top, right, bottom = (boxes[:, side] for side in range(4))
    width, height = right - left, bottom - top
    mirrored = jnp.stack([size - right, top, size - left, bottom], -1)
    boxes = jnp.where(view.flip, mirrored, boxes)
    whole_area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    keep = (
        (pixels.valid[canvas.images] & canvas.used[..., None]).reshape(-1)
        & (width > MIN_SIDE)
        & (height > MIN_SIDE)
        & (width * height > MIN_AREA_SHARE * whole_area)
        & (jnp.maximum(width, height) < MAX_ASPECT * jnp.minimum(width, height))
    )
    slot = jnp.where(keep, jnp.cumsum(keep) - 1, slots)
    labels = pixels.labels[canvas.images].reshape(-1)
    found = keep.sum(dtype=jnp.int32)
    return (
        jnp.zeros((slots, 4)).at[slot].set(boxes, mode="drop"),
        jnp.zeros(slots, jnp.int32).at[slot].set(labels, mode="drop"),
        jnp.arange(slots) < found,
        jnp.maximum(found - slots, 0),
    )
