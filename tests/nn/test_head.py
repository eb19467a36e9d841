"""The head: shapes of every form, decoding and parameters by hand, folding."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.detector import abstract_weights, fused_graph, initial_weights, predict
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.head import Head, Predictions, decode_cxcywh, decode_dfl, decode_ltrb
from flaxyolo.nn.layers import Layers
from flaxyolo.spec import HeadSpec, NeckSpec
from tests.small import tiny_spec

WIDTHS = {"depth": 2, "box_width": 16, "class_width": 24}
HEADS = {
    "dfl": HeadSpec(reg_max=8, **WIDTHS),
    "ltrb": HeadSpec(box="ltrb", **WIDTHS),
    "cxcywh": HeadSpec(box="cxcywh", **WIDTHS),
    "separable": HeadSpec(box_conv="separable", class_conv="separable", **WIDTHS),
    "stem": HeadSpec(stem_width=32, **WIDTHS),
    "shared": HeadSpec(box="ltrb", shared=True, **WIDTHS),
    "attention": HeadSpec(attention="se", **WIDTHS),
    "attention of one level": HeadSpec(attention=("none", "se"), stem_width=32, **WIDTHS),
    "objectness": HeadSpec(objectness=True, **WIDTHS),
    "one to one": HeadSpec(one_to_one=True, class_conv="separable", **WIDTHS),
    "as YOLOX": HeadSpec(box="cxcywh", objectness=True, stem_width=32, **WIDTHS),
    "shared, separable, objectness": HeadSpec(
        shared=True, box_conv="separable", class_conv="separable", objectness=True, **WIDTHS
    ),
    "shared, one to one": HeadSpec(shared=True, one_to_one=True, stem_width=32, **WIDTHS),
}
ANCHORS = 8 * 8 + 4 * 4
IMAGES = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
FEATURES = [
    jnp.asarray(np.random.default_rng(side).normal(size=(2, side, side, 16)), jnp.float32)
    for side in (8, 4)
]


def params(spec):
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_weights(spec).params["head"]))


def conv(inputs, outputs, kernel, groups=1):
    return inputs // groups * outputs * kernel**2 + 2 * outputs


def dense(inputs, width, outputs):
    return conv(inputs, width, 3) + conv(width, width, 3) + predicted(width, outputs)


def separable(inputs, width, outputs):
    pairs = conv(inputs, inputs, 3, inputs) + conv(inputs, width, 1)
    pairs += conv(width, width, 3, width) + conv(width, width, 1)
    return pairs + predicted(width, outputs)


def predicted(width, outputs):
    return width * outputs + outputs


def shaken(module):
    """The same with norms, biases and statistics as after training, in NumPy."""
    draw = np.random.default_rng(1)

    def shake(path, leaf):
        if path[-1].key == "var":
            return draw.uniform(0.5, 2, leaf.shape).astype(np.float32)
        if path[-1].key in ("scale", "bias", "mean"):
            return (leaf + draw.normal(0, 0.2, leaf.shape)).astype(np.float32)
        return np.asarray(leaf)

    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(shake, nnx.as_pure(state)))


def make(spec):
    return Head(spec, conv=Layers(norm=spec.norm), rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", HEADS)
def test_every_form_predicts_at_every_point_of_every_level_in_float32(name):
    spec = tiny_spec(head=HEADS[name])
    out = jax.eval_shape(
        lambda w, x: predict(spec, w, x, jnp.bfloat16), abstract_weights(spec), IMAGES
    )
    assert (out.one_to_one is not None) == spec.head.one_to_one
    for part in (out, out.one_to_one or out):
        assert part.logits.shape == (2, ANCHORS, 3)
        assert part.boxes.shape == (2, ANCHORS, 4)
        assert part.distances.shape == (2, ANCHORS, 4, spec.head.bins)
        if spec.head.objectness:
            assert part.objectness.shape == (2, ANCHORS)
        else:
            assert part.objectness is None
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "batch") for name in HEADS), ("shared, one to one", "group")]
)
def test_the_folded_head_predicts_what_the_trained_one_does(name, norm):
    head = shaken(make(tiny_spec(head=HEADS[name], norm=norm)))
    trained = jax.jit(lambda features: head(features))(FEATURES)
    if trained.one_to_one is not None:
        trained = trained.one_to_one
    folded = fuse_network(head)
    said = jax.jit(lambda features: folded(features))(FEATURES)
    assert said.one_to_one is None
    for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(said), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))


def test_dense_and_separable_branches_have_the_parameters_counted_by_hand():
    dense_head = 2 * (dense(16, 16, 4 * 8) + dense(16, 24, 3))
    assert params(tiny_spec(head=HEADS["dfl"])) == dense_head
    separable_head = 2 * (separable(16, 16, 4 * 16) + separable(16, 24, 3))
    assert params(tiny_spec(head=HEADS["separable"])) == separable_head


def test_stem_objectness_and_a_second_pair_have_the_parameters_counted_by_hand():
    stem = conv(16, 32, 1)
    level = stem + dense(32, 16, 4 * 16) + dense(32, 24, 3)
    assert params(tiny_spec(head=HEADS["stem"])) == 2 * level
    level = stem + dense(32, 16, 4) + predicted(16, 1) + dense(32, 24, 3)
    assert params(tiny_spec(head=HEADS["as YOLOX"])) == 2 * level
    pair = 2 * (dense(16, 16, 4 * 16) + separable(16, 24, 3))
    assert params(tiny_spec(head=HEADS["one to one"])) == 2 * pair


def test_shared_branches_have_one_set_of_kernels_and_a_norm_for_each_level():
    kernels = 9 * (16 * 16 + 16 * 16) + 9 * (16 * 24 + 24 * 24)
    norms = 2 * 2 * (16 + 16) + 2 * 2 * (24 + 24)
    predictions = 2 * (predicted(16, 4) + predicted(24, 3))
    spec = tiny_spec(head=HEADS["shared"])
    assert params(spec) == kernels + norms + predictions
    # Folded, each level has its own kernels: its norms are in them.
    folded = fused_graph(spec, jnp.float32)[1].params["head"]
    biases = 2 * (16 + 16) + 2 * (24 + 24)
    assert sum(leaf.size for leaf in jax.tree.leaves(folded)) == 2 * kernels + biases + predictions


def test_shared_branches_over_levels_of_several_widths_are_refused():
    neck = NeckSpec(kind="fpn", levels=(3, 4), block="plain", widths=(16, 24))
    with pytest.raises(ValueError, match=r"head\.shared needs levels of one width, got \[16, 24\]"):
        abstract_weights(tiny_spec(neck=neck, head=HEADS["shared"]))
    abstract_weights(tiny_spec(neck=neck, head=replace(HEADS["shared"], stem_width=16)))


def test_an_unknown_attention_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"head\.attention must be one of .*, got 'see'"):
        abstract_weights(tiny_spec(head=HeadSpec(attention="see")))


def test_decoding_takes_the_mean_distance_from_the_point_in_strides():
    # One bin far above the others: distances of exactly 1, 2, 3 and 0 strides.
    distances = jnp.full((1, 2, 4, 4), -100.0)
    for side, bins in enumerate((1, 2, 3, 0)):
        distances = distances.at[0, 0, side, bins].set(100.0)
    distances = distances.at[0, 1].set(0.0)  # all four bins alike: 1.5 strides
    points, strides = jnp.asarray([[20.0, 28.0], [40.0, 40.0]]), jnp.asarray([8.0, 16.0])
    boxes = decode_dfl(distances, points, strides)
    expected = [[20 - 8, 28 - 16, 20 + 24, 28 + 0], [40 - 24, 40 - 24, 40 + 24, 40 + 24]]
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-6)


def test_distances_in_strides_are_taken_as_they_are():
    values = jnp.asarray([[[1.0, 2, 3, 0.5], [-0.5, 1, 2, 1], [-3, 1, 1, 1]]])[..., None]
    points = jnp.asarray([[20.0, 28.0], [40.0, 40.0], [40.0, 40.0]])
    boxes = decode_ltrb(values, points, jnp.asarray([8.0, 16.0, 16.0]))
    expected = [
        [20 - 8, 28 - 16, 20 + 24, 28 + 4],
        [40 + 8, 40 - 16, 40 + 32, 40 + 16],  # the point lies beside its box
        # 88 and 56 would be left and right: both move to the middle.
        [72, 40 - 16, 72, 40 + 16],
    ]
    np.testing.assert_allclose(boxes[0], expected, rtol=1e-6)


def test_centres_count_from_the_corner_of_the_cell_and_sizes_are_logarithms():
    # Cell (x 2, y 3) of stride 8: corner (16, 24), point (20, 28).
    values = jnp.asarray([[[0.25, 0.5, np.log(2), np.log(4)], [0.5, 0.5, 99, -99]]])[..., None]
    points, strides = jnp.asarray([[20.0, 28.0], [8.0, 8.0]]), jnp.asarray([8.0, 16.0])
    boxes = decode_cxcywh(values, points, strides)
    centre, width, height = (16 + 2, 24 + 4), 16, 32
    expected = [centre[0] - width / 2, centre[1] - height / 2]
    expected += [centre[0] + width / 2, centre[1] + height / 2]
    np.testing.assert_allclose(boxes[0, 0], expected, rtol=1e-6)
    half = np.exp(10) * 16 / 2  # no larger
    np.testing.assert_allclose(boxes[0, 1], [8 - half, 8, 8 + half, 8], rtol=1e-5)


@pytest.mark.parametrize("box", ["dfl", "ltrb", "cxcywh"])
def test_fresh_boxes_lie_around_their_points(box):
    head = make(tiny_spec(head=HeadSpec(box=box, depth=1)))
    # Without features the boxes are where the biases put them.
    boxes = head([x * 0 for x in FEATURES]).boxes
    half = {"dfl": 7.5, "ltrb": 1.0, "cxcywh": np.e / 2}[box] * 8
    np.testing.assert_allclose(boxes[0, 0], [4 - half, 4 - half, 4 + half, 4 + half], rtol=1e-5)


def test_objectness_starts_at_one_percent_and_scales_every_class():
    spec = tiny_spec(head=HEADS["objectness"])
    for branch in make(spec).box:
        np.testing.assert_allclose(jax.nn.sigmoid(branch.objectness.bias[...]), 0.01, rtol=1e-5)
    logits = jnp.asarray([[[0.0, np.log(3)], [0.0, -100]]])
    empty = jnp.zeros((1, 2, 4))
    out = Predictions(logits, empty, empty[..., None], jnp.asarray([[np.log(1 / 3), 100.0]]))
    np.testing.assert_allclose(out.scores[0], [[0.125, 0.1875], [0.5, 0]], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(out._replace(objectness=None).scores[0, 0], [0.5, 0.75], rtol=1e-5)


@pytest.mark.parametrize("name", ["as YOLOX", "shared, one to one"])
def test_every_parameter_of_a_head_has_a_gradient_and_every_norm_its_statistics(name):
    head = nnx.view(make(tiny_spec(head=HEADS[name])), use_running_average=False)
    graph, *states = nnx.split(head, nnx.Param, ...)
    state, rest = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in states)

    def loss(state):
        network = nnx.merge(graph, state, rest)
        out = network(FEATURES)
        moved = nnx.as_pure(nnx.state(network, nnx.BatchStat))
        return sum((part**2).sum() for part in jax.tree.leaves(out)), moved

    gradient, moved = jax.jit(jax.grad(loss, has_aux=True))(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    for before, after in zip(jax.tree.leaves(rest), jax.tree.leaves(moved), strict=True):
        assert np.abs(after - before).max() > 0


def test_with_objectness_both_parts_of_a_score_start_at_one_percent():
    spec = tiny_spec(head=HeadSpec(depth=1, objectness=True))
    out = predict(spec, initial_weights(spec, 0), jnp.full((1, 64, 64, 3), 0.5), jnp.float32)
    assert out.objectness is not None
    np.testing.assert_allclose(jax.nn.sigmoid(out.objectness).mean(), 0.01, atol=0.005)
    np.testing.assert_allclose(jax.nn.sigmoid(out.logits).mean(), 0.01, atol=0.005)
