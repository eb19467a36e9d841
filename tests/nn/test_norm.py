"""Norms compute their formula, share statistics where they should, and are chosen by the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.mesh import devices_along
from flaxyolo.nn.norm import BatchNorm, GroupNorm, SyncBatchNorm, choose_norm


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


def naive_batch_norm(x, scale, bias, epsilon=1e-3):
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale[None, None, None] + bias[None, None, None]


def training_norm(width=5):
    norm = BatchNorm(width)
    norm.scale[...], norm.bias[...] = 1 + 0.1 * normal(width), normal(width)
    return nnx.view(norm, use_running_average=False)


def test_batch_norm_uses_the_batch_and_moves_its_running_statistics():
    x = 3 + 2 * normal(4, 6, 7, 5)
    norm = training_norm()
    expected = naive_batch_norm(x, norm.scale[...], norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, rtol=1e-4, atol=1e-5)
    values = np.asarray(x, np.float64).reshape(-1, 5)
    # The running variance is the unbiased one, as in PyTorch; both start at 0 and 1.
    np.testing.assert_allclose(norm.mean[...], 0.03 * values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...], 0.97 + 0.03 * values.var(0, ddof=1), rtol=1e-4)


def test_batch_norm_in_use_takes_the_running_statistics_and_keeps_them():
    norm = training_norm()
    norm(normal(4, 6, 7, 5))
    running = nnx.view(norm, use_running_average=True)
    mean, var = np.asarray(running.mean[...]), np.asarray(running.var[...])
    x = normal(2, 3, 3, 5)
    scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-3) * scale + bias
    np.testing.assert_allclose(running(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(running.mean[...], mean)
    np.testing.assert_array_equal(running.var[...], var)


def test_the_gradients_of_batch_norm_are_those_of_its_formula():
    x, weights = 1 + normal(3, 4, 5, 5), normal(3, 4, 5, 5)
    graph, *states = nnx.split(training_norm(), nnx.Param, ...)
    params, stats = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in states)

    def mine(x, params):
        return (nnx.merge(graph, params, stats)(x) * weights).sum()

    def naive(x, params):
        return (naive_batch_norm(x, params["scale"], params["bias"]) * weights).sum()

    for a, b in zip(
        jax.tree.leaves(jax.jit(jax.grad(mine, (0, 1)))(x, params)),
        jax.tree.leaves(jax.jit(jax.grad(naive, (0, 1)))(x, params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_constant_batch_normalises_to_the_bias():
    norm = training_norm()
    y = norm(jnp.full((2, 3, 3, 5), 1e4))
    # The variance is a difference of two squares near 1e8 in float32; it must not turn negative.
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y, np.broadcast_to(norm.bias[...], y.shape), atol=0.05)


@pytest.mark.parametrize(("width", "groups"), [(8, 1), (16, 2), (24, 3), (256, 32), (512, 32)])
def test_group_norm_normalises_each_group_of_each_image(width, groups):
    norm = GroupNorm(width)
    assert norm.groups == groups
    norm.scale[...], norm.bias[...] = 1 + normal(width), normal(width)
    x = 2 + normal(2, 3, 4, width)
    split = np.asarray(x).reshape(2, 3, 4, groups, -1)
    mean = split.mean((1, 2, 4), keepdims=True)
    var = split.var((1, 2, 4), keepdims=True)
    expected = ((split - mean) / np.sqrt(var + 1e-3)).reshape(x.shape)
    expected = expected * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    np.testing.assert_allclose(norm(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "multi_gpu", "norm"),
    [
        (2, False, "group"),
        (4, False, "group"),
        (8, False, "group"),
        (15, False, "group"),
        (16, False, "batch"),
        (32, False, "batch"),
        (2, True, "sync_batch"),
        (15, True, "sync_batch"),
        (16, True, "batch"),
        (64, True, "batch"),
    ],
)
def test_the_batch_chooses_the_norm(batch, multi_gpu, norm):
    assert choose_norm(batch, multi_gpu) == norm


def test_a_batch_of_none_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        choose_norm(0)


def over_two_devices(kind, x, weights):
    """Output, statistics and the gradient by x, each of two devices holding half the batch."""
    norm = nnx.view(kind(5), use_running_average=False)
    graph, state = nnx.split(norm)
    state = jax.tree.map(jnp.asarray, nnx.as_pure(state))

    def half(x, weights):
        with devices_along("devices"):
            here = nnx.merge(graph, state)
            y = here(x)
            return (y * weights).sum(), (y, here.mean[...], here.var[...])

    def total(x):
        sums, rest = jax.vmap(half, axis_name="devices")(x, weights)
        return sums.sum(), rest

    (_, rest), gradient = jax.value_and_grad(total, has_aux=True)(x)
    return *rest, gradient


def test_synchronised_batch_norm_over_devices_is_batch_norm_of_the_whole_batch():
    # The halves differ in mean and spread, so their own statistics are far from the whole's.
    x = normal(2, 2, 4, 3, 5) * jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1, 1)
    x = x.at[1].add(2)
    weights = normal(2, 2, 4, 3, 5)[::-1]
    y, mean, var, gradient = over_two_devices(SyncBatchNorm, x, weights)
    whole = nnx.view(BatchNorm(5), use_running_average=False)
    flat = x.reshape(4, 4, 3, 5)
    np.testing.assert_allclose(y.reshape(flat.shape), whole(flat), rtol=1e-4, atol=1e-5)
    for row in range(2):
        np.testing.assert_allclose(mean[row], whole.mean[...], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(var[row], whole.var[...], rtol=1e-5)
    expected = jax.grad(
        lambda x: (naive_batch_norm(x, jnp.ones(5), jnp.zeros(5)) * weights.reshape(x.shape)).sum()
    )(flat)
    np.testing.assert_allclose(gradient.reshape(flat.shape), expected, rtol=1e-3, atol=1e-4)


def test_plain_batch_norm_keeps_to_its_device():
    x = normal(2, 2, 4, 3, 5) + jnp.asarray([0.0, 4.0]).reshape(2, 1, 1, 1, 1)
    y, mean, _, _ = over_two_devices(BatchNorm, x, normal(2, 2, 4, 3, 5))
    assert np.abs(mean[0] - mean[1]).min() > 0.05
    np.testing.assert_allclose(y.mean((1, 2, 3)), np.zeros((2, 5)), atol=1e-5)


def test_synchronised_batch_norm_alone_is_batch_norm():
    x = normal(4, 4, 3, 5)
    one, other = (nnx.view(k(5), use_running_average=False) for k in (BatchNorm, SyncBatchNorm))
    np.testing.assert_array_equal(one(x), other(x))
    np.testing.assert_array_equal(one.var[...], other.var[...])
