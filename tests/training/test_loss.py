from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.boxes import anchor_points, ltrb_to_xyxy
from flaxyolo.nn.head import DECODERS, Predictions
from flaxyolo.training.assign import AssignConfig, Objects, assign, ciou
from flaxyolo.training.loss import binary_cross_entropy, detection_loss, distribution_focal_loss

TAL = AssignConfig(topk=10, alpha=0.5, beta=6.0)
SIZE = 64
POINTS, STRIDES = (jnp.array(part) for part in anchor_points(SIZE, (8, 16, 32)))


def predict(seed, *, images=2, classes=3, bins=16):
    """Random logits and distances, and the boxes that the distances stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1, (images, len(POINTS), classes)).astype(np.float32)
    distances = rng.normal(0, 2, (images, len(POINTS), 4, bins)).astype(np.float32)
    return decode(jnp.array(logits), jnp.array(distances))


def decode(logits, distances):
    bins = jnp.arange(distances.shape[-1], dtype=jnp.float32)
    ltrb = (jax.nn.softmax(distances, -1) * bins[None, None, None]).sum(-1)
    return Predictions(logits, ltrb_to_xyxy(ltrb * STRIDES[None, :, None], POINTS[None]), distances)


def objects(seed, *, images=2, slots=8, classes=3):
    rng = np.random.default_rng(seed)
    centre, side = rng.uniform(8, 56, (images, slots, 2)), rng.uniform(4, 50, (images, slots, 2))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1).clip(0, SIZE)
    return Objects(
        jnp.array(boxes, jnp.float32),
        jnp.array(rng.integers(0, classes, (images, slots)), jnp.int32),
        jnp.array(rng.random((images, slots)) < 0.7),
    )


def loop_loss(predictions, truth):
    """The three terms, one image, point, class and side at a time, in double precision."""
    scores = jax.nn.sigmoid(predictions.logits)
    targets = assign(scores, predictions.boxes, POINTS, truth, TAL)
    overlaps = np.asarray(ciou(predictions.boxes, targets.boxes))
    scores, targets = np.asarray(scores, np.float64), jax.tree.map(np.asarray, targets)
    total = max(targets.scores.sum(dtype=np.float64), 1)
    box = cls = dfl = 0.0
    for b in range(len(scores)):
        for a, point in enumerate(np.asarray(POINTS)):
            for k in range(scores.shape[2]):
                p, t = scores[b, a, k], targets.scores[b, a, k]
                cls -= t * np.log(p) + (1 - t) * np.log(1 - p)
            if not targets.positive[b, a]:
                continue
            weight = targets.scores[b, a].sum()
            box += weight * (1 - float(overlaps[b, a]))
            x1, y1, x2, y2 = targets.boxes[b, a]
            sides = np.array([point[0] - x1, point[1] - y1, x2 - point[0], y2 - point[1]])
            for side, distance in enumerate(sides / float(STRIDES[a])):
                logits = np.asarray(predictions.distances[b, a, side], np.float64)
                log_p = logits - np.log(np.exp(logits).sum())
                distance = np.clip(distance, 0, len(logits) - 1 - 0.01)
                left = int(distance)
                nearest = (left + 1 - distance) * log_p[left] + (distance - left) * log_p[left + 1]
                dfl -= weight * nearest / 4
    return np.array([box, cls, dfl]) / total


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_equals_a_loop_over_points_and_sides(seed):
    predictions, truth = predict(seed), objects(seed)
    got = detection_loss(predictions, POINTS, STRIDES, truth, TAL)
    expected = loop_loss(predictions, truth)
    assert (expected > 0.01).all()
    np.testing.assert_allclose(np.array(got), expected, rtol=2e-4)


def test_dfl_is_the_cross_entropy_of_the_two_nearest_bins():
    logits = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    got = distribution_focal_loss(jnp.stack([logits] * 3), jnp.array([1.25, 0.0, 9.0]))
    # 1.25 lies between bins 1 and 2; 0 is bin 0; 9 is moved to 2.99.
    expected = [
        -(0.75 * np.log(0.2) + 0.25 * np.log(0.3)),
        -np.log(0.1),
        -(0.01 * np.log(0.3) + 0.99 * np.log(0.4)),
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_dfl_is_least_where_the_expected_distance_is_the_target():
    target = jnp.array(2.3)
    right = jnp.log(jnp.array([1e-9, 1e-9, 0.7, 0.3, 1e-9]))
    gradient = jax.grad(lambda logits: distribution_focal_loss(logits, target))(right)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_binary_cross_entropy_is_finite_for_certain_logits():
    got = binary_cross_entropy(jnp.array([0.0, 100.0, -100.0]), jnp.array([0.5, 0.0, 0.0]))
    np.testing.assert_allclose(got, [np.log(2), 100, 0], rtol=1e-6, atol=1e-6)


def test_ciou_of_equal_boxes_is_one_and_of_apart_boxes_negative():
    box = jnp.array([[2.0, 3.0, 12.0, 9.0]])
    np.testing.assert_allclose(ciou(box, box), 1, rtol=1e-6)
    # Same shape, 20 px apart: no overlap, 400 / (30^2 + 6^2) of the diagonal.
    apart = box + jnp.array([[20.0, 0, 20, 0]])
    np.testing.assert_allclose(ciou(box, apart), -400 / (30**2 + 6**2), rtol=1e-5)


def test_the_weight_of_the_shape_term_has_no_gradient():
    a, b = jnp.array([0.0, 0.0, 8.0, 4.0]), jnp.array([0.0, 0.0, 5.0, 5.0])

    def with_constant_weight(box):
        angle = jnp.arctan(2.0) - jnp.pi / 4  # of a and b as they are
        v = 4 / jnp.pi**2 * angle**2
        iou = (5 * 4) / (32 + 25 - 20)
        weight = v / (1 - iou + v)
        width, height = box[2] - box[0], box[3] - box[1]
        free_v = 4 / jnp.pi**2 * (jnp.arctan(width / height) - jnp.pi / 4) ** 2
        overlap = jnp.minimum(box[2], 5) * jnp.minimum(box[3], 5)
        free_iou = overlap / (width * height + 25 - overlap)
        centre = ((box[0] + box[2] - 5) ** 2 + (box[1] + box[3] - 5) ** 2) / 4
        diagonal = jnp.maximum(box[2], 5) ** 2 + jnp.maximum(box[3], 5) ** 2
        return free_iou - centre / diagonal - weight * free_v

    got = jax.grad(lambda box: ciou(box, b))(a)
    # The left and top sides tie between the boxes: compare the right and the bottom.
    expected = jax.grad(with_constant_weight)(a)
    np.testing.assert_allclose(got[2:], expected[2:], rtol=1e-4)


@jax.jit
def loss_and_gradients(logits, distances, truth):
    def total(logits, distances):
        terms = detection_loss(decode(logits, distances), POINTS, STRIDES, truth, TAL)
        return 7.5 * terms.box + 0.5 * terms.cls + 1.5 * terms.dfl

    return jax.value_and_grad(total, (0, 1))(logits, distances)


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_loss_and_gradients_of_images_without_objects_are_finite():
    boxes, labels, valid = objects(0)
    predictions = predict(0)
    loss, gradients = loss_and_gradients(
        predictions.logits, predictions.distances, Objects(boxes * 0, labels * 0, valid & False)
    )
    assert_finite((loss, gradients))
    assert not gradients[1].any()
    # With no object the norm is 1, and only the background is learned.
    expected = 0.5 * np.log1p(np.exp(np.asarray(predictions.logits, np.float64))).sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("favoured", [0, 15])
def test_boxes_of_no_size_and_of_one_pixel_have_finite_gradients(favoured):
    logits = predict(0).logits
    distances = jnp.zeros((2, len(POINTS), 4, 16)).at[..., favoured].set(300.0)
    boxes, labels, valid = objects(1)
    # Half the objects are one pixel around an anchor point, so that it is inside.
    pixel = jnp.concatenate([POINTS[:4] - 0.5, POINTS[:4] + 0.5], -1)
    boxes = boxes.at[:, :4].set(pixel[None])
    assert_finite(loss_and_gradients(logits, distances, Objects(boxes, labels, valid | True)))


def test_hundreds_of_objects_have_finite_gradients():
    predictions = predict(2)
    result = loss_and_gradients(predictions.logits, predictions.distances, objects(2, slots=300))
    assert_finite(result)


def test_half_precision_predictions_are_taken_in_float32():
    predictions = jax.tree.map(lambda part: part.astype(jnp.bfloat16), predict(0))
    terms = detection_loss(predictions, POINTS, STRIDES, objects(0), TAL)
    assert all(term.dtype == jnp.float32 for term in terms)


def test_gradient_steps_on_one_image_halve_the_loss():
    predictions, truth = predict(0, images=1), objects(0, images=1)
    state = (predictions.logits, predictions.distances)
    before, _ = loss_and_gradients(*state, truth)
    for _ in range(150):
        loss, gradients = loss_and_gradients(*state, truth)
        state = jax.tree.map(lambda value, slope: value - 0.5 * slope, state, gradients)
    assert loss < 0.5 * before


def predict_raw(form, seed, *, spread=1.0, objectness=False):
    """Random predictions of boxes without bins."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(-1, 1, (2, len(POINTS), 3)), jnp.float32)
    values = jnp.asarray(rng.normal(1, spread, (2, len(POINTS), 4, 1)), jnp.float32)
    objects = jnp.asarray(rng.normal(-1, 1, (2, len(POINTS))), jnp.float32)
    boxes = DECODERS[form](values, POINTS, STRIDES)
    return Predictions(logits, boxes, values, objects if objectness else None)


@pytest.mark.parametrize("form", ["ltrb", "cxcywh"])
def test_boxes_without_bins_have_no_dfl_and_the_same_other_terms(form):
    predictions, truth = predict_raw(form, 0), objects(0)
    got = detection_loss(predictions, POINTS, STRIDES, truth, TAL)
    # The loop's DFL term needs two bins; it is not compared.
    expected = loop_loss(predictions._replace(distances=predict(0).distances), truth)
    assert (expected > 0.01).all()
    np.testing.assert_allclose(np.array(got)[:2], expected[:2], rtol=2e-4)
    assert got.dfl == 0


def test_objectness_is_learned_everywhere_and_classes_on_the_positives_alone():
    predictions, truth = predict_raw("cxcywh", 3, objectness=True), objects(3)
    got = detection_loss(predictions, POINTS, STRIDES, truth, TAL)
    scores = sigmoid(predictions.logits) * sigmoid(predictions.objectness)[..., None]
    assigned = assign(jnp.asarray(scores, jnp.float32), predictions.boxes, POINTS, truth, TAL)
    targets = jax.tree.map(np.asarray, assigned)
    assert targets.positive.any()
    cls = 0.0
    for b in range(2):
        for a in range(len(POINTS)):
            p = sigmoid(predictions.objectness)[b, a]
            cls -= np.log(p) if targets.positive[b, a] else np.log(1 - p)
            if targets.positive[b, a]:
                p, t = sigmoid(predictions.logits)[b, a], targets.scores[b, a]
                cls -= (t * np.log(p) + (1 - t) * np.log(1 - p)).sum()
    np.testing.assert_allclose(got.cls, cls / max(targets.scores.sum(), 1), rtol=2e-4)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def test_one_to_one_adds_the_loss_of_one_point_for_each_object():
    first, second, truth = predict(0), predict(1), objects(0)
    got = detection_loss(first._replace(one_to_one=second), POINTS, STRIDES, truth, TAL)
    many = detection_loss(first, POINTS, STRIDES, truth, TAL)
    one = detection_loss(second, POINTS, STRIDES, truth, replace(TAL, topk=1))
    np.testing.assert_allclose(got, np.add(many, one), rtol=1e-6)
    alike = detection_loss(second, POINTS, STRIDES, truth, TAL)
    assert np.abs(np.subtract(alike, one)).min() > 1e-3


@partial(jax.jit, static_argnames="form")
def raw_loss_and_gradients(form, logits, values, objectness, truth):
    def total(logits, values, objectness):
        boxes = DECODERS[form](values, POINTS, STRIDES)
        predictions = Predictions(logits, boxes, values, objectness)
        terms = detection_loss(predictions, POINTS, STRIDES, truth, TAL)
        return 7.5 * terms.box + 0.5 * terms.cls

    return jax.value_and_grad(total, (0, 1, 2))(logits, values, objectness)


@pytest.mark.parametrize("value", [-1e4, -100.0, -1.0, 0.0, 100.0, 1e4, "mixed"])
@pytest.mark.parametrize("form", ["ltrb", "cxcywh"])
def test_extreme_raw_outputs_have_finite_gradients(form, value):
    rng = np.random.default_rng(0)
    shape = (2, len(POINTS), 4, 1)
    values = rng.choice([-1e4, -30, -1, 0, 1, 30, 1e4], shape) if value == "mixed" else value
    values = jnp.broadcast_to(jnp.asarray(values, jnp.float32), shape)
    logits = jnp.asarray(rng.choice([-1e4, 0, 1e4], (2, len(POINTS), 3)), jnp.float32)
    boxes, labels, valid = objects(1)
    # Half the objects are one pixel around an anchor point, or a point.
    pixel = jnp.concatenate([POINTS[:4] - 0.5, POINTS[:4] + 0.5], -1).at[1, 2:].set(POINTS[1] - 0.5)
    boxes = boxes.at[:, :4].set(pixel[None])
    for here in (valid | True, valid & False):
        assert_finite(
            raw_loss_and_gradients(
                form, logits, values, logits[..., 0], Objects(boxes, labels, here)
            )
        )


@pytest.mark.parametrize("form", ["ltrb", "cxcywh"])
def test_gradient_steps_on_raw_outputs_halve_the_loss(form):
    start, truth = predict_raw(form, 0, objectness=True), objects(0)
    state = (start.logits, start.distances, start.objectness)
    before, _ = raw_loss_and_gradients(form, *state, truth)
    for _ in range(150):
        loss, gradients = raw_loss_and_gradients(form, *state, truth)
        state = jax.tree.map(lambda value, slope: value - 0.2 * slope, state, gradients)
    assert loss < 0.5 * before
