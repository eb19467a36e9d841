"""What the tests of every table ask of an entry."""

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxyolo.nn.conv_forms import plain_form
from flaxyolo.nn.fuse import fuse_network
from flaxyolo.nn.layers import Layers

CONV = Layers()

one_form = mock.patch("flaxyolo.nn.conv.conv2d", plain_form)
"""With it every convolution is XLA's own, which compiles in a fraction of the time; that the other
forms are equal is tested with them."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(rng(seed).normal(size=shape), jnp.float32)


def output_shape(build: Callable[[], nnx.Module], *inputs: object) -> object:
    """Shape of what the module returns, without computing it."""
    return jax.tree.map(lambda x: x.shape, nnx.eval_shape(lambda: build()(*inputs)))


def params(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def conv_params(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """Of a convolution and its norm."""
    return inputs // groups * outputs * kernel**2 + 2 * outputs


def drawn(module: nnx.Module, seed: int = 1) -> nnx.Module:
    """The module with norms, statistics and biases away from where they start."""
    numbers = rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        shape = variable.shape
        if path[-1] in ("scale", "var"):
            variable[...] = numbers.uniform(0.5, 2, shape).astype(np.float32)
        elif path[-1] in ("bias", "mean"):
            variable[...] = numbers.normal(0, 0.3, shape).astype(np.float32)
    return module


@one_form
def run(module: nnx.Module, x: jax.Array) -> np.ndarray:
    """The module in use, compiled."""
    graph, state = nnx.split(module)
    function = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    return np.asarray(function(jax.tree.map(jnp.asarray, state), x))


def assert_fused_is_equal(module: nnx.Module, x: jax.Array) -> nnx.Module:
    """Folding changes no value, with every norm away from where it starts; returns the result."""
    before = run(drawn(module), x)
    fused = fuse_network(module)
    assert not jax.tree.leaves(nnx.state(fused, nnx.BatchStat)), "a batch norm is left"
    assert np.abs(before).max() > 0.1
    np.testing.assert_allclose(run(fused, x), before, atol=1e-3)
    return fused


@one_form
def assert_every_parameter_has_a_gradient(module: nnx.Module, x: jax.Array) -> None:
    """Finite and not zero, with the statistics of the batch."""
    view = nnx.view(
        module, use_running_average=False, deterministic=False, raise_if_not_found=False
    )
    graph, *states = nnx.split(view, nnx.Param, ...)
    state, rest = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in states)
    target = normal(*jax.eval_shape(lambda: nnx.merge(graph, state, rest)(x)).shape, seed=3)
    gradient = jax.jit(
        jax.grad(lambda state: ((nnx.merge(graph, state, rest)(x) - target) ** 2).sum())
    )(state)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
