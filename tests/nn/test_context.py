"""Every context layer keeps the shape, and pools or attends as its paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from flaxyolo.nn.context import CONTEXTS, PositionedAttention, pyramid
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
    run,
)

ACTIVE = [name for name in CONTEXTS if name != "none"]


def context(name, width, conv=CONV):
    return CONTEXTS[name](width, conv=conv, rng=rng())


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("width", [8, 24, 40, 264])
def test_a_context_keeps_the_shape(name, width):
    x = jnp.zeros((2, 5, 3, width))
    assert output_shape(lambda: context(name, width), x) == x.shape


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_context_returns_its_dtype(name):
    x = jax.ShapeDtypeStruct((1, 4, 4, 16), jnp.bfloat16)
    half = context(name, 16, Layers(dtype=jnp.bfloat16))
    assert nnx.eval_shape(half, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ACTIVE)
def test_every_parameter_of_a_context_has_a_gradient(name):
    assert_every_parameter_has_a_gradient(context(name, 16), normal(2, 4, 4, 16))


@pytest.mark.parametrize("name", ACTIVE)
def test_a_folded_context_is_equal(name):
    assert_fused_is_equal(context(name, 16), normal(2, 4, 5, 16))


def test_no_context_is_the_identity():
    x = jnp.ones((1, 2, 2, 8))
    assert context("none", 8)(x) is x


SPPF_PARAMS = conv_params(32, 16, 1) + conv_params(64, 32, 1)
PSA_PARAMS = (
    conv_params(32, 32, 1)
    # One head: 8 query, 8 key and 16 value channels.
    + conv_params(16, 32, 1)
    + conv_params(16, 16, 3, 16)
    + conv_params(16, 16, 1)
    + conv_params(16, 32, 1)
    + conv_params(32, 16, 1)
    + conv_params(32, 32, 1)
)
CSP_PARAMS = (
    2 * conv_params(32, 16, 1)
    + 2 * conv_params(16, 16, 3)
    + conv_params(16, 16, 1)
    + conv_params(64, 16, 1)
    + conv_params(32, 32, 1)
)


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("none", 32, 0),
        ("sppf", 32, SPPF_PARAMS),
        ("spp", 32, SPPF_PARAMS),
        ("csp_sppf", 32, CSP_PARAMS),
        ("sppf_psa", 32, SPPF_PARAMS + PSA_PARAMS),
        # As counted on YOLOv10n and YOLO11n where they run.
        ("sppf", 256, 164_608),
        ("sppf_psa", 256, 164_608 + 249_728),
    ],
)
def test_a_context_has_the_parameters_counted_by_hand(name, width, expected):
    assert params(context(name, width)) == expected


def test_pools_in_a_row_have_the_values_of_pools_side_by_side():
    x = normal(2, 14, 9, 3)
    side_by_side = [x]
    for size in (5, 9, 13):
        window = (1, size, size, 1)
        side_by_side.append(lax.reduce_window(x, -jnp.inf, lax.max, window, (1,) * 4, "SAME"))
    np.testing.assert_array_equal(pyramid(x), jnp.concatenate(side_by_side, axis=-1))


@pytest.mark.parametrize(
    ("width", "heads", "key"), [(8, 1, 4), (48, 1, 24), (128, 2, 32), (132, 2, 33), (576, 9, 32)]
)
def test_heads_are_64_channels_wide_or_more(width, heads, key):
    layer = PositionedAttention(width, conv=CONV, rng=rng())
    assert (layer.heads, layer.key_width) == (heads, key)
    assert width % layer.heads == 0


def test_attention_is_what_its_formula_says():
    layer = drawn(PositionedAttention(128, conv=CONV, rng=rng()))
    x = normal(2, 2, 3, 128)
    qkv = np.asarray(layer.qkv(x)).reshape(2, 6, 2, 128)
    mixed, values = np.zeros((2, 6, 128)), np.zeros((2, 6, 128))
    for image in range(2):
        for head in range(2):
            q, k, v = np.split(qkv[image, :, head], [32, 64], axis=-1)
            scores = np.exp(q @ k.T / np.sqrt(32))
            own = slice(64 * head, 64 * head + 64)
            mixed[image, :, own] = scores / scores.sum(-1, keepdims=True) @ v
            values[image, :, own] = v
    places = layer.position(jnp.asarray(values.reshape(2, 2, 3, 128), jnp.float32))
    expected = layer.project(jnp.asarray(mixed.reshape(2, 2, 3, 128), jnp.float32) + places)
    np.testing.assert_allclose(run(layer, x), expected, atol=1e-4)


def test_partial_attention_leads_half_the_channels_past_it():
    layer = context("sppf_psa", 16).attend
    x = normal(1, 3, 3, 16)
    # A projection and a feed-forward part that say nothing leave both halves as they were split.
    for part in (layer.attention.project, layer.narrow):
        part.norm.scale[...] = np.zeros(8, np.float32)
    np.testing.assert_allclose(layer(x), layer.merge(layer.split(x)), atol=1e-6)


def test_an_unknown_context_is_answered_with_the_choices():
    with pytest.raises(ValueError, match=r"context must be one of none, .*mean 'sppf'"):
        entry(CONTEXTS, "sppff", "context")
