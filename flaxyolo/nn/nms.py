"""Class-wise non-maximum suppression of fixed size, without a sequential loop over boxes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from flaxyolo.boxes import area, intersection

CANDIDATES = 1024
"""Box-class pairs that enter suppression, best scores first."""
MAX_DETECTIONS = 300
MIN_SCORE = 0.001
IOU_THRESHOLD = 0.7


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
    """Which of the score-sorted boxes greedy class-wise NMS keeps.

    Greedy suppression is the fixed point of "kept unless a kept, better box of the class
    overlaps more than `threshold`"; iterating from "all kept" reaches it in as many steps as the
    longest chain of suppressions, a handful for real detections, at most n.
    """
    shared = intersection(boxes[:, None], boxes[None])
    union = area(boxes)[:, None] + area(boxes)[None] - shared
    order = jnp.arange(len(boxes))
    better = order[:, None] < order[None]
    same = labels[:, None] == labels[None]
    kills = ((shared > threshold * union) & better & same).astype(jnp.float32)

    def again(state):
        keep, before, step = state
        return (keep != before).any() & (step < len(boxes))

    def body(state):
        keep, _, step = state
        killed = keep.astype(jnp.float32) @ kills > 0
        return valid & ~killed, keep, step + 1

    first = valid & ~(valid.astype(jnp.float32) @ kills > 0)
    keep, _, _ = lax.while_loop(again, body, (first, valid, 0))
    return keep


def nms(
    scores: Float[Array, "a k"], boxes: Float[Array, "a 4"]
) -> tuple[Float[Array, "n 4"], Float[Array, " n"], Int[Array, " n"], Bool[Array, " n"]]:
    """Boxes, scores, labels and validity of one image's detections, best first, `n` slots."""
    pairs, index, labels = top_pairs(scores, CANDIDATES)
    valid = pairs > MIN_SCORE
    keep = suppress(boxes[index], labels, valid)
    slots = min(MAX_DETECTIONS, len(pairs))
    # Kept boxes keep their order: a stable sort of "not kept" brings them to the front.
    order = jnp.argsort(~keep, stable=True)[:slots]
    return boxes[index][order], pairs[order] * keep[order], labels[order], keep[order]


batched_nms = jax.vmap(nms)
