"""Layers of a parent in another form do what they did, or nearly."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.nn.bottlenecks import DepthwisePointwise
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.conv_forms import plain_form
from flaxyolo.nn.downsample import space_to_depth
from flaxyolo.nn.layers import ACTIVATIONS, Layers
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.weights.inherit.forms import (
    beside,
    halves,
    merged,
    nearest_line,
    pixels_of_squares,
    squares_of_pixels,
)
from flaxyolo.weights.inherit.walk import Walk

IMAGES = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)


def test_a_kernel_over_squares_is_one_over_pixels_of_twice_the_size():
    kernel = np.random.default_rng(1).normal(size=(3, 3, 12, 5)).astype(np.float32)
    wanted = plain_form(space_to_depth(jnp.asarray(IMAGES)), jnp.asarray(kernel), 1, 1, 1)
    pixels = pixels_of_squares(kernel)
    assert pixels.shape == (6, 6, 3, 5)
    np.testing.assert_allclose(
        plain_form(jnp.asarray(IMAGES), jnp.asarray(pixels), 2, 1, 1), wanted, atol=1e-4
    )
    np.testing.assert_array_equal(squares_of_pixels(pixels, 3), kernel)


@pytest.mark.parametrize("size", [3, 6])
def test_a_kernel_over_pixels_has_room_in_one_over_squares(size):
    kernel = np.random.default_rng(1).normal(size=(size, size, 3, 5)).astype(np.float32)
    wanted = plain_form(jnp.asarray(IMAGES), jnp.asarray(kernel), 2, 1, 1)
    squares = squares_of_pixels(kernel, 3)
    found = plain_form(space_to_depth(jnp.asarray(IMAGES)), jnp.asarray(squares), 1, 1, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_line_is_nearer_to_an_activation_on_normal_values(name):
    mean, spread = np.array([-1.0, 0.0, 2.0], np.float32), np.array([0.5, -1.0, 0.0], np.float32)
    line = nearest_line(name, mean, spread)
    values = mean + np.random.default_rng(0).normal(size=(20000, 3)) * np.maximum(
        np.abs(spread), 1e-3
    )
    said = np.asarray(ACTIVATIONS[name](jnp.asarray(values, jnp.float32)))
    for channel in range(3):
        slope, offset = np.polyfit(values[:, channel], said[:, channel], 1)
        assert abs(line.slope[channel] - slope) < 0.03
        assert abs(line.offset[channel] - offset) < 0.06
    if name == "none":
        np.testing.assert_allclose(line.slope, 1, atol=1e-4)


def pair_of(activation):
    """A separable convolution as training leaves it: norms that fit to what they are given."""
    rng = np.random.default_rng(2)
    pair = DepthwisePointwise(3, 6, conv=Layers(activation=activation), rng=rng)
    x = jnp.asarray(IMAGES)
    for layer in (pair.depthwise, pair.pointwise):
        seen = np.asarray(layer.conv(x))
        layer.norm.mean[...] = seen.mean((0, 1, 2))
        layer.norm.var[...] = seen.var((0, 1, 2))
        layer.norm.scale[...] = rng.uniform(0.5, 1.5, seen.shape[-1]).astype(np.float32)
        layer.norm.bias[...] = rng.normal(0, 0.5, seen.shape[-1]).astype(np.float32)
        x = layer(x)
    return pair


def as_one(pair):
    walk = Walk(Conv(1, 1, rng=np.random.default_rng(0)), pair, ranked=True, relu=False)
    first, second = pair.depthwise, pair.pointwise
    assert isinstance(first.norm, BatchNorm)
    assert isinstance(second.norm, BatchNorm)
    return merged(walk, (first.conv, first.norm), first.activation, (second.conv, second.norm))


def test_without_an_activation_between_two_convolutions_are_one():
    pair = pair_of("none")
    one = as_one(pair)
    one.activation = "none"
    inside = slice(1, -1)
    np.testing.assert_allclose(
        one(jnp.asarray(IMAGES))[:, inside, inside],
        pair(jnp.asarray(IMAGES))[:, inside, inside],
        atol=1e-4,
    )


@pytest.mark.parametrize("activation", ["silu", "relu", "hard_swish"])
def test_with_one_they_nearly_are(activation):
    pair = pair_of(activation)
    one = as_one(pair)
    wanted = np.asarray(
        pair.pointwise.norm(pair.pointwise.conv(pair.depthwise(jnp.asarray(IMAGES))))
    )
    found = np.asarray(one.norm(one.conv(jnp.asarray(IMAGES))))
    for channel in range(6):
        assert np.corrcoef(wanted[..., channel].ravel(), found[..., channel].ravel())[0, 1] > 0.8
    assert np.abs(wanted - found).mean() < 0.4 * wanted.std()


def test_two_layers_side_by_side_are_one_and_its_halves_are_those_two():
    pair = pair_of("silu")
    walk = Walk(Conv(1, 1, rng=np.random.default_rng(0)), pair, ranked=True, relu=False)
    both = beside(walk, pair.pointwise, pair.pointwise)
    x = jnp.asarray(IMAGES)
    wanted = np.asarray(pair.pointwise(x))
    np.testing.assert_allclose(both(x), np.concatenate([wanted, wanted], -1), atol=1e-6)
    for half in halves(walk, both):
        np.testing.assert_allclose(half(x), wanted, atol=1e-6)
