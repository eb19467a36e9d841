"""Which anchor point learns which object: task-aligned assignment (TAL, arXiv 2108.07755)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from flaxyolo.boxes import area, intersection

EPSILON = 1e-7
"""Keeps the divisions of CIoU finite for boxes without area (pixels, square pixels)."""
IMAGES_AT_ONCE = 4
"""Images whose (gt, anchor) pairs are in memory together; more does not go faster on a CPU."""


class Assignment(NamedTuple):
    """What each anchor point should predict; zeros where `positive` is False."""

    boxes: Float32[Array, "b a 4"]
    """xyxy in input pixels."""
    scores: Float32[Array, "b a k"]
    """The aligned score at the object's class, 0 elsewhere."""
    positive: Bool[Array, "b a"]


def ciou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*n"]:
    """Complete IoU (arXiv 1911.08287) of xyxy boxes, -1.5 to 1; broadcasts over leading axes.

    The weight of the shape term is a constant in the gradient, as in the paper.
    """
    overlap = intersection(a, b)
    iou = overlap / (area(a) + area(b) - overlap + EPSILON)
    span = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    # Twice the distance between the centres: the factor 4 is taken out below.
    apart = a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]
    distance = _squared_norm(apart) / (4 * (_squared_norm(span) + EPSILON))
    shape = (4 / math.pi**2) * (_aspect_angle(a) - _aspect_angle(b)) ** 2
    weight = lax.stop_gradient(shape / (1 - iou + shape + EPSILON))
    return iou - distance - weight * shape


def assign(
    scores: Float[Array, "b a k"],
    boxes: Float[Array, "b a 4"],
    points: Float[Array, "a 2"],
    gt_boxes: Float[Array, "b g 4"],
    gt_labels: Int[Array, "b g"],
    gt_valid: Bool[Array, "b g"],
    *,
    topk: int,
    alpha: float,
    beta: float,
) -> Assignment:
    """Give each object its best aligned anchor points, image by image, without gradients.

    `scores` are probabilities; boxes and points are in input pixels. An object chooses, among
    the points strictly inside its box, the `topk` of highest `score^alpha * CIoU^beta`; a point
    chosen by several goes to the object it overlaps most. The score of a point is its alignment,
    scaled so that the best point of each object has that object's largest overlap. An object
    so small or so thin that no point lies inside gets no positive.
    """

    def one_image(image):
        return _assign_image(*image, points, topk=topk, alpha=alpha, beta=beta)

    images = (scores, boxes, gt_boxes, gt_labels, gt_valid)
    images = jax.tree.map(lax.stop_gradient, images)
    return lax.map(one_image, images, batch_size=min(IMAGES_AT_ONCE, scores.shape[0]))


def _assign_image(
    scores: Float[Array, "a k"],
    boxes: Float[Array, "a 4"],
    gt_boxes: Float[Array, "g 4"],
    gt_labels: Int[Array, " g"],
    gt_valid: Bool[Array, " g"],
    points: Float[Array, "a 2"],
    *,
    topk: int,
    alpha: float,
    beta: float,
) -> Assignment:
    scores, boxes = scores.astype(jnp.float32), boxes.astype(jnp.float32)
    overlap = jnp.maximum(ciou(gt_boxes[:, None], boxes[None]), 0)
    label_scores = _power(scores, alpha).T[gt_labels]
    alignment = label_scores * _power(overlap, beta)
    candidate = _contains(gt_boxes, points) & gt_valid[:, None]
    chosen = _best(jnp.where(candidate, alignment, -1), topk) & candidate

    owner, positive = _owner(chosen, overlap)
    owned = positive[None] & (jnp.arange(len(gt_boxes))[:, None] == owner[None])
    best_alignment = jnp.max(jnp.where(owned, alignment, 0), 1)
    best_overlap = jnp.max(jnp.where(owned, overlap, 0), 1)
    # No epsilon: alignments such as 0.02^6 are far below any fixed one, and would lose their score.
    factor = best_overlap / jnp.where(best_alignment > 0, best_alignment, 1)
    score = jnp.sum(jnp.where(owned, alignment * factor[:, None], 0), 0)
    label = jnp.where(positive, gt_labels[owner], -1)
    one_hot = label[:, None] == jnp.arange(scores.shape[1])[None]
    return Assignment(
        boxes=jnp.where(positive[:, None], gt_boxes[owner], 0),
        scores=jnp.where(one_hot, score[:, None], 0),
        positive=positive,
    )


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
    top, index = lax.top_k(values, count)
    # top_k orders equal values by index, so the last one it took is the exact border of the
    # set: no scatter is needed.
    last, last_index = top[:, -1:], index[:, -1:]
    order = jnp.arange(values.shape[1])[None]
    return (values > last) | ((values == last) & (order <= last_index))


def _owner(
    chosen: Bool[Array, "g a"], overlap: Float[Array, "g a"]
) -> tuple[Int32[Array, " a"], Bool[Array, " a"]]:
    """Row of the object with the highest overlap among those that chose a point, else row 0."""
    if not len(chosen):
        nobody = jnp.zeros(chosen.shape[1], jnp.int32)
        return nobody, nobody > 0
    claim = jnp.where(chosen, overlap, -1)
    best = jnp.max(claim, 0)
    # A maximum and a minimum vectorise on a CPU; argmax does not.
    rows = jnp.arange(len(chosen), dtype=jnp.int32)[:, None]
    first = jnp.min(jnp.where(claim == best[None], rows, len(chosen) - 1), 0)
    return first, best >= 0


def _power(x: Float[Array, "*n"], exponent: float) -> Float[Array, "*n"]:
    """`x ** exponent` for x >= 0; the usual exponents without exp and log."""
    if exponent == 0.5:
        return jnp.sqrt(x)
    if float(exponent).is_integer():
        return lax.integer_pow(x, int(exponent))
    return x**exponent


def _aspect_angle(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return jnp.arctan(width / (height + EPSILON))


def _squared_norm(vectors: Float[Array, "*n 2"]) -> Float[Array, "*n"]:
    return vectors[..., 0] ** 2 + vectors[..., 1] ** 2
