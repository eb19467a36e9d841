"""Class-wise non-maximum suppression of fixed size."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flaxyolo.base.boxes import area, intersection
from flaxyolo.nn.platform import by_platform

CANDIDATES = 1024
"""Most box-class pairs that enter suppression, best scores first."""
BLOCK = 128
STEPS = 8
"""Of suppression before each question whether it has ended, on accelerators: 59 of 60 pictures of
digits with 570 candidates each need at most 7, the last one 8 (a step is one small kernel)."""
MAX_DETECTIONS = 300
MIN_SCORE = 0.001
IOU_THRESHOLD = 0.7


def candidates(anchors: int) -> int:
    """Pairs that enter suppression: one for each anchor point, from 300 to 1,024."""
    return min(CANDIDATES, max(MAX_DETECTIONS, anchors))


def top_pairs(
    scores: Float[Array, "a k"], count: int
) -> tuple[Float[Array, " n"], Int[Array, " n"], Int[Array, " n"]]:
    """The `count` best box-class pairs: their scores, anchor indices and classes.

    Exact, in two steps: the best pairs lie on the anchors whose best class is among the best.
    """
    anchors, classes = scores.shape
    best, index = lax.top_k(scores.max(1), min(count, anchors))
    if classes == 1:
        return best, index, jnp.zeros_like(index)
    pairs, flat = lax.top_k(scores[index].ravel(), min(count, index.size * classes))
    return pairs, index[flat // classes], flat % classes


def suppress(
    boxes: Float[Array, "n 4"],
    labels: Int[Array, " n"],
    valid: Bool[Array, " n"],
    threshold: float = IOU_THRESHOLD,
) -> Bool[Array, " n"]:
    """Which of the score-sorted boxes greedy class-wise NMS keeps."""

    def cpu(boxes: Array, labels: Array, valid: Array) -> Array:
        return by_blocks(boxes, labels, valid, threshold)

    def default(boxes: Array, labels: Array, valid: Array) -> Array:
        return all_at_once(boxes, labels, valid, threshold)

    return by_platform(boxes, labels, valid, cpu=cpu, default=default)


def by_blocks(
    boxes: Float[Array, "n 4"],
    labels: Int[Array, " n"],
    valid: Bool[Array, " n"],
    threshold: float,
) -> Bool[Array, " n"]:
    """The form for CPUs: block by block, best first. A block settles who is kept in it, then
    removes what those overlap in all later blocks. The time hardly depends on the boxes."""
    keep, left = [], valid
    for start in range(0, len(boxes), BLOCK):
        here, later = slice(start, start + BLOCK), slice(start + BLOCK, None)
        kept = settle(left[:BLOCK], overlapping(boxes, labels, here, here, threshold))
        killed = overlapping(boxes, labels, here, later, threshold) & kept[:, None]
        left = left[BLOCK:] & ~killed.any(0)
        keep.append(kept)
    return jnp.concatenate(keep)


def all_at_once(
    boxes: Float[Array, "n 4"],
    labels: Int[Array, " n"],
    valid: Bool[Array, " n"],
    threshold: float,
) -> Bool[Array, " n"]:
    """The form for accelerators: all boxes settle together, in one loop instead of one a block.

    A GPU waits for the host whenever a loop asks whether to go on, so `STEPS` are made in between.
    """
    everything = slice(None)
    overlaps = lax.optimization_barrier(
        overlapping(boxes, labels, everything, everything, threshold)
    )
    return settle(valid, overlaps, STEPS)


def overlapping(
    boxes: Float[Array, "n 4"],
    labels: Int[Array, " n"],
    rows: slice,
    columns: slice,
    threshold: float,
) -> Bool[Array, "r c"]:
    """Pairs of one class whose IoU is above the threshold."""
    one, other = boxes[rows], boxes[columns]
    shared = intersection(one[:, None], other[None])
    union = area(one)[:, None] + area(other)[None] - shared
    return (shared > threshold * union) & (labels[rows][:, None] == labels[columns][None])


def settle(
    valid: Bool[Array, " r"], overlaps: Bool[Array, "r r"], steps: int = 1
) -> Bool[Array, " r"]:
    """Greedy suppression: kept unless a kept, better box overlaps.

    Iterating this from "all kept" reaches its fixed point in as many steps as the longest chain of
    suppressions, a handful for real detections, at most r. `steps` are made before each question
    whether it is reached: more than are needed change nothing.
    """
    order = jnp.arange(len(valid))
    kills = overlaps & (order[:, None] < order[None])

    def again(state):
        keep, before = state
        return (keep != before).any()

    def body(state):
        keep, before = state
        for _ in range(steps):
            keep, before = valid & ~(kills & keep[:, None]).any(0), keep
        return keep, before

    return lax.while_loop(again, body, body((valid, valid)))[0]


def nms(
    scores: Float[Array, "a k"], boxes: Float[Array, "a 4"]
) -> tuple[Float[Array, "n 4"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Boxes, scores, labels and validity of one image's detections, best first, `n` slots."""
    pairs, index, labels = top_pairs(scores, candidates(len(scores)))
    valid = pairs > MIN_SCORE
    keep = suppress(boxes[index], labels, valid)
    slots = min(MAX_DETECTIONS, len(pairs))
    # Kept boxes keep their order: a stable sort of "not kept" brings them to the front.
    order = jnp.argsort(~keep, stable=True)[:slots]
    return boxes[index][order], pairs[order] * keep[order], labels[order], keep[order]


batched_nms = jax.vmap(nms)
