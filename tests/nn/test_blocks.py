"""Every entry of the tables keeps its contract; the parts compute what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS, Bottleneck
from flaxyolo.nn.context import SPPF
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.neck import NECKS
from flaxyolo.nn.tables import entry
from flaxyolo.spec import NeckSpec

CONV = Layers()


def rng():
    return np.random.default_rng(0)


def output_shape(build, *inputs):
    """Shape of what the module returns, without computing it."""
    return jax.tree.map(lambda x: x.shape, nnx.eval_shape(lambda: build()(*inputs)))


def params(module):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def conv_params(inputs, outputs, kernel, groups=1):
    return inputs // groups * outputs * kernel**2 + 2 * outputs


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("in_width", "width", "depth"), [(16, 24, 1), (24, 24, 3), (48, 16, 2)])
def test_a_block_keeps_height_and_width_and_puts_out_its_width(name, in_width, width, depth):
    x = jnp.zeros((2, 6, 10, in_width))
    shape = output_shape(lambda: BLOCKS[name](in_width, width, depth, conv=CONV, rng=rng()), x)
    assert shape == (2, 6, 10, width)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_deeper_block_has_more_parameters(name):
    sizes = [params(BLOCKS[name](16, 16, depth, conv=CONV, rng=rng())) for depth in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] - sizes[1] >= sizes[1] - sizes[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_of_a_block_has_a_gradient(name):
    block = nnx.view(BLOCKS[name](8, 16, 2, conv=CONV, rng=rng()), use_running_average=False)
    graph, *states = nnx.split(block, nnx.Param, ...)
    state, rest = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in states)
    x = jnp.asarray(rng().normal(size=(2, 4, 4, 8)), jnp.float32)
    target = jnp.asarray(rng().normal(size=(2, 4, 4, 16)), jnp.float32)
    gradient = jax.jit(
        jax.grad(lambda state: ((nnx.merge(graph, state, rest)(x) - target) ** 2).sum())
    )(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_c2f_has_the_parameters_counted_by_hand():
    inner = 2 * conv_params(16, 16, 3)
    expected = conv_params(24, 32, 1) + 2 * inner + conv_params(4 * 16, 32, 1)
    assert params(BLOCKS["c2f"](24, 32, 2, conv=CONV, rng=rng())) == expected


def test_c3_has_the_parameters_counted_by_hand():
    inner = conv_params(16, 16, 1) + conv_params(16, 16, 3)
    expected = 2 * conv_params(24, 16, 1) + 2 * inner + conv_params(32, 32, 1)
    assert params(BLOCKS["c3"](24, 32, 2, conv=CONV, rng=rng())) == expected


@pytest.mark.parametrize(("name", "kernel"), [("depthwise", 3), ("depthwise_k5", 5)])
def test_a_depthwise_block_has_the_parameters_counted_by_hand(name, kernel):
    expected = conv_params(24, 24, kernel, groups=24) + conv_params(24, 32, 1)
    assert params(BLOCKS[name](24, 32, 1, conv=CONV, rng=rng())) == expected


def test_a_shortcut_adds_the_input_where_the_widths_agree():
    x = jnp.asarray(rng().normal(size=(1, 4, 4, 16)), jnp.float32)
    with_it = Bottleneck(16, 16, conv=CONV, rng=rng())
    without = Bottleneck(16, 16, shortcut=False, conv=CONV, rng=rng())
    np.testing.assert_allclose(with_it(x), without(x) + x, rtol=1e-5, atol=1e-6)
    assert Bottleneck(16, 24, conv=CONV, rng=rng()).shortcut is None


def test_plain_entries_have_no_shortcut():
    for name in ("c2f_plain", "c3_plain"):
        layers = BLOCKS[name](16, 16, 2, conv=CONV, rng=rng()).layers
        assert [layer.shortcut for layer in layers] == [None, None]


def test_sppf_keeps_the_shape_and_has_the_parameters_counted_by_hand():
    sppf = SPPF(32, conv=CONV, rng=rng())
    assert sppf(jnp.zeros((1, 5, 5, 32))).shape == (1, 5, 5, 32)
    assert params(sppf) == conv_params(32, 16, 1) + conv_params(64, 32, 1)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("width", [8, 16, 40])
def test_an_attention_keeps_the_shape(name, width):
    x = jnp.zeros((2, 5, 3, width))
    shape = output_shape(lambda: ATTENTIONS[name](width, conv=CONV, rng=rng()), x)
    assert shape == x.shape


def test_no_attention_is_the_identity():
    x = jnp.ones((1, 2, 2, 8))
    assert ATTENTIONS["none"](8, conv=CONV, rng=rng())(x) is x


def test_squeeze_excite_scales_each_channel_by_its_gate():
    layer = ATTENTIONS["se"](16, conv=CONV, rng=rng())
    x = rng().normal(size=(2, 3, 4, 16)).astype(np.float32)
    mean = x.mean((1, 2))
    inner = np.maximum(mean @ layer.reduce.kernel[...][0, 0] + layer.reduce.bias[...][None], 0)
    gate = inner @ layer.expand.kernel[...][0, 0] + layer.expand.bias[...][None]
    expected = x / (1 + np.exp(-np.asarray(gate)))[:, None, None]
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("widths", [(16, 24, 32), (16, 16, 16), (24, 24, 40)])
def test_a_neck_keeps_every_level_and_gives_it_its_width(name, attention, widths):
    spec = NeckSpec(kind=name, levels=(3, 4, 5), attention=attention, widths=widths)
    sides, in_widths = (8, 4, 2), (16, 24, 32)
    features = [jnp.zeros((2, side, side, w)) for side, w in zip(sides, in_widths, strict=True)]
    shapes = output_shape(
        lambda: NECKS[name](spec, in_widths, widths, conv=CONV, rng=rng()),
        features,
    )
    assert shapes == [(2, side, side, w) for side, w in zip(sides, widths, strict=True)]


@pytest.mark.parametrize("name", NECKS)
def test_every_output_of_a_neck_sees_the_coarsest_level(name):
    """Top-down: a change in the last feature reaches the finest output."""
    spec = NeckSpec(kind=name, levels=(3, 4, 5), block="plain")
    widths = (8, 8, 8)
    neck = NECKS[name](spec, widths, widths, conv=CONV, rng=rng())
    features = [jnp.ones((1, side, side, 8)) for side in (8, 4, 2)]
    changed = [*features[:2], features[2] + 1]
    for before, after in zip(neck(features), neck(changed), strict=True):
        assert np.abs(before - after).max() > 0


def test_only_pan_leads_the_finest_level_to_the_coarsest_output():
    for name, leads in (("fpn", False), ("pan", True)):
        spec = NeckSpec(kind=name, levels=(3, 4, 5), block="plain")
        neck = NECKS[name](spec, (8, 8, 8), (8, 8, 8), conv=CONV, rng=rng())
        features = [jnp.ones((1, side, side, 8)) for side in (8, 4, 2)]
        changed = [features[0] + 1, *features[1:]]
        difference = np.abs(neck(features)[-1] - neck(changed)[-1]).max()
        assert (difference > 0) == leads


def test_an_unknown_name_is_answered_with_the_choices_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"block must be one of plain, .*, got 'c2ff' \(did you mean 'c2f'\?\)"
    ):
        entry(BLOCKS, "c2ff", "block")
