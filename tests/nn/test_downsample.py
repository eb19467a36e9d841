"""Every transition divides the map by its stride and changes the width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.downsample import DOWNSAMPLES, space_to_depth
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import Layers
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
)


def downsample(name, in_width, width, stride, conv=CONV):
    return DOWNSAMPLES[name](in_width, width, stride, conv=conv, rng=rng())


@pytest.mark.parametrize("name", DOWNSAMPLES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("in_width", "width"), [(8, 24), (16, 16), (40, 24)])
def test_a_transition_divides_the_map_by_its_stride(name, stride, in_width, width):
    x = jnp.zeros((2, 6, 10, in_width))
    shape = output_shape(lambda: downsample(name, in_width, width, stride), x)
    assert shape == (2, 6 // stride, 10 // stride, width)


@pytest.mark.parametrize("name", DOWNSAMPLES)
def test_a_transition_returns_its_dtype(name):
    x = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.bfloat16)
    half = downsample(name, 8, 8, 2, Layers(dtype=jnp.bfloat16))
    assert nnx.eval_shape(half, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", DOWNSAMPLES)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_parameter_of_a_transition_has_a_gradient(name, stride):
    assert_every_parameter_has_a_gradient(downsample(name, 8, 8, stride), normal(2, 8, 8, 8))


@pytest.mark.parametrize("name", DOWNSAMPLES)
@pytest.mark.parametrize(("width", "stride"), [(8, 1), (16, 2)])
def test_a_folded_transition_is_equal(name, width, stride):
    assert_fused_is_equal(downsample(name, 8, width, stride), normal(2, 6, 8, 8))


@pytest.mark.parametrize(
    ("name", "stride", "expected"),
    [
        ("conv", 2, conv_params(24, 32, 3)),
        ("separable", 2, conv_params(24, 24, 3, 24) + conv_params(24, 32, 1)),
        ("pointwise_depthwise", 2, conv_params(24, 32, 1) + conv_params(32, 32, 3, 32)),
        ("pool", 1, conv_params(24, 32, 1)),
        ("pool", 2, conv_params(24, 32, 1)),
        ("patch", 1, conv_params(24, 32, 1)),
        ("patch", 2, conv_params(96, 32, 1)),
        ("rep", 2, conv_params(24, 32, 3) + conv_params(24, 32, 1)),
    ],
)
def test_a_transition_has_the_parameters_counted_by_hand(name, stride, expected):
    assert params(downsample(name, 24, 32, stride)) == expected


@pytest.mark.parametrize(("widths", "expected"), [((64, 128), 9856), ((128, 256), 36096)])
def test_the_transitions_of_yolov10n_have_their_sizes(widths, expected):
    """As counted on that network where it runs."""
    assert params(downsample("pointwise_depthwise", *widths, 2)) == expected


@pytest.mark.parametrize("stride", [1, 2])
def test_the_folded_rep_transition_is_as_large_as_one_branch(stride):
    sizes = {params(fuse_network(downsample(name, 8, 8, stride))) for name in ("rep", "conv")}
    assert sizes == {8 * 8 * 9 + 8}


def test_pointwise_depthwise_ends_without_activation():
    layer = drawn(downsample("pointwise_depthwise", 8, 8, 2))
    layer.depthwise.norm.bias[...] = np.full(8, -5, np.float32)
    assert layer(normal(1, 4, 4, 8)).max() < -1


def test_space_to_depth_has_the_channel_order_of_yolox():
    x = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(1, 2, 4, 3)
    parts = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
    np.testing.assert_array_equal(space_to_depth(x), jnp.concatenate(parts, axis=-1))


def test_pooling_takes_the_largest_of_four():
    layer = downsample("pool", 8, 8, 2)
    x = normal(1, 4, 6, 8)
    largest = np.asarray(x).reshape(1, 2, 2, 3, 2, 8).max((2, 4))
    np.testing.assert_allclose(layer(x), layer.conv(jnp.asarray(largest)), atol=1e-6)


@pytest.mark.parametrize("name", ["pool", "patch"])
def test_an_odd_side_cannot_be_cut_into_squares(name):
    with pytest.raises(ValueError, match="height and width must be even to be halved, got 5 x 4"):
        downsample(name, 8, 8, 2)(jnp.zeros((1, 5, 4, 8)))


def test_an_unknown_transition_is_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"downsample must be one of conv, .*mean 'pool'"):
        entry(DOWNSAMPLES, "pol", "downsample")
