"""Checks of the network against the loss: shapes, anchor points, gradients."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.base.boxes import anchor_points
from flaxyolo.checks.check import Check
from flaxyolo.checks.labels import all_boxes
from flaxyolo.checks.probe import Programs, batch_of, fresh_probe
from flaxyolo.data.batches import Batch
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.detector import Detector, Weights, abstract_weights, graph
from flaxyolo.nn.regularize import randomness
from flaxyolo.training.plan import Plan
from flaxyolo.training.vectors import as_arrays

MOST_UNREACHED = 0.1
"""Share of boxes with sides beyond the bins of the coarsest level that is borne."""


def check_shapes(plan: Plan, pixels: Pixels) -> Check:
    """Levels, strides, anchor points and channels of the network, as the loss expects them."""
    spec = plan.spec
    fail = partial(Check, "shapes", False)
    size, classes = spec.image_size, spec.num_classes
    if pixels.images.shape[1:] != (size, size, 3):
        return fail(
            f"images of {list(pixels.images.shape[1:])}, a network for {[size, size, 3]}",
            "the images are letterboxed to another size than detector.image_size",
        )

    try:
        weights = abstract_weights(spec)
    except ValueError as error:
        return fail(
            f"the network cannot be built: {str(error).splitlines()[0]}",
            "a name or a number of the spec that no part of a network has",
        )

    def both(weights: Weights, images: Array) -> tuple[Any, Any]:
        network: Detector = nnx.merge(graph(spec, train=True, dtype=plan.dtype), *weights)
        with randomness(jax.random.key(0)):
            levels = network.backbone(images)
            features = network.neck([levels[level] for level in spec.neck.levels])
            return [x.shape[1:3] for x in features], network.head(features)

    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    maps: list[Any] = []

    def traced(weights: Weights, images: Array) -> Any:
        shapes, predictions = both(weights, images)
        maps.extend(shapes)
        return predictions

    try:
        predictions = jax.eval_shape(traced, weights, images)
    except (TypeError, ValueError) as error:
        return fail(
            f"the network does not run on {size} px: {str(error).splitlines()[0]:.200}",
            "widths or strides of neighbouring layers do not match",
        )
    expected_maps = [(size // stride, size // stride) for stride in spec.strides]
    if [tuple(shape) for shape in maps] != expected_maps:
        return fail(
            f"the neck gives maps of {maps}, strides {list(spec.strides)} need {expected_maps}",
            "a level has another stride than its name says, or the levels are in another order",
        )
    points, _ = anchor_points(size, spec.strides)
    cells = row_major_cells(size, spec.strides)
    if points.shape != cells.shape or np.abs(points - cells).max() > 1e-3 * size:
        return fail(
            f"{len(points)} anchor points that are not the middles of the {len(cells)} cells",
            "x and y of the anchor points are swapped, or they are not at the middle of cells",
        )
    pairs = {"": predictions} | (
        {} if predictions.one_to_one is None else {"one-to-one ": predictions.one_to_one}
    )
    count, bins = len(points), spec.head.bins
    for name, pair in pairs.items():
        wanted = {
            "logits": (1, count, classes),
            "boxes": (1, count, 4),
            "distances": (1, count, 4, bins),
        }
        for field, shape in wanted.items():
            got = getattr(pair, field)
            if got.shape != shape or got.dtype != jnp.float32:
                return fail(
                    f"{name}{field} are {got.dtype} {list(got.shape)}, the loss expects float32 "
                    f"{list(shape)} for {count} anchor points, {classes} classes and {bins} bins",
                    "the head's channels or levels are not those of the spec",
                )
    boxes = all_boxes(pixels).boxes
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)
    reach = 2.0 * (spec.head.bins - 1) * spec.strides[-1] if spec.head.box == "dfl" else np.inf
    beyond = float((sides > reach).mean()) if len(sides) else 0.0
    if beyond > MOST_UNREACHED:
        return fail(
            f"{beyond:.0%} of the boxes have a side above {reach:g} px, the most that "
            f"{spec.head.bins} bins of stride {spec.strides[-1]} reach",
            "head.reg_max is too low for the objects, or a coarser level is missing",
        )
    levels = ", ".join(
        f"P{level} {n}x{n}" for level, (n, _) in zip(spec.neck.levels, expected_maps, strict=True)
    )
    far = f"{reach:g} px" if np.isfinite(reach) else "no limit"
    return Check(
        "shapes",
        True,
        f"{levels}; {count} anchor points, strides {', '.join(map(str, spec.strides))}, "
        f"{classes} classes, {bins} bins reach {far} (largest side {sides.max(initial=0):.0f} px)",
    )


def row_major_cells(size: int, strides: Sequence[int]) -> Float[np.ndarray, "a 2"]:
    """Middles of all cells in the order in which a head flattens its maps: x runs fastest."""
    middles = []
    for stride in strides:
        cell = np.arange((size // stride) ** 2)
        middles.append(np.stack([cell % (size // stride), cell // (size // stride)], 1) * stride)
        middles[-1] = middles[-1] + stride / 2
    return np.concatenate(middles)


def hard_batch(pixels: Pixels, plan: Plan, programs: Programs) -> Batch:
    """An empty image, the densest, one with a box of one pixel, and one with a box of each level.

    The last are what the fresh network itself says near the middle, a tenth smaller: so every
    level has an object to learn, whatever sizes the data have.
    """
    counts = np.asarray(pixels.valid).sum(1)
    least, densest = int(counts.argmin()), int(counts.argmax())
    usual = np.argsort(np.abs(counts - np.median(counts[counts > 0])), kind="stable")
    others = [int(row) for row in usual if row not in (least, densest)] or [densest]
    rows = [least, densest, others[0], others[-1] if len(others) < 2 else others[1]]
    batch = batch_of(pixels, rows, plan.slots)
    boxes, labels, valid = (np.array(field) for field in (batch.boxes, batch.labels, batch.valid))
    valid[0] = False

    points, strides = anchor_points(plan.spec.image_size, plan.spec.strides)
    finest = points[strides == strides[0]]
    box = boxes[2, 0]
    point = finest[np.abs(finest - (box[:2] + box[2:]) / 2).sum(1).argmin()]
    slot = min(int(valid[2].sum()), plan.slots - 1)
    boxes[2, slot] = np.concatenate([point - 0.5, point + 0.5])
    labels[2, slot], valid[2, slot] = labels[2, 0], True

    fresh = fresh_probe(plan)
    said, _ = programs.look(fresh.params, fresh.stats, batch.images)
    said, middle = np.asarray(said)[3], plan.spec.image_size / 2
    valid[3] = False
    for slot, stride in enumerate(plan.spec.strides):
        away = np.abs(points - middle).sum(1) + np.where(strides == stride, 0, np.inf)
        guess = said[away.argmin()]
        centre = (guess[:2] + guess[2:]) / 2
        half = np.maximum(0.45 * (guess[2:] - guess[:2]), stride)
        boxes[3, slot] = np.concatenate([centre - half, centre + half])
        labels[3, slot], valid[3, slot] = slot % plan.spec.num_classes, True
    boxes = np.where(valid[..., None], boxes, 0)
    return batch._replace(
        boxes=jnp.asarray(boxes), labels=jnp.asarray(labels), valid=jnp.asarray(valid)
    )


def check_gradients(pixels: Pixels, plan: Plan, programs: Programs) -> Check:
    """Every array of parameters gets a finite gradient that is not zero, from the hard batch."""
    batch = hard_batch(pixels, plan, programs)
    fresh = fresh_probe(plan)
    said = programs.gradients(fresh.params, fresh.stats, batch)
    grads = as_arrays(np.asarray(said.vector), abstract_weights(plan.spec).params)
    terms = said.terms
    loss = ", ".join(f"{name} {float(value):.3g}" for name, value in terms._asdict().items())
    named = {
        "/".join(str(getattr(key, "key", key)) for key in path): float(np.abs(value).max())
        for path, value in jax.tree.leaves_with_path(grads)
    }
    counts = np.asarray(batch.valid).sum(1)
    images = (
        f"an empty image, one of {counts[1]} boxes, one with a box of one pixel, one with a box "
        "for each level"
    )
    wrong = [name for name, value in named.items() if not np.isfinite(value)]
    if wrong:
        cause = "NaN in images or labels, or a loss that divides by a box without area"
        if np.isfinite(float(terms.box + terms.cls + terms.dfl)):
            cause = "the derivative of a function where it has none (a root or a division at 0)"
    else:
        wrong = [name for name, value in named.items() if value == 0]
        cause = (
            "this part of the network is detached from the loss: a stop_gradient, an output that "
            "nothing uses, or a term of the loss without weight"
        )
    if wrong:
        kind = "zero" if named[wrong[0]] == 0 else "not finite"
        listed = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        return Check(
            "gradients",
            False,
            f"the gradients of {len(wrong)} of {len(named)} parameter arrays are {kind}: {listed} "
            f"({images}; loss {loss})",
            cause,
        )
    smallest = min(named, key=lambda name: named[name])
    return Check(
        "gradients",
        True,
        f"{len(named)} parameter arrays, largest gradient of each from {named[smallest]:.1e} "
        f"({smallest}) to {max(named.values()):.1e}; {images}; loss {loss}",
    )
