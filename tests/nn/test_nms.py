"""NMS against a slow greedy loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.nn import nms as module
from flaxyolo.nn.nms import (
    IOU_THRESHOLD,
    MAX_DETECTIONS,
    MIN_SCORE,
    top_pairs,
)
from flaxyolo.nn.platform import traced_for
from tests.programs import equations

# Compiled: op by op they take seconds.
nms, suppress = jax.jit(module.nms), jax.jit(module.suppress, static_argnums=3)
by_blocks, all_at_once = (
    jax.jit(form, static_argnums=3) for form in (module.by_blocks, module.all_at_once)
)
batched_nms = jax.jit(module.batched_nms)


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
    return shared / union if union > 0 else 0.0


def greedy(scores, boxes):
    """(anchor, class) pairs that class-wise greedy NMS keeps, best first."""
    anchors, classes = scores.shape
    pairs = sorted(
        ((scores[a, k], a, k) for a in range(anchors) for k in range(classes)), reverse=True
    )
    kept = []
    for score, a, k in pairs[: module.candidates(anchors)]:
        if score > MIN_SCORE and all(
            k != other_k or iou(boxes[a], boxes[other]) <= IOU_THRESHOLD for other, other_k in kept
        ):
            kept.append((a, k))
    return kept[:MAX_DETECTIONS]


def random_boxes(rng, count, side=60.0):
    centres = rng.uniform(0, side, (count, 2))
    sizes = rng.uniform(8, 24, (count, 2))
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1).astype(np.float32)


def clusters(rng, count):
    """Many boxes around few places, so that suppression has much to do, in chains too."""
    place = random_boxes(rng, 6)[rng.integers(0, 6, count)]
    return (place + rng.normal(0, 1.5, place.shape)).astype(np.float32)


def check(scores, boxes):
    found = [np.asarray(part) for part in nms(jnp.asarray(scores), jnp.asarray(boxes))]
    out_boxes, out_scores, labels, valid = found
    expected = greedy(scores, boxes)
    count = len(expected)
    assert valid.sum() == count
    assert valid[:count].all()
    assert list(labels[:count]) == [k for _, k in expected]
    np.testing.assert_array_equal(out_boxes[:count], boxes[[a for a, _ in expected]])
    np.testing.assert_array_equal(out_scores[:count], [scores[a, k] for a, k in expected])
    assert not out_scores[count:].any()
    return count


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("make", [random_boxes, clusters])
@pytest.mark.parametrize(("anchors", "classes"), [(120, 3), (90, 1), (300, 8)])
def test_nms_keeps_what_a_greedy_loop_keeps(seed, make, anchors, classes):
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0, 1, (anchors, classes)).astype(np.float32)
    scores[rng.uniform(size=scores.shape) < 0.2] = MIN_SCORE / 2
    assert check(scores, make(rng, anchors)) > 5


def test_a_chain_of_overlapping_boxes_keeps_every_second():
    # Neighbours overlap by 0.82, next but one by 0.67; scores fall along the chain.
    left = np.arange(40, dtype=np.float32) * 2
    boxes = np.stack([left, np.zeros(40), left + 20, np.full(40, 20)], 1).astype(np.float32)
    scores = np.linspace(0.9, 0.1, 40, dtype=np.float32)[:, None]
    keep = suppress(jnp.asarray(boxes), jnp.zeros(40, int), jnp.ones(40, bool))
    np.testing.assert_array_equal(np.flatnonzero(keep), np.arange(0, 40, 2))
    assert check(scores, boxes) == 20


def test_classes_do_not_suppress_each_other():
    boxes = jnp.asarray([[0, 0, 10, 10], [0, 0, 10, 10.0]])
    scores = jnp.asarray([[0.9, 0.1], [0.2, 0.8]])
    _, out, labels, valid = nms(scores, boxes)
    assert list(np.asarray(out)[np.asarray(valid)]) == pytest.approx([0.9, 0.8])
    assert list(np.asarray(labels)[:2]) == [0, 1]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    # A box and its half: IoU 0.5.
    boxes = jnp.asarray([[0, 0, 16, 16], [0, 0, 8, 16.0]])
    keep = suppress(boxes, jnp.zeros(2, int), jnp.ones(2, bool), 0.5)
    assert keep.all()
    assert not suppress(boxes, jnp.zeros(2, int), jnp.ones(2, bool), 0.49).all()


def test_boxes_below_the_least_score_neither_count_nor_suppress():
    boxes = jnp.asarray([[0, 0, 10, 10], [0, 0, 10, 10.0]])
    keep = suppress(boxes, jnp.zeros(2, int), jnp.asarray([False, True]))
    assert list(np.asarray(keep)) == [False, True]
    valid = nms(jnp.full((2, 1), MIN_SCORE), boxes)[3]
    assert not valid.any()


def test_boxes_without_area_give_finite_results():
    boxes = jnp.asarray([[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 3, 3.0]])
    out, scores, _, valid = nms(jnp.asarray([[0.5], [0.4], [0.3]]), boxes)
    assert np.isfinite(out).all()
    assert np.isfinite(scores).all()
    assert valid[0]


def test_at_most_300_detections_come_out_and_they_are_the_best():
    left = np.arange(400, dtype=np.float32) * 30
    boxes = np.stack([left, left, left + 20, left + 20], 1)
    scores = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 400, dtype=np.float32))
    out = nms(jnp.asarray(scores[:, None]), jnp.asarray(boxes))
    assert out[1].shape == (300,)
    assert out[3].all()
    np.testing.assert_array_equal(out[1], np.sort(scores)[::-1][:300])


def test_fewer_pairs_than_slots_give_fewer_slots():
    out = nms(jnp.full((5, 2), 0.5), jnp.zeros((5, 4)))
    assert out[1].shape == (10,)


@pytest.mark.parametrize(("anchors", "classes", "count"), [(50, 4, 20), (50, 1, 20), (6, 3, 100)])
def test_top_pairs_are_exactly_the_best_pairs(anchors, classes, count):
    scores = np.random.default_rng(0).uniform(size=(anchors, classes)).astype(np.float32)
    best, index, labels = map(np.asarray, top_pairs(jnp.asarray(scores), count))
    expected = np.sort(scores.ravel())[::-1][:count]
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(scores[index, labels], expected)


def test_a_batch_is_its_images_one_by_one():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.uniform(size=(3, 40, 2)), jnp.float32)
    boxes = jnp.asarray(np.stack([clusters(rng, 40) for _ in range(3)]))
    together = batched_nms(scores, boxes)
    for i in range(3):
        for whole, single in zip(together, nms(scores[i], boxes[i]), strict=True):
            np.testing.assert_array_equal(whole[i], single)


@pytest.mark.parametrize("count", [1, 200])
def test_both_forms_keep_the_same_boxes(count):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        boxes, labels = clusters(rng, count), rng.integers(0, 2, count)
        case = boxes, labels, rng.random(count) < 0.9, 0.5
        kept = by_blocks(*case)
        np.testing.assert_array_equal(all_at_once(*case), kept)
        assert count < 200 or 0 < kept.sum() < count / 2


def test_both_forms_follow_a_chain_through_all_blocks():
    # Each box overlaps the next alone, so every second one is kept, by a chain of 200.
    left = np.arange(200, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 2, 0 * left + 1], 1)
    for form in (by_blocks, all_at_once):
        keep = form(boxes, jnp.zeros(200, int), jnp.ones(200, bool), 0.3)
        np.testing.assert_array_equal(keep, np.arange(200) % 2 == 0)


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 8), ("cuda", 1), ("tpu", 1)])
def test_suppression_is_one_loop_on_an_accelerator(platform, loops):
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 2000, 3), (2, 2000, 4)))
    with traced_for(platform):
        program = jax.make_jaxpr(module.batched_nms)(*shapes)
    assert sum(1 for _ in equations(program.jaxpr, "while")) == loops
