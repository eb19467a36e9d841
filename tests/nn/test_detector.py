"""The whole network: parameters counted by hand, decoding, and `detect`."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.base.boxes import anchor_points, letterbox_image
from flaxyolo.config import read_config
from flaxyolo.cost.measure import count_gflops
from flaxyolo.nn.detector import (
    TrainedDetector,
    Weights,
    abstract_weights,
    best_pairs,
    detect,
    fuse,
    fused_graph,
    graph,
    initial_weights,
    predict,
    run_network,
)
from flaxyolo.spec import BackboneSpec, HeadSpec, NeckSpec, StageSpec
from flaxyolo.training.assign import AssignConfig, Objects
from flaxyolo.training.loss import detection_loss
from tests.small import tiny_spec

YOLOV8N = read_config(Path(__file__).parents[2] / "configs/yolov8n.yaml").detector


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def conv(inputs, outputs, kernel):
    """Kernel, scale and bias of a convolution with its norm."""
    return inputs * outputs * kernel**2 + 2 * outputs


def c2f(inputs, width, depth):
    half = width // 2
    layers = depth * 2 * conv(half, half, 3)
    return conv(inputs, width, 1) + layers + conv((2 + depth) * half, width, 1)


def branch(inputs, width, outputs):
    return conv(inputs, width, 3) + conv(width, width, 3) + width * outputs + outputs


def noise(count, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_yolov8n_has_the_published_number_of_parameters():
    assert size_of(abstract_weights(YOLOV8N).params) == 3_157_184


def test_the_parts_of_yolov8n_have_the_parameters_counted_by_hand():
    params = abstract_weights(YOLOV8N).params
    stem, widths, depths = 16, (32, 64, 128, 256), (1, 2, 2, 1)
    backbone = conv(3, stem, 3)
    for before, width, depth in zip((stem, *widths), widths, depths, strict=False):
        backbone += conv(before, width, 3) + c2f(width, width, depth)
    backbone += conv(256, 128, 1) + conv(4 * 128, 256, 1)  # SPPF
    assert size_of(params["backbone"]) == backbone
    neck = c2f(256 + 128, 128, 1) + c2f(128 + 64, 64, 1)
    neck += conv(64, 64, 3) + c2f(64 + 128, 128, 1) + conv(128, 128, 3) + c2f(128 + 256, 256, 1)
    assert size_of(params["neck"]) == neck
    head = sum(branch(width, 64, 4 * 16) + branch(width, 80, 80) for width in (64, 128, 256))
    assert size_of(params["head"]) == head


@pytest.mark.parametrize("kind", ["fpn", "pan", "bifpn"])
@pytest.mark.parametrize(("norm", "activation"), [("batch", "silu"), ("group", "relu")])
def test_predictions_cover_every_anchor_point_of_every_level(kind, norm, activation):
    spec = tiny_spec(
        neck=NeckSpec(kind=kind, levels=(2, 3, 4), block="plain", widths=16),
        norm=norm,
        activation=activation,
    )
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    out = jax.eval_shape(
        lambda w, x: predict(spec, w, x, jnp.bfloat16), abstract_weights(spec), images
    )
    anchors = 16 * 16 + 8 * 8 + 4 * 4
    assert len(anchor_points(64, spec.strides)[0]) == anchors
    shapes = [(2, anchors, 3), (2, anchors, 4), (2, anchors, 4, 8)]
    assert [part.shape for part in jax.tree.leaves(out)] == shapes
    assert {part.dtype for part in jax.tree.leaves(out)} == {jnp.dtype("float32")}


def test_a_context_layer_and_a_stage_without_stride_are_built():
    stages = (
        StageSpec(block="plain", width=8, depth=1),
        StageSpec(block="plain", width=16, depth=1),
        StageSpec(block="plain", width=24, depth=1, stride=1, attention="se"),
        StageSpec(block="plain", width=16, depth=1),
    )
    spec = tiny_spec(backbone=BackboneSpec(stem_width=8, stages=stages, context="sppf"))
    assert spec.backbone.level_widths == {2: 8, 3: 24, 4: 16}
    found = detect(spec, fuse(spec, initial_weights(spec, 0)), noise(1))
    assert np.isfinite(found.boxes).all()


def test_the_same_seed_draws_the_same_weights():
    one, same, other = (initial_weights(tiny_spec(), seed) for seed in (3, 3, 4))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [w.params["backbone"]["stem"]["conv"]["conv"]["kernel"] for w in (one, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


def test_fresh_scores_stand_at_their_prior():
    spec = tiny_spec()
    weights = initial_weights(spec, 0)
    out = run_network(spec, fuse(spec, weights), jnp.full((1, 64, 64, 3), 0.5), jnp.float32)
    fine = out.logits[0, : 8 * 8]  # stride 8
    np.testing.assert_allclose(fine.mean(), np.log(5 / 3 / (640 / 8) ** 2), atol=0.5)


def test_training_moves_the_statistics_and_prediction_uses_them():
    spec = tiny_spec()
    weights = initial_weights(spec, 0)
    images = jnp.asarray(noise(2), jnp.float32) / 255

    def run(train):
        network = nnx.merge(
            graph(spec, train=train, dtype=jnp.float32), weights.params, weights.stats
        )
        out = network(images)
        return out, nnx.as_pure(nnx.state(network, nnx.BatchStat))

    _, moved = jax.jit(lambda: run(True))()
    _, kept = jax.jit(lambda: run(False))()
    for before, a, b in zip(*map(jax.tree.leaves, (weights.stats, moved, kept)), strict=True):
        assert np.abs(a - before).max() > 0
        np.testing.assert_array_equal(b, before)


def test_detect_takes_bytes_or_shares_alike():
    spec, images = tiny_spec(), noise(2)
    weights = initial_weights(spec, 0)
    of_bytes = detect(spec, fuse(spec, weights), images)
    of_floats = detect(spec, fuse(spec, weights), images.astype(np.float32) / 255)
    for a, b in zip(of_bytes, of_floats, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_images_of_a_batch_do_not_touch_each_other():
    spec, images = tiny_spec(), noise(3)
    weights = initial_weights(spec, 0)
    together = detect(spec, fuse(spec, weights), images)
    alone = detect(spec, fuse(spec, weights), images[1:2])
    np.testing.assert_allclose(together.boxes[1], alone.boxes[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(together.scores[1], alone.scores[0], rtol=1e-4, atol=1e-6)


def test_detections_come_best_first_and_valid_ones_before_the_rest():
    spec = tiny_spec()
    found = detect(spec, fuse(spec, initial_weights(spec, 0)), noise(1))
    scores, valid = np.asarray(found.scores[0]), np.asarray(found.valid[0])
    assert valid.any()
    assert (np.diff(scores) <= 0).all()
    assert (np.diff(valid.astype(int)) <= 0).all()


def test_the_score_of_a_class_is_scaled_by_the_objectness():
    head = HeadSpec(box="cxcywh", objectness=True, depth=1)
    spec = tiny_spec(head=head)
    fused, images = fuse(spec, initial_weights(spec, 0)), noise(2)
    out = run_network(spec, fused, jnp.asarray(images), jnp.float32)
    assert out.objectness is not None
    scores = 1 / (1 + np.exp(-np.asarray(out.logits, np.float64)))
    scores /= 1 + np.exp(-np.asarray(out.objectness, np.float64))[..., None]
    found = detect(spec, fused, images)
    # Fresh scores are below the least that is kept: nothing is found, whatever the classes say.
    assert scores.max() < 0.001
    assert not found.valid.any()
    sure = jax.tree_util.tree_map_with_path(certain, fused)
    out = run_network(spec, sure, jnp.asarray(images), jnp.float32)
    found = detect(spec, sure, images)
    expected = np.asarray(jax.nn.sigmoid(out.logits) * jax.nn.sigmoid(out.objectness)[..., None])
    np.testing.assert_allclose(found.scores[:, 0], expected.max((1, 2)), rtol=1e-4)
    assert (np.asarray(found.scores) < np.asarray(jax.nn.sigmoid(out.logits)).max()).all()


def certain(path, leaf):
    """Prediction biases of the class branches and of the objectness raised to likely objects."""
    names = [part.key for part in path[1:]]
    if names[0] != "head" or names[-2:] != ["predict", "bias"]:
        return leaf
    leaf = np.array(leaf)
    leaf[4 if names[1] == "box" else slice(None)] = 0.5
    return leaf


ONE_TO_ONE = HeadSpec(depth=1, reg_max=8, box_width=16, class_width=16, one_to_one=True)


def test_one_to_one_detections_are_the_best_pairs_with_nothing_suppressed():
    spec = tiny_spec(head=ONE_TO_ONE)
    weights = initial_weights(spec, 0)
    fused, images = fuse(spec, weights), noise(2)
    out = predict(spec, weights, jnp.asarray(images), jnp.float32).one_to_one
    found = detect(spec, fused, images)
    scores = np.asarray(jax.nn.sigmoid(out.logits))
    slots = found.scores.shape[1]
    assert slots == min(300, scores[0].size)
    for image in range(2):
        best = np.sort(scores[image].ravel())[::-1][:slots]
        np.testing.assert_allclose(found.scores[image], best * (best > 0.001), rtol=1e-4)
    assert found.valid.any()
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_one_to_one_keeps_boxes_that_overlap():
    boxes = jnp.asarray([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 9, 9]])
    scores = jnp.asarray([[0.9, 0.1], [0.8, 0.0], [0.0005, 0.3]])
    found_boxes, found_scores, labels, valid = best_pairs(scores, boxes)
    np.testing.assert_allclose(found_scores, [0.9, 0.8, 0.3, 0.1, 0, 0])
    np.testing.assert_array_equal(labels[:4], [0, 0, 1, 1])
    np.testing.assert_array_equal(valid, [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(found_boxes[:4], boxes[np.array([0, 1, 2, 0])])


def test_the_deployed_network_has_the_one_to_one_branches_alone():
    spec = tiny_spec(head=ONE_TO_ONE)
    plain = tiny_spec(head=replace(ONE_TO_ONE, one_to_one=False))
    assert count_gflops(spec) == count_gflops(plain)
    shapes = [
        jax.tree.map(lambda leaf: leaf.shape, fused_graph(s, jnp.float32)[1]) for s in (spec, plain)
    ]
    assert shapes[0] == shapes[1]
    branches = 2 * sum(
        conv(16, 16, 3) + 16 * outputs + outputs for outputs in (4 * 8, spec.num_classes)
    )
    more = size_of(abstract_weights(spec).params) - size_of(abstract_weights(plain).params)
    assert more == branches


def test_only_the_one_to_many_branches_teach_the_backbone():
    spec = tiny_spec(head=replace(ONE_TO_ONE, stem_width=16, attention="se"))
    weights = initial_weights(spec, 0)
    points, strides = map(jnp.asarray, anchor_points(64, spec.strides))
    truth = Objects(
        jnp.asarray([[[4.0, 4, 40, 40]]]),
        jnp.ones((1, 1), jnp.int32),
        jnp.ones((1, 1), bool),
    )
    config = AssignConfig(topk=10, alpha=0.5, beta=6.0)

    def loss(params, of_first, of_second):
        network = nnx.merge(graph(spec, train=True, dtype=jnp.float32), params, weights.stats)
        out = network(jnp.asarray(noise(1), jnp.float32) / 255)
        first = detection_loss(out._replace(one_to_one=None), points, strides, truth, config)
        second = detection_loss(out.one_to_one, points, strides, truth, config)
        return of_first * sum(first) + of_second * sum(second)

    gradient = jax.jit(jax.grad(loss))
    first, second = gradient(weights.params, 1.0, 0.0), gradient(weights.params, 0.0, 1.0)
    for part in ("backbone", "neck"):
        assert all(leaf.any() for leaf in jax.tree.leaves(first[part]))
        assert not any(leaf.any() for leaf in jax.tree.leaves(second[part]))
    for part in ("stem", "attention"):
        assert not any(leaf.any() for leaf in jax.tree.leaves(second["head"][part]))
    assert all(leaf.any() for leaf in jax.tree.leaves(second["head"]["one_to_one"]["cls"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(second["head"]["cls"]))


@pytest.mark.parametrize(("height", "width"), [(48, 130), (200, 90), (64, 64)])
def test_a_trained_detector_answers_in_pixels_of_the_image(height, width):
    spec = tiny_spec()
    detector = TrainedDetector(spec, initial_weights(spec, 0), ("a", "b", "c"))
    image = noise(1, 256)[0, :height, :width]
    found = detector(image, min_score=0.0)
    assert len(found.boxes) == len(found.scores) == len(found.labels) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, [0, 2]] <= width).all()
    assert (found.boxes[:, [1, 3]] <= height).all()
    assert found.boxes[:, 2].max() > width / 2
    inside = detect(spec, detector.fused, letterbox_image(image, 64)[None])
    assert len(found.scores) == int(inside.valid.sum())
    assert len(detector(image, min_score=1.0).boxes) == 0


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8, 2)), np.zeros((8, 8, 3), np.complex64), np.zeros(8, np.uint8), None]
)
def test_a_trained_detector_refuses_what_is_no_image(image):
    detector = TrainedDetector(tiny_spec(), Weights({}, {}), ("a", "b", "c"))
    with pytest.raises(ValueError, match="expected an image: a file's name, "):
        detector(image)


def test_detections_of_a_trained_detector_know_their_classes():
    spec = tiny_spec()
    detector = TrainedDetector(spec, initial_weights(spec, 0), ("a", "b", "c"))
    found = detector(noise(1, 64)[0], min_score=0.0)
    assert found.class_names == ("a", "b", "c")
    assert found.names == tuple("abc"[label] for label in found.labels)
    assert len(found.part(found.scores > 0).names) == len(found)


def test_a_trained_detector_is_shown_in_a_line():
    spec = tiny_spec()
    weights = initial_weights(spec, 0)
    params = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    names = tuple(f"a class with a long name {number}" for number in range(3))
    shown = repr(TrainedDetector(spec, weights, names))
    assert "3 classes" in shown
    assert f"{params:,} parameters" in shown
    assert f"{spec.image_size} px" in shown
    assert "\n" not in shown
    assert len(shown) < 150


def test_a_block_that_no_table_has_is_named():
    stages = tuple(StageSpec(block="c2ff", width=8, depth=1) for _ in range(3))
    spec = replace(tiny_spec(), backbone=BackboneSpec(stem_width=8, stages=stages))
    with pytest.raises(ValueError, match=r"block must be one of .*did you mean 'c2f'"):
        initial_weights(spec, 0)
