"""Which anchor point learns which object: task-aligned assignment (TAL, arXiv 2108.07755)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from flaxyolo.nn.platform import by_platform

EPSILON = 1e-7
"""Keeps the divisions of CIoU finite for boxes without area (pixels, square pixels)."""
PAIRS_AT_ONCE = 2**25
"""Most pairs of an object's slot and a point that an accelerator works on at once: 128 MiB for each
array of them, of which a handful lives when the activations of the step do."""


class Objects(NamedTuple):
    """What is in each image of a batch, in a fixed number of slots; xyxy in input pixels."""

    boxes: Float[Array, "b g 4"]
    labels: Int[Array, "b g"]
    valid: Bool[Array, "b g"]
    """Which slots hold an object."""


class Images(NamedTuple):
    """What the assignment reads of a batch, or of one image."""

    scores: Float[Array, "*b a k"]
    boxes: Float[Array, "*b a 4"]
    gt_boxes: Float[Array, "*b g 4"]
    gt_labels: Int[Array, "*b g"]
    gt_valid: Bool[Array, "*b g"]


class _Pairs(NamedTuple):
    """Objects with points, of an image or of several."""

    overlap: Float32[Array, "*b g a"]
    alignment: Float32[Array, "*b g a"]
    candidate: Bool[Array, "*b g a"]
    """Whether the point lies inside the object's box."""
    wanted: Float32[Array, "*b g a"]
    """The alignment of candidates, -1 of others."""


@dataclass(frozen=True)
class AssignConfig:
    """How many points an object chooses, and the exponents of score and overlap it chooses by."""

    topk: int
    alpha: float
    beta: float


class Assignment(NamedTuple):
    """What each anchor point should predict; zeros where `positive` is False."""

    boxes: Float32[Array, "b a 4"]
    """xyxy in input pixels."""
    scores: Float32[Array, "b a k"]
    """The aligned score at the object's class, 0 elsewhere."""
    positive: Bool[Array, "b a"]


def ciou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Complete IoU (arXiv 1911.08287) of xyxy boxes, above -2, at most 1; broadcasts.

    The weight of the shape term is a constant in the gradient, as in the paper.
    """
    # One array per side: operations on an axis of length 2 or 4 do not vectorise on a CPU.
    a_left, a_top, a_right, a_bottom = (a[..., side] for side in range(4))
    b_left, b_top, b_right, b_bottom = (b[..., side] for side in range(4))
    a_width, a_height = a_right - a_left, a_bottom - a_top
    b_width, b_height = b_right - b_left, b_bottom - b_top
    shared_width = jnp.minimum(a_right, b_right) - jnp.maximum(a_left, b_left)
    shared_height = jnp.minimum(a_bottom, b_bottom) - jnp.maximum(a_top, b_top)
    shared = jnp.maximum(shared_width, 0) * jnp.maximum(shared_height, 0)
    iou = shared / (a_width * a_height + b_width * b_height - shared + EPSILON)
    span_x = jnp.maximum(a_right, b_right) - jnp.minimum(a_left, b_left)
    span_y = jnp.maximum(a_bottom, b_bottom) - jnp.minimum(a_top, b_top)
    # Twice the distance between the centres, hence the 4 below.
    apart_x = a_left + a_right - b_left - b_right
    apart_y = a_top + a_bottom - b_top - b_bottom
    distance = (apart_x**2 + apart_y**2) / (4 * (span_x**2 + span_y**2 + EPSILON))
    angle = jnp.arctan(a_width / (a_height + EPSILON)) - jnp.arctan(b_width / (b_height + EPSILON))
    shape = (4 / math.pi**2) * angle**2
    weight = lax.stop_gradient(shape / (1 - iou + shape + EPSILON))
    return iou - distance - weight * shape


def assign(
    scores: Float[Array, "b a k"],
    boxes: Float[Array, "b a 4"],
    points: Float[Array, "a 2"],
    objects: Objects,
    config: AssignConfig,
) -> Assignment:
    """Give each object of each image its best aligned anchor points, without gradients.

    `scores` are probabilities; boxes and points are in input pixels. An object chooses, among
    the points strictly inside its box, the `topk` of highest `score^alpha * CIoU^beta`; a point
    chosen by several goes to the object it overlaps most. The score of a point is its alignment,
    scaled so that the best point of each object has that object's largest overlap. An object
    so small or so thin that no point lies inside it gets no positive.
    """

    def cpu(images: Images) -> tuple[Array, Array]:
        return one_by_one(points, images, config)

    def default(images: Images) -> tuple[Array, Array]:
        return in_chunks(points, images, config)

    images = jax.tree.map(lax.stop_gradient, Images(scores, boxes, *objects))
    owner, score = by_platform(images, cpu=cpu, default=default)
    positive = owner >= 0
    row = jnp.maximum(owner, 0)
    owned_boxes = jnp.take_along_axis(objects.boxes, row[..., None], 1)
    label = jnp.take_along_axis(objects.labels, row, 1)
    one_hot = label[..., None] == jnp.arange(scores.shape[2])[None, None]
    return Assignment(
        boxes=jnp.where(positive[..., None], owned_boxes, 0).astype(jnp.float32),
        scores=jnp.where(one_hot, score[..., None], 0),
        positive=positive,
    )


def one_by_one(
    points: Float[Array, "a 2"], images: Images, config: AssignConfig
) -> tuple[Int32[Array, "b a"], Float32[Array, "b a"]]:
    """The form for CPUs: memory does not grow with the batch, and top_k stays two-dimensional,
    the only form that XLA has a fast routine for there."""

    def one_image(image: Images) -> tuple[Array, Array]:
        pairs = _pairs(points, image, config)
        return _share_out(pairs, _best(pairs.wanted, config.topk))

    return lax.map(one_image, images)


def in_chunks(
    points: Float[Array, "a 2"],
    images: Images,
    config: AssignConfig,
    most: int = PAIRS_AT_ONCE,
) -> tuple[Int32[Array, "b a"], Float32[Array, "b a"]]:
    """The form for accelerators: as many images at once as have `most` pairs, but at least one."""
    count, slots = images.gt_labels.shape
    passes = -(-count * slots * len(points) // most)
    size = -(-count // passes)

    def one_chunk(chunk: Images) -> tuple[Array, Array]:
        pairs = jax.vmap(lambda image: _pairs(points, image, config))(chunk)
        # Rows of all images under one another: XLA has a kernel for the best of a matrix's rows.
        best = _best(pairs.wanted.reshape(-1, len(points)), config.topk)
        return jax.vmap(_share_out)(pairs, best.reshape(pairs.wanted.shape))

    if size == count:
        return one_chunk(images)
    even = count - count % size
    chunks = jax.tree.map(lambda x: x[:even].reshape(-1, size, *x.shape[1:]), images)
    parts = [jax.tree.map(lambda x: x.reshape(even, -1), lax.map(one_chunk, chunks))]
    if even < count:
        parts.append(one_chunk(jax.tree.map(lambda x: x[even:], images)))
    return jax.tree.map(lambda *found: jnp.concatenate(found), *parts)


def _pairs(points: Float[Array, "a 2"], image: Images, config: AssignConfig) -> _Pairs:
    """Every object of one image with every point."""
    scores, boxes = image.scores.astype(jnp.float32), image.boxes.astype(jnp.float32)
    overlap = jnp.maximum(ciou(image.gt_boxes[:, None], boxes[None]), 0)
    by_class = _power(scores, config.alpha).T[image.gt_labels]
    alignment = by_class * _power(overlap, config.beta)
    candidate = _contains(image.gt_boxes, points) & image.gt_valid[:, None]
    return _Pairs(overlap, alignment, candidate, jnp.where(candidate, alignment, -1))


def _share_out(
    pairs: _Pairs, best: Bool[Array, "g a"]
) -> tuple[Int32[Array, " a"], Float32[Array, " a"]]:
    """For each point of one image the row of the object it learns (-1 for none) and its score."""
    overlap, alignment = pairs.overlap, pairs.alignment
    owner = _owner(best & pairs.candidate, overlap)
    owned = jnp.arange(len(overlap))[:, None] == owner[None]
    best_alignment = jnp.max(jnp.where(owned, alignment, 0), 1)
    best_overlap = jnp.max(jnp.where(owned, overlap, 0), 1)
    # No epsilon: alignments such as 0.02^6 are far below any fixed one, and would lose their score.
    factor = best_overlap / jnp.where(best_alignment > 0, best_alignment, 1)
    return owner, jnp.sum(jnp.where(owned, alignment * factor[:, None], 0), 0)


def _contains(
    gt_boxes: Float[Array, "g 4"], points: Float[Array, "a 2"], margin: float = 1e-9
) -> Bool[Array, "g a"]:
    x, y = points[None, :, 0], points[None, :, 1]
    left, top, right, bottom = (gt_boxes[:, side, None] for side in range(4))
    inner = jnp.minimum(jnp.minimum(x - left, right - x), jnp.minimum(y - top, bottom - y))
    return inner > margin


def _best(values: Float[Array, "g a"], count: int) -> Bool[Array, "g a"]:
    """Mark the `count` largest of each row; of equal values the first ones."""
    count = min(count, values.shape[1])
    # The barrier keeps XLA from turning this and the slices below into a full sort, 40 times
    # slower on a CPU. In the other order, as XLA (jax 0.10.2) aborts on a barrier around the
    # very pair of a top_k in a program for several devices.
    index, top = lax.optimization_barrier(lax.top_k(values, count)[::-1])
    # top_k orders equal values by index, so the last one it took is the exact border of the
    # set: no scatter is needed.
    last, last_index = top[:, -1:], index[:, -1:]
    order = jnp.arange(values.shape[1])[None]
    return (values > last) | ((values == last) & (order <= last_index))


def _owner(chosen: Bool[Array, "g a"], overlap: Float[Array, "g a"]) -> Int32[Array, " a"]:
    """Row of the object with the highest overlap among those that chose a point; -1 for none."""
    claim = jnp.where(chosen, overlap, -1)
    best = jnp.max(claim, 0)
    # Of equal claims the first row. A maximum and a minimum vectorise on a CPU; argmax does not.
    rows = jnp.arange(len(chosen), dtype=jnp.int32)[:, None]
    first = jnp.min(jnp.where(claim == best[None], rows, len(chosen)), 0)
    return jnp.where(best >= 0, first, -1)


def _power(x: Float[Array, "*n"], exponent: float) -> Float[Array, "*n"]:
    """`x ** exponent` for x >= 0; the usual exponents without exp and log."""
    if exponent == 0.5:
        return jnp.sqrt(x)
    if float(exponent).is_integer():
        return lax.integer_pow(x, int(exponent))
    return x**exponent
