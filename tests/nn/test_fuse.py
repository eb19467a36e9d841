"""The folded network says the same as the trained one, and is smaller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.detector import (
    Weights,
    fuse,
    fused_graph,
    initial_weights,
    predict,
    run_network,
)
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import ConvAct, Layers
from flaxyolo.nn.norm import BatchNorm
from tests.small import tiny_spec


def shaken(weights: Weights, seed: int = 0) -> Weights:
    """Weights as after training: norms and statistics away from where they start."""
    rng = np.random.default_rng(seed)

    def shake(path, leaf):
        name = path[-1].key
        if name == "var":
            return jnp.asarray(rng.uniform(0.5, 2, leaf.shape), leaf.dtype)
        if name in ("scale", "bias", "mean"):
            return leaf + jnp.asarray(rng.normal(0, 0.2, leaf.shape), leaf.dtype)
        return leaf

    return Weights(*(jax.tree_util.tree_map_with_path(shake, tree) for tree in weights))


@pytest.mark.parametrize("norm", ["batch", "group", "sync_batch"])
def test_the_folded_network_predicts_what_the_trained_one_does(norm):
    spec = tiny_spec(norm=norm)
    weights = shaken(initial_weights(spec, 0))
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 64, 64, 3)), jnp.float32)
    trained = predict(spec, weights, images, jnp.float32)
    folded = run_network(spec, fuse(spec, weights), images, jnp.float32)
    np.testing.assert_allclose(trained.logits, folded.logits, atol=1e-3)
    np.testing.assert_allclose(trained.boxes, folded.boxes, atol=1e-3)


def test_batch_norms_are_gone_and_group_norms_stay():
    for norm, gone in (("batch", True), ("group", False)):
        spec = tiny_spec(norm=norm)
        fused = fuse(spec, initial_weights(spec, 0))
        names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(fused)}
        assert names == ({"kernel", "bias"} if gone else {"kernel", "bias", "scale"})
        assert not jax.tree.leaves(fused.stats)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_weights_are_held_in_the_type_they_are_used_in_and_say_the_same(norm):
    spec = tiny_spec(norm=norm)
    weights = shaken(initial_weights(spec, 0))
    wide, narrow = (fuse(spec, weights, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    kinds = {
        (path[-1].key, leaf.dtype.name)
        for path, leaf in jax.tree_util.tree_leaves_with_path(narrow)
    }
    assert ("kernel", "bfloat16") in kinds
    assert ("kernel", "float32") not in kinds
    shapes = fused_graph(spec, jnp.bfloat16)[1]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), narrow) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    images = jnp.asarray(np.random.default_rng(1).uniform(size=(1, 64, 64, 3)), jnp.float32)
    before, now = (run_network(spec, each, images, jnp.bfloat16) for each in (wide, narrow))
    np.testing.assert_array_equal(before.logits, now.logits)
    np.testing.assert_array_equal(before.boxes, now.boxes)


def test_a_convolution_is_scaled_and_shifted_by_its_norm():
    layer = Layers(activation="none")(3, 8, 1, rng=np.random.default_rng(0))
    norm = layer.norm
    assert isinstance(norm, BatchNorm)
    norm.mean[...] = np.full(8, 2, np.float32)
    norm.var[...] = np.full(8, 4 - 1e-3, np.float32)
    norm.bias[...] = np.full(8, 5, np.float32)
    kernel = np.array(layer.conv.kernel[...])
    fused = fuse_network(layer)
    assert isinstance(fused, ConvAct)
    assert isinstance(fused.conv, Conv)
    np.testing.assert_allclose(fused.conv.kernel[...], kernel / 2, rtol=1e-6)
    np.testing.assert_allclose(fused.conv.bias[...], np.full(8, 5 - 1), rtol=1e-6)


def test_parts_in_lists_are_folded_too():
    class Two(nnx.Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.layers = nnx.List([Layers()(8, 8, rng=rng) for _ in range(2)])

    assert [type(layer) for layer in fuse_network(Two()).layers] == [ConvAct, ConvAct]
