"""Every block keeps its contract, and has the shape and the parts of the one it is named after."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.blocks import BLOCKS, Repeat
from flaxyolo.nn.bottlenecks import Bottleneck, ConvNeXt, group_count
from flaxyolo.nn.csp import ChannelGate
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import ConvAct, Layers
from flaxyolo.nn.regularize import Shortcut
from flaxyolo.nn.rep import RepConv
from flaxyolo.nn.tables import entry
from tests.nn.checks import (
    CONV,
    assert_every_parameter_has_a_gradient,
    assert_fused_is_equal,
    conv_params,
    drawn,
    normal,
    output_shape,
    params,
    rng,
    run,
)


def block(name, in_width, width, depth, conv=CONV):
    return BLOCKS[name](in_width, width, depth, conv=conv, rng=rng())


def whole(name):
    """The block with all the parts it can have: a CSP block has them at depth 1."""
    repeats = getattr(BLOCKS[name], "func", None) is Repeat
    return block(name, 8, 16, 2 if repeats else 1)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("in_width", "width", "depth"), [(24, 24, 3), (40, 8, 1), (16, 40, 2)])
def test_a_block_keeps_height_and_width_and_puts_out_its_width(name, in_width, width, depth):
    x = jnp.zeros((2, 6, 10, in_width))
    assert output_shape(lambda: block(name, in_width, width, depth), x) == (2, 6, 10, width)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_returns_its_dtype(name):
    x = jax.ShapeDtypeStruct((1, 4, 4, 16), jnp.bfloat16)
    half = block(name, 16, 16, 1, Layers(dtype=jnp.bfloat16))
    assert nnx.eval_shape(half, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", BLOCKS)
def test_a_deeper_block_has_more_parameters(name):
    sizes = [params(block(name, 16, 16, depth)) for depth in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] - sizes[1] >= sizes[1] - sizes[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_parameter_of_a_block_has_a_gradient(name):
    assert_every_parameter_has_a_gradient(whole(name), normal(2, 4, 4, 8))


@pytest.mark.parametrize("name", BLOCKS)
def test_a_folded_block_is_equal(name):
    assert_fused_is_equal(whole(name), normal(2, 5, 6, 8))


@pytest.mark.parametrize("name", BLOCKS)
def test_the_shortcuts_of_a_layer_have_its_drop_path(name):
    rates = (0.1, 0.2, 0.3)
    made = block(name, 16, 16, 3, CONV.dropping(rates))
    for layer, rate in zip(made.layers, rates, strict=True):
        found = [part for _, part in nnx.iter_modules(layer) if isinstance(part, Shortcut)]
        assert all(shortcut.drop.rate == rate for shortcut in found)
        without = "plain" in name or name in ("elan", "repvgg", "cspnext_last")
        assert bool(found) != without


def inner(name, width):
    """Parameters of one layer inside a CSP block, counted by hand."""
    half = width // 2
    layers = {
        "c2f": [(width, width, 3, 1)] * 2,
        "c2f_rep": [(width, width, 3, 1), (width, width, 1, 1)] * 2,
        "c3": [(width, width, 1, 1), (width, width, 3, 1)],
        "c3_separable": [(width, width, 1, 1), (width, width, 3, width), (width, width, 1, 1)],
        "cspnext": [(width, width, 3, 1), (width, width, 5, width), (width, width, 1, 1)],
        "c3k2": [(width, half, 3, 1), (half, width, 3, 1)],
        "c3k2_c3k": [*[(width, half, 1, 1)] * 2, *[(half, half, 3, 1)] * 4, (width, width, 1, 1)],
        "c2f_cib": [
            (width, width, 3, width),
            (width, 2 * width, 1, 1),
            (2 * width, 2 * width, 3, 2 * width),
            (2 * width, width, 1, 1),
            (width, width, 3, width),
        ],
    }
    return sum(conv_params(*layer) for layer in layers[name])


@pytest.mark.parametrize("name", ["c2f", "c2f_rep", "c3k2", "c3k2_c3k", "c2f_cib"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_c2f_has_the_parameters_counted_by_hand(name, depth):
    ends = conv_params(24, 64, 1) + conv_params((2 + depth) * 32, 64, 1)
    assert params(block(name, 24, 64, depth)) == ends + depth * inner(name, 32)


@pytest.mark.parametrize("name", ["c3", "c3_separable", "cspnext"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_c3_has_the_parameters_counted_by_hand(name, depth):
    expected = 2 * conv_params(24, 32, 1) + depth * inner(name, 32) + conv_params(64, 64, 1)
    gate = 64 * 64 + 64 if name == "cspnext" else 0
    assert params(block(name, 24, 64, depth)) == expected + gate
    if name == "cspnext":
        assert params(block("cspnext_last", 24, 64, depth)) == expected + gate
    assert params(block(f"{name}_plain", 24, 64, depth)) == expected


def test_elan_has_the_parameters_counted_by_hand():
    quarter = 16
    expected = 2 * conv_params(24, quarter, 1) + conv_params(4 * quarter, 64, 1)
    assert params(block("elan", 24, 64, 2)) == expected + 4 * conv_params(quarter, quarter, 3)


@pytest.mark.parametrize(
    ("name", "in_width", "width", "depth", "expected"),
    [
        ("c3k2_slim", 32, 64, 1, 6640),
        ("c3k2_slim", 64, 128, 1, 26080),
        ("c3k2_c3k", 128, 128, 1, 87040),
        ("c3k2_c3k", 256, 256, 1, 346112),
        ("c3k2", 384, 128, 1, 111296),
        ("c3k2", 256, 64, 1, 32096),
        ("c3k2_c3k", 384, 256, 1, 378880),
        ("c2f", 64, 64, 2, 49664),
        ("c2f_cib_lk", 384, 256, 1, 282624),
        ("plain", 64, 64, 4, 147968),
    ],
)
def test_the_blocks_of_yolo11n_v10n_and_v6n_have_their_sizes(
    name, in_width, width, depth, expected
):
    """As counted on those networks, layer by layer, where they run."""
    assert params(block(name, in_width, width, depth)) == expected


def hand_counts():
    return {
        "plain": conv_params(24, 32, 3),
        "residual": conv_params(24, 32, 3) + conv_params(32, 32, 3),
        "dilated": conv_params(24, 32, 3) + conv_params(32, 32, 3),
        "bottleneck": conv_params(24, 8, 1) + conv_params(8, 8, 3) + conv_params(8, 32, 1),
        # 16 channels inside, in 4 groups.
        "grouped": conv_params(24, 16, 1) + conv_params(16, 16, 3, 4) + conv_params(16, 32, 1),
        "repvgg": conv_params(24, 32, 3) + conv_params(24, 32, 1),
        "depthwise": conv_params(24, 24, 3, 24) + conv_params(24, 32, 1),
        "depthwise_k5": conv_params(24, 24, 5, 24) + conv_params(24, 32, 1),
        "mbconv": conv_params(24, 96, 1) + conv_params(96, 96, 3, 96) + conv_params(96, 32, 1),
        "mbconv_k5": conv_params(24, 96, 1) + conv_params(96, 96, 5, 96) + conv_params(96, 32, 1),
        # The two 1x1 have biases and no norm; the layer scale has 32.
        "convnext": conv_params(24, 32, 1)
        + conv_params(32, 32, 7, 32)
        + (32 * 128 + 128)
        + (128 * 32 + 32)
        + 32,
    }


@pytest.mark.parametrize(("name", "expected"), hand_counts().items())
def test_a_single_layer_has_the_parameters_counted_by_hand(name, expected):
    assert params(block(name, 24, 32, 1)) == expected


def test_repvgg_has_a_norm_of_its_input_where_the_widths_agree():
    expected = conv_params(32, 32, 3) + conv_params(32, 32, 1) + 2 * 32
    assert params(block("repvgg", 32, 32, 1)) == expected


def test_folded_parallel_branches_are_as_large_as_one():
    def folded(name):
        return params(fuse_network(block(name, 16, 16, 2)))

    assert folded("repvgg") == folded("plain") == 2 * (16 * 16 * 9 + 16)
    assert folded("c2f_rep") == folded("c2f")
    # The middle depthwise convolution, 16 wide, is 7x7 in each of two layers.
    assert folded("c2f_cib_lk") - folded("c2f_cib") == 2 * 16 * (49 - 9)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_branches_in_groups_fold_with_the_identity(groups):
    layer = RepConv(8, 8, 5, groups=groups, identity=True, conv=CONV, rng=rng())
    fused = assert_fused_is_equal(layer, normal(2, 6, 6, 8))
    assert isinstance(fused, ConvAct)
    assert fused.conv.kernel[...].shape == (5, 5, 8 // groups, 8)


def test_branches_with_group_norm_stay_as_they_are():
    layer = RepConv(8, 8, identity=True, conv=Layers(norm="group"), rng=rng())
    assert fuse_network(layer) is layer
    x = normal(1, 4, 4, 8)
    alone = [branch(x) for branch in layer.branches] + [layer.identity(x)]
    np.testing.assert_allclose(layer(x), nnx.silu(sum(alone)), atol=1e-5)


def test_groups_have_four_channels_or_more():
    widths = (8, 12, 16, 20, 24, 32, 40, 72, 128, 256, 264, 512)
    groups = [group_count(width) for width in widths]
    assert groups == [2, 3, 4, 5, 6, 8, 8, 8, 8, 32, 24, 32]


def test_a_shortcut_adds_the_input_where_the_widths_agree():
    x = normal(1, 4, 4, 16)
    with_it = Bottleneck(16, 16, conv=CONV, rng=rng())
    without = Bottleneck(16, 16, shortcut=False, conv=CONV, rng=rng())
    np.testing.assert_allclose(with_it(x), without(x) + x, rtol=1e-5, atol=1e-6)
    assert Bottleneck(16, 24, conv=CONV, rng=rng()).shortcut is None


@pytest.mark.parametrize("name", ["bottleneck", "grouped"])
def test_resnet_layers_activate_the_sum(name):
    layer = drawn(block(name, 16, 16, 1, Layers(activation="relu")).layers[0])
    x = normal(1, 4, 4, 16)
    branch = layer.expand(layer.middle(layer.reduce(x)))
    assert branch.min() < -0.1
    np.testing.assert_allclose(layer(x), nnx.relu(x + branch), atol=1e-5)


@pytest.mark.parametrize("name", ["mbconv", "mbconv_k5"])
def test_an_inverted_residual_projects_without_activation(name):
    layer = drawn(block(name, 8, 16, 1)).layers[0]
    layer.project.norm.bias[...] = np.full(16, -5, np.float32)
    assert layer(normal(1, 4, 4, 8)).max() < -1


def test_convnext_starts_near_its_input_and_scales_its_branch():
    layer = ConvNeXt(8, 8, conv=CONV, rng=rng())
    x = normal(1, 4, 4, 8)
    once = np.asarray(layer(x) - x)
    assert 0 < np.abs(once).max() < 0.5
    layer.scale[...] = 3 * layer.scale[...]
    np.testing.assert_allclose(layer(x) - x, 3 * once, atol=1e-5)


def test_the_second_convolution_of_a_dilated_layer_sees_two_cells_further():
    """One pixel reaches 1 + 2 cells; with the dilation the second leaves out every other."""
    layer = block("dilated", 8, 16, 1).layers[0]
    x = jnp.zeros((1, 11, 11, 8)).at[0, 5, 5].set(1.0)
    difference = np.abs(layer(x) - layer(jnp.zeros_like(x))).max((0, 3)) > 1e-7
    rows, columns = np.nonzero(difference)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 2, 8)
    middle = jnp.zeros((1, 11, 11, 16)).at[0, 5, 5].set(1.0)
    alone = np.abs(layer.second(middle)).max((0, 3)) > 1e-7
    assert alone.sum() == alone[3:8:2, 3:8:2].sum() == 9


def test_the_channel_gate_is_a_hard_sigmoid_of_the_mean():
    gate = drawn(ChannelGate(16, conv=CONV, rng=rng()))
    x = np.asarray(4 * normal(2, 3, 4, 16) + 1)
    inner = x.mean((1, 2)) @ np.asarray(gate.gate.kernel[...])[0, 0] + gate.gate.bias[...][None]
    expected = x * np.clip(np.asarray(inner) / 6 + 0.5, 0, 1)[:, None, None]
    np.testing.assert_allclose(run(gate, jnp.asarray(x)), expected, atol=1e-5)


def test_an_unknown_name_is_answered_with_the_choices_and_the_nearest():
    with pytest.raises(
        ValueError, match=r"block must be one of plain, .*, got 'c2ff' \(did you mean 'c2f'\?\)"
    ):
        entry(BLOCKS, "c2ff", "block")
