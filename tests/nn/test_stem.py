"""Every stem divides the image by its stride."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.stem import STEMS
from flaxyolo.nn.tables import entry
from flaxyolo.spec import STEM_STRIDES, stem_stride
from tests.nn.checks import (
    CONV,
    assert_every_parameter_has_a_gradient,
    assert_fused_is_equal,
    conv_params,
    normal,
    output_shape,
    params,
    rng,
)


def stem(name, width, conv=CONV):
    return STEMS[name](width, conv=conv, rng=rng())


def test_there_is_a_stem_for_every_stride_that_is_not_two():
    assert set(STEM_STRIDES) <= set(STEMS)
    assert 2 not in STEM_STRIDES.values()


@pytest.mark.parametrize("name", STEMS)
@pytest.mark.parametrize("width", [8, 24, 40])
def test_a_stem_divides_the_image_by_its_stride(name, width):
    stride = stem_stride(name)
    shape = output_shape(lambda: stem(name, width), jnp.zeros((2, 16, 32, 3)))
    assert shape == (2, 16 // stride, 32 // stride, width)


@pytest.mark.parametrize("name", STEMS)
def test_a_stem_returns_its_dtype(name):
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    half = stem(name, 8, Layers(dtype=jnp.bfloat16))
    assert nnx.eval_shape(half, images).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", STEMS)
def test_every_parameter_of_a_stem_has_a_gradient(name):
    assert_every_parameter_has_a_gradient(stem(name, 8), normal(2, 16, 16, 3))


@pytest.mark.parametrize("name", STEMS)
def test_a_folded_stem_is_equal(name):
    assert_fused_is_equal(stem(name, 16), normal(2, 8, 12, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv3", conv_params(3, 24, 3)),
        ("conv6", conv_params(3, 24, 6)),
        ("deep", conv_params(3, 12, 3) + conv_params(12, 12, 3) + conv_params(12, 24, 3)),
        ("focus", conv_params(12, 24, 3)),
        ("rep", conv_params(3, 24, 3) + conv_params(3, 24, 1)),
        ("patchify", conv_params(3, 24, 4)),
    ],
)
def test_a_stem_has_the_parameters_counted_by_hand(name, expected):
    assert params(stem(name, 24)) == expected


def test_the_folded_rep_stem_is_as_large_as_one_branch():
    assert params(fuse_network(stem("rep", 24))) == params(fuse_network(stem("conv3", 24)))


def test_focus_is_a_convolution_of_six_at_stride_two():
    """YOLOv5's stem with the weights of each pixel at the channels that hold it."""
    focus, conv6 = stem("focus", 8), stem("conv6", 8)
    kernel = np.zeros((6, 6, 3, 8), np.float32)
    for part, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        channels = slice(3 * part, 3 * part + 3)
        kernel[row::2, column::2] = np.asarray(focus.conv.conv.kernel[...])[:, :, channels]
    conv6.conv.conv.kernel[...] = kernel
    images = normal(2, 8, 12, 3)
    np.testing.assert_allclose(focus(images), conv6(images), atol=1e-5)


def test_an_unknown_stem_is_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"stem must be one of conv3, .*did you mean 'focus'"):
        entry(STEMS, "fokus", "stem")
