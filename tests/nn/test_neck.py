"""Necks: levels, widths, who sees whom, parameters counted by hand, folding."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.attention import SqueezeExcite
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.neck import BIFPN_EPSILON, NECKS, Transpose, WeightedFusion
from flaxyolo.spec import NeckSpec

CONV = Layers()
SIDES = {2: 16, 3: 8, 4: 4, 5: 2, 6: 1}
C_WIDTHS = {2: 8, 3: 16, 4: 24, 5: 32, 6: 40}
RUNS = [(3,), (2, 3, 4), (3, 4, 5), (2, 3, 4, 5), (3, 4, 5, 6)]
OPTIONS = {
    "fpn": [{}, {"reduce": True}, {"upsample": "transpose"}, {"out_width": 24}],
    "pan": [{}, {"reduce": True}, {"upsample": "transpose"}, {"out_width": 24}],
    "bifpn": [{}, {"repeats": 2}, {"upsample": "transpose"}, {"out_width": 24}],
}
TOGETHER = {
    "fpn": {"reduce": True, "upsample": "transpose", "out_width": 24},
    "pan": {"reduce": True, "upsample": "transpose", "out_width": 24},
    "bifpn": {"repeats": 2, "upsample": "transpose", "out_width": 24},
}
CASES = [(kind, changes) for kind in NECKS for changes in ({}, TOGETHER[kind])]
SHAPES = [((3, 4, 5), kind, changes) for kind in NECKS for changes in OPTIONS[kind]]
SHAPES += [(levels, kind, TOGETHER[kind]) for levels in RUNS for kind in NECKS]


def rng():
    return np.random.default_rng(0)


def make(spec, in_widths, widths, conv=CONV):
    return NECKS[spec.kind](spec, tuple(in_widths), tuple(widths), conv=conv, rng=rng())


def spec_and_neck(kind, levels, changes, conv=CONV):
    """A neck over the levels, whose widths are not the backbone's where they need not be one."""
    changes = {"block": "plain", "downsample": "conv"} | changes
    spec = NeckSpec(kind=kind, levels=levels, **changes)
    widths = [16 if kind == "bifpn" else C_WIDTHS[level] + 8 for level in levels]
    return spec, make(spec, [C_WIDTHS[level] for level in levels], widths, conv), widths


def features_of(levels, width=None, seed=0):
    draw = np.random.default_rng(seed)
    shapes = [(2, SIDES[n], SIDES[n], width or C_WIDTHS[n]) for n in levels]
    return [jnp.asarray(draw.normal(size=shape), jnp.float32) for shape in shapes]


def params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def conv_params(inputs, outputs, kernel):
    return inputs * outputs * kernel**2 + 2 * outputs


def shaken(module):
    """The same with norms and statistics as after training, in NumPy."""
    draw = np.random.default_rng(1)

    def shake(path, leaf):
        if path[-1].key == "var":
            return draw.uniform(0.5, 2, leaf.shape).astype(np.float32)
        if path[-1].key in ("scale", "bias", "mean", "weights"):
            return (leaf + draw.normal(0, 0.2, leaf.shape)).astype(np.float32)
        return np.asarray(leaf)

    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree_util.tree_map_with_path(shake, nnx.as_pure(state)))


@pytest.mark.parametrize(("levels", "kind", "changes"), SHAPES, ids=str)
def test_a_neck_keeps_every_level_and_gives_it_its_width(levels, kind, changes):
    def run():
        return spec_and_neck(kind, levels, changes)[1](features_of(levels))

    shapes = [x.shape for x in nnx.eval_shape(run)]
    widths = [16 if kind == "bifpn" else C_WIDTHS[level] + 8 for level in levels]
    if "out_width" in changes:
        widths = [changes["out_width"]] * len(levels)
    expected = [(2, SIDES[n], SIDES[n], w) for n, w in zip(levels, widths, strict=True)]
    assert shapes == expected


@pytest.mark.parametrize("kind", NECKS)
def test_each_level_has_its_own_block_and_attention(kind):
    spec = NeckSpec(kind=kind, block=("plain", "c2f", "c3"), attention=("se", "none", "se"))
    neck = make(spec, (16, 16, 16), (16, 16, 16))
    features = [jnp.ones((1, side, side, 16)) for side in (8, 4, 2)]
    outputs = jax.eval_shape(lambda features: neck(features), features)
    assert [x.shape for x in outputs] == [x.shape for x in features]
    gates = [part for _, part in nnx.iter_graph(neck) if isinstance(part, SqueezeExcite)]
    # The finest level has one node; the coarsest has one on the way up, which an FPN lacks.
    assert len(gates) == (1 if kind == "fpn" else 2)


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_every_output_sees_the_coarsest_level_and_the_coarsest_of_all_but_fpn_the_finest(
    kind, changes
):
    _, neck, _ = spec_and_neck(kind, (3, 4, 5), changes)
    features = features_of((3, 4, 5))
    run = jax.jit(lambda features: neck(features))
    before, coarse = run(features), run([*features[:2], features[2] + 1])
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, coarse, strict=True))
    fine = run([features[0] + 1, *features[1:]])
    assert np.abs(before[0] - fine[0]).max() > 0
    assert (np.abs(before[-1] - fine[-1]).max() > 0) == (kind != "fpn")


def test_a_single_level_is_its_block_and_attention_alone():
    block = conv_params(16, 24, 3)
    gate = 24 * 8 + 8 + 8 * 24 + 24
    for kind in ("fpn", "pan"):
        spec = NeckSpec(kind=kind, levels=(4,), block="plain", attention="se", reduce=True)
        assert params(make(spec, (16,), (24,))) == block + gate
    spec = NeckSpec(kind="bifpn", levels=(4,), block="plain", attention="se", repeats=2)
    per_run = conv_params(24, 24, 3) + gate
    assert params(make(spec, (16,), (24,))) == conv_params(16, 24, 1) + 2 * per_run


def test_a_neck_that_reduces_has_the_parameters_counted_by_hand():
    spec = NeckSpec(block="plain", reduce=True)
    w3, w4, w5 = 16, 24, 40
    top_down = conv_params(48, w4, 1) + conv_params(w4 + 32, w4, 3)  # r5, m4
    top_down += conv_params(w4, w3, 1) + conv_params(w3 + 8, w3, 3)  # r4, p3
    bottom_up = conv_params(w3, w3, 3) + conv_params(w3 + w3, w4, 3)  # p4
    bottom_up += conv_params(w4, w4, 3) + conv_params(w4 + w4, w5, 3)  # p5
    assert params(make(spec, (8, 32, 48), (w3, w4, w5))) == top_down + bottom_up


def test_an_fpn_that_reduces_projects_its_coarsest_level():
    spec = NeckSpec(kind="fpn", levels=(3, 4), block="plain", reduce=True)
    expected = conv_params(32, 24, 1)  # P4
    expected += conv_params(24, 16, 1) + conv_params(16 + 8, 16, 3)  # r4, p3
    assert params(make(spec, (8, 32), (16, 24))) == expected


@pytest.mark.parametrize("kind", NECKS)
def test_an_output_width_adds_one_convolution_a_level(kind):
    with_it, without = (
        params(make(NeckSpec(kind=kind, block="plain", out_width=width), (16,) * 3, (16,) * 3))
        for width in (40, None)
    )
    assert with_it - without == 3 * conv_params(16, 40, 3)


@pytest.mark.parametrize(("reduce", "widths"), [(False, (24, 40)), (True, (16, 24))])
def test_a_transposed_convolution_has_four_kernels_and_a_bias(reduce, widths):
    learned, nearest = (
        params(
            make(
                NeckSpec(block="plain", reduce=reduce, upsample=upsample),
                (16, 24, 40),
                (16, 24, 40),
            )
        )
        for upsample in ("transpose", "nearest")
    )
    # Of the width that goes up: its own, or the next finer level's.
    assert learned - nearest == sum(4 * width**2 + width for width in widths)


def test_a_transposed_convolution_puts_four_products_in_place_of_each_cell():
    layer = Transpose(3, dtype=jnp.float32, rng=rng())
    layer.bias[...] = np.array([1, 2, 3], np.float32)
    x = rng().normal(size=(2, 3, 4, 3)).astype(np.float32)
    y = layer(jnp.asarray(x))
    assert y.shape == (2, 6, 8, 3)
    kernel = np.asarray(layer.kernel[...])
    for row, column in product(range(6), range(8)):
        cell = x[:, row // 2, column // 2] @ kernel[row % 2, column % 2]
        np.testing.assert_allclose(y[:, row, column], cell + np.array([1, 2, 3]), rtol=1e-4)


def test_a_bifpn_has_the_parameters_counted_by_hand():
    spec = NeckSpec(kind="bifpn", levels=(3, 4, 5, 6), block="plain", repeats=2)
    project = sum(conv_params(width, 16, 1) for width in (24, 32, 40))  # P3 has the width already
    nodes = 6 * conv_params(16, 16, 3)  # P5 P4 P3 on the way down, P4 P5 P6 on the way up
    weights = 3 * 2 + 3 + 3 + 2
    downs = 3 * conv_params(16, 16, 3)
    neck = make(spec, (16, 24, 32, 40), (16, 16, 16, 16))
    assert params(neck) == project + 2 * (nodes + weights + downs)


def test_a_weighted_fusion_is_a_mean_without_negative_weights():
    spec = NeckSpec(kind="bifpn", block="plain")
    fuse = WeightedFusion(spec, 0, 3, 8, conv=Layers(activation="none"), rng=rng())
    a, b, c = features_of((3, 3, 3), width=8)
    np.testing.assert_allclose(
        fuse(a, b, c), fuse.node((a + b + c) / (3 + BIFPN_EPSILON)), rtol=1e-4, atol=1e-5
    )
    fuse.weights[...] = np.array([1.0, -5.0, 3.0], np.float32)
    np.testing.assert_allclose(
        fuse(a, b, c), fuse.node((a + 3 * c) / (4 + BIFPN_EPSILON)), rtol=1e-4, atol=1e-5
    )
    fuse.weights[...] = np.full(3, -1, np.float32)
    assert np.isfinite(fuse(a, b, c)).all()


def test_a_bifpn_of_several_widths_is_refused():
    with pytest.raises(ValueError, match=r"must be one number for kind bifpn, got \[16, 24\]"):
        make(NeckSpec(kind="bifpn", levels=(3, 4)), (16, 24), (16, 24))


def test_an_unknown_part_is_named_with_its_place():
    for field in ("block", "attention", "downsample"):
        with pytest.raises(ValueError, match=rf"neck\.{field} must be one of .*, got 'nothing'"):
            make(NeckSpec(**{field: "nothing"}), (16, 16, 16), (16, 16, 16))


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=str)
def test_the_folded_neck_says_the_same(kind, changes):
    levels = (3, 4, 5)
    _, neck, _ = spec_and_neck(kind, levels, changes | {"attention": "se"})
    neck, features = shaken(neck), features_of(levels)
    before = jax.jit(lambda features: neck(features))(features)
    folded = fuse_network(neck)
    assert not jax.tree.leaves(nnx.state(folded, nnx.BatchStat))
    after = jax.jit(lambda features: folded(features))(features)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("kind", NECKS)
def test_every_parameter_of_a_neck_has_a_gradient(kind):
    levels = (3, 4, 5)
    _, neck, _ = spec_and_neck(kind, levels, TOGETHER[kind])
    neck = nnx.view(neck, use_running_average=False)
    graph, *states = nnx.split(neck, nnx.Param, ...)
    state, rest = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in states)
    features = features_of(levels)
    targets = features_of(levels, width=24, seed=1)

    def loss(state):
        outputs = nnx.merge(graph, state, rest)(features)
        return sum(((y - t) ** 2).sum() for y, t in zip(outputs, targets, strict=True))

    gradient = jax.jit(jax.grad(loss))(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_a_neck_works_in_half_precision():
    features = [x.astype(jnp.bfloat16) for x in features_of((3, 4))]
    for kind in NECKS:
        _, neck, _ = spec_and_neck(kind, (3, 4), TOGETHER[kind], Layers(dtype=jnp.bfloat16))
        outputs = jax.eval_shape(lambda features, neck=neck: neck(features), features)
        assert {x.dtype for x in outputs} == {jnp.dtype("bfloat16")}
