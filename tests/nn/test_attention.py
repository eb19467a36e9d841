"""Every attention keeps its contract, computes its paper's formula, and folds to an equal form."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.cost.flops import multiply_adds
from flaxyolo.cost.measure import count_gflops
from flaxyolo.nn.attention import (
    ATTENTIONS,
    area_tile,
    eca_kernel,
    tiled,
    untiled,
    window_tile,
)
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import Layers
from flaxyolo.spec import SELF_ATTENTIONS, BackboneSpec, NeckSpec, StageSpec
from tests.programs import equations
from tests.small import tiny_spec

CONV = Layers()
GATES = ("se", "eca", "cbam", "coordinate")
ACTIVE = (*GATES, *SELF_ATTENTIONS)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention(name, width, conv=CONV):
    return ATTENTIONS[name](width, conv=conv, rng=np.random.default_rng(0))


def drawn(module, seed=1):
    """The module with every weight and running statistic drawn anew."""
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        values = rng.normal(0, 0.5, variable.shape).astype(np.float32)
        variable[...] = np.abs(values) + 0.5 if path[-1] in ("var", "scale") else values
    return module


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def product(x, conv):
    """A 1x1 convolution with bias, in NumPy."""
    bias = 0 if conv.bias is None else np.asarray(conv.bias[...])
    return np.asarray(x) @ np.asarray(conv.kernel[...])[0, 0] + bias


def normed(x, layer):
    """1x1 convolution and batch norm of a ConvNormAct, in NumPy."""
    scale, shift = layer.norm.running_scale_and_shift()
    return product(x, layer.conv) * scale + shift


def test_the_tables_agree_on_what_is_there():
    assert set(ATTENTIONS) == {"none", *ACTIVE}


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("width", [8, 16, 40, 96])
def test_an_attention_keeps_the_shape(name, width):
    for side in ((5, 3), (1, 1), (4, 4), (20, 20), (13, 17)):
        out = nnx.eval_shape(lambda side=side: attention(name, width)(jnp.zeros((2, *side, width))))
        assert out.shape == (2, *side, width)
        assert out.dtype == jnp.float32


@pytest.mark.parametrize("name", ATTENTIONS)
def test_an_attention_returns_its_dtype(name):
    x = jax.ShapeDtypeStruct((1, 6, 9, 32), jnp.bfloat16)
    layer = attention(name, 32, Layers(dtype=jnp.bfloat16))
    assert nnx.eval_shape(lambda x: layer(x), x).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ACTIVE)
def test_every_parameter_has_a_finite_gradient_and_folding_changes_nothing(name):
    x, target = jnp.asarray(normal(2, 9, 5, 16)), jnp.asarray(normal(2, 9, 5, 16, seed=2))
    layer = drawn(attention(name, 16))
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    params = jax.tree.map(jnp.asarray, nnx.as_pure(params))

    @jax.jit
    def run(params):
        def loss(params):
            y = nnx.merge(graph, params, rest)(x)
            return ((y - target) ** 2).sum(), y

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, y), gradients = run(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path
    folded = fuse_network(layer)
    np.testing.assert_allclose(jax.jit(lambda x: folded(x))(x), y, rtol=1e-4, atol=1e-4)


def test_no_attention_is_the_identity():
    x = jnp.ones((1, 2, 2, 8))
    assert attention("none", 8)(x) is x


def test_squeeze_excite_scales_each_channel_by_its_gate():
    layer, x = drawn(attention("se", 16)), normal(2, 3, 4, 16)
    inner = np.maximum(product(x.mean((1, 2)), layer.reduce), 0)
    expected = x * sigmoid(product(inner, layer.expand))[:, None, None]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "size"),
    [(8, 3), (16, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_the_kernel_of_eca_follows_the_width(width, size):
    assert eca_kernel(width) == size
    assert attention("eca", width).kernel.shape == (size,)


def test_eca_gates_a_channel_by_the_means_of_its_neighbours():
    layer, x = drawn(attention("eca", 128)), normal(2, 3, 4, 128)
    mean = x.mean((1, 2))
    gate = [np.correlate(np.pad(one, 2), layer.kernel[...], "valid") for one in mean]
    expected = x * sigmoid(np.stack(gate))[:, None, None]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)


def test_cbam_gates_channels_by_an_mlp_and_then_cells_by_a_convolution():
    layer, x = drawn(attention("cbam", 16)), normal(2, 4, 9, 16)

    def mlp(values):
        return product(np.maximum(product(values, layer.reduce), 0), layer.expand)

    y = x * sigmoid(mlp(x.mean((1, 2))) + mlp(x.max((1, 2))))[:, None, None]
    maps = np.pad(np.stack([y.mean(-1), y.max(-1)], -1), [(0, 0), (3, 3), (3, 3), (0, 0)])
    kernel = np.asarray(layer.spatial.kernel[...])[..., 0]
    gate = np.zeros((2, 4, 9, 1), np.float32)
    for i in range(4):
        for j in range(9):
            gate[:, i, j, 0] = (maps[:, i : i + 7, j : j + 7] * kernel).sum((1, 2, 3))
    expected = y * sigmoid(gate + np.asarray(layer.spatial.bias[...]))
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_coordinate_attention_gates_rows_and_columns():
    layer, x = drawn(attention("coordinate", 16)), normal(2, 4, 7, 16)

    def shared(means):
        y = normed(means, layer.reduce)
        return y * np.clip(y + 3, 0, 6) / 6

    rows = sigmoid(product(shared(x.mean(2)), layer.rows))[:, :, None]
    columns = sigmoid(product(shared(x.mean(1)), layer.columns))[:, None]
    np.testing.assert_allclose(layer(jnp.asarray(x)), x * rows * columns, rtol=1e-4, atol=1e-5)


def test_windows_cover_the_map_with_little_padding():
    sides = {1: 1, 5: 5, 8: 8, 9: 5, 13: 7, 20: 7, 40: 8, 84: 8}
    assert {cells: window_tile(cells, 1)[0] for cells in sides} == sides
    for cells in range(1, 200):
        side = window_tile(cells, cells)[1]
        count = -(-cells // side)
        assert side <= 8
        assert count * side - cells < count
        assert (count - 1) * side < cells  # no window is all padding


def test_areas_are_quarters_along_an_axis_that_divides():
    assert area_tile(40, 40) == (10, 40)
    assert area_tile(5, 8) == (5, 2)
    assert area_tile(5, 7) == (5, 7)
    assert area_tile(1, 1) == (1, 1)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (4, 7), (5, 5)])
def test_tiles_hold_neighbouring_cells_and_go_back_into_the_map(rows, columns):
    x = normal(2, 4, 7, 3)
    tiles = tiled(jnp.asarray(x), rows, columns)
    np.testing.assert_array_equal(untiled(tiles, rows, columns, 4, 7), x)
    first = np.asarray(tiles[0]).reshape(rows, columns, 3)[:4, :7]
    np.testing.assert_array_equal(first, x[0, :rows, :columns])


@pytest.mark.parametrize(
    ("name", "height", "width", "channels", "tile"),
    [
        ("window", 9, 5, 64, (5, 5)),
        ("window", 8, 16, 40, (8, 8)),
        ("area", 8, 3, 64, (2, 3)),
        ("area", 5, 3, 24, (5, 3)),
    ],
)
def test_self_attention_equals_a_loop_over_tiles_and_heads(name, height, width, channels, tile):
    layer, x = drawn(attention(name, channels)), normal(2, height, width, channels)
    head = {64: 32, 40: 8, 24: 8}[channels]
    q, k, v = np.split(normed(x, layer.qkv), 3, -1)
    mixed = np.zeros_like(v)
    for b in range(2):
        for top in range(0, height, tile[0]):
            for left in range(0, width, tile[1]):
                part = (b, slice(top, top + tile[0]), slice(left, left + tile[1]))
                for first in range(0, channels, head):
                    where = (*part, slice(first, first + head))
                    shape = v[where].shape
                    a, c, d = (p[where].reshape(-1, head) for p in (q, k, v))
                    scores = np.exp(a @ c.T / np.sqrt(head))
                    mixed[where] = (scores / scores.sum(1, keepdims=True) @ d).reshape(shape)
    mixed += np.asarray(layer.position(jnp.asarray(v)))
    expected = x + normed(mixed, layer.project)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-3)


def test_the_position_of_a_cell_counts():
    """Equal cells come out unequal where one of them is in a corner."""
    for name in SELF_ATTENTIONS:
        y = attention(name, 8)(jnp.ones((1, 8, 8, 8)))
        assert np.abs(y[0, 0, 0] - y[0, 4, 4]).max() > 1e-4


@pytest.mark.parametrize("name", SELF_ATTENTIONS)
def test_the_softmax_is_in_float32(name):
    layer = attention(name, 32, Layers(dtype=jnp.bfloat16))
    program = jax.make_jaxpr(lambda x: layer(x))(jnp.zeros((1, 8, 8, 32), jnp.bfloat16))
    exponentials = [e.outvars[0].aval.dtype for e in equations(program.jaxpr, "exp")]
    assert exponentials == [jnp.float32]


@pytest.mark.parametrize(
    ("name", "kernel", "tile"), [("window", 3, 8 * 8), ("area", 7, 4 * 16), ("area", 7, 6 * 5)]
)
def test_the_products_of_self_attention_are_counted(name, kernel, tile):
    height, width = (6, 5) if tile == 30 else (16, 16)
    cells, c = height * width, 24
    layer = fuse_network(attention(name, c))
    expected = cells * (4 * c * c + kernel * kernel * c + 2 * tile * c)
    assert multiply_adds(lambda x: layer(x), jnp.zeros((1, height, width, c))) == expected


def with_attention(name, place):
    """A tiny detector whose stages differ in nothing but resolution; strides 4 to 32."""
    stages = [StageSpec(block="plain", width=16, depth=1) for _ in range(4)]
    if place is not None:
        stages[place] = replace(stages[place], attention=name)
    backbone = BackboneSpec(stem_width=8, stages=tuple(stages))
    neck = NeckSpec(kind="fpn", levels=(3, 4, 5), block="plain")
    return tiny_spec(backbone=backbone, neck=neck, image_size=128)


@pytest.mark.parametrize("name", ["cbam", "coordinate", *SELF_ATTENTIONS])
def test_an_attention_costs_more_at_an_earlier_stage(name):
    places = (2, 3) if name in SELF_ATTENTIONS else (0, 1, 2, 3)
    base = count_gflops(with_attention(name, None))
    costs = [count_gflops(with_attention(name, place)) - base for place in places]
    assert all(early > late for early, late in pairwise(costs))
    assert costs[-1] > 0


@pytest.mark.parametrize("name", ACTIVE)
def test_an_attention_handles_more_numbers_on_a_larger_map(name):
    layer = attention(name, 16)

    def numbers(side):
        program = jax.make_jaxpr(lambda x: layer(x))(jnp.zeros((1, side, side, 16)))
        return sum(v.aval.size for e in equations(program.jaxpr) for v in e.outvars)

    assert numbers(32) > 2 * numbers(16)
