"""ConvNormAct is its three parts, and folds into one; `Layers` hands on what it was made with."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm as gaussian

from flaxyolo.nn.layers import ACTIVATIONS, ConvAct, ConvNormAct, Layers
from flaxyolo.nn.norm import BatchNorm, GroupNorm, SyncBatchNorm

X = np.linspace(-6, 6, 49, dtype=np.float32)
FORMULAS = {
    "silu": X / (1 + np.exp(-X)),
    "relu": np.maximum(X, 0),
    "hard_swish": X * np.clip(X + 3, 0, 6) / 6,
    "gelu": X * gaussian.cdf(X),
    "none": X,
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_follows_its_formula(name):
    # GELU in its tanh form is within 5e-4 of the exact one.
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(X)), FORMULAS[name], atol=6e-4)


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "group"])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "dilation"),
    [(1, 1, 1, 1), (3, 2, 1, 1), (3, 1, 8, 1), (3, 1, 2, 1), (3, 1, 1, 2), (6, 2, 1, 1)],
)
def test_a_folded_layer_equals_its_parts(norm, kernel, stride, groups, dilation):
    layer = ConvNormAct(
        8,
        16,
        kernel,
        stride,
        groups=groups,
        dilation=dilation,
        norm=norm,
        rng=np.random.default_rng(0),
    )
    layer.norm.scale[...], layer.norm.bias[...] = 1 + 0.3 * normal(16), normal(16, seed=1)
    if isinstance(layer.norm, BatchNorm):
        layer.norm.mean[...], layer.norm.var[...] = normal(16, seed=2), normal(16, seed=3) ** 2
    x = jnp.asarray(normal(2, 8, 8, 8, seed=4))
    y = layer(x)
    z = np.asarray(layer.norm(layer.conv(x)))
    np.testing.assert_allclose(y, z / (1 + np.exp(-z)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.fused()(x), y, rtol=1e-4, atol=1e-4)


def test_what_a_layer_folds_into():
    layers = {norm: Layers(norm)(8, 8, rng=np.random.default_rng(0)) for norm in ("batch", "group")}
    assert isinstance(layers["batch"].fused(), ConvAct)
    # Group norm depends on the image, so it cannot be folded.
    assert layers["group"].fused() is layers["group"]


def test_layers_are_made_with_the_networks_norm_activation_and_dtype():
    conv = Layers("sync_batch", "relu", jnp.bfloat16)
    layer = conv(8, 16, 5, 2, groups=2, rng=np.random.default_rng(0))
    assert isinstance(layer.norm, SyncBatchNorm)
    assert (layer.activation, layer.conv.dtype) == ("relu", jnp.bfloat16)
    assert layer.conv.kernel.shape == (5, 5, 4, 16)
    assert layer(jnp.zeros((1, 8, 8, 8))).dtype == jnp.bfloat16
    assert conv(8, 8, activation="none", rng=np.random.default_rng(0)).activation == "none"
    assert isinstance(Layers("group")(8, 8, rng=np.random.default_rng(0)).norm, GroupNorm)


def test_a_layer_of_a_block_has_its_own_drop_path():
    conv = Layers().dropping((0.0, 0.1, 0.2))
    assert [conv.at(i).shortcut().drop.rate for i in range(3)] == [0.0, 0.1, 0.2]
    # A block inside a layer keeps that layer's rate for each of its own.
    assert conv.at(2).at(1).shortcut().drop.rate == 0.2
    assert conv.plain().shortcut().drop.rate == 0
    assert Layers().dropping((0.0, 0.0)) == Layers()
    with pytest.raises(ValueError, match="choose a layer with `at`"):
        conv.shortcut()
