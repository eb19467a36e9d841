"""Pooling and up-sampling, and their gradients against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxyolo.nn.pooling import largest, max_pool, upsample


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


def plain_max_pool(x, size):
    side = size // 2
    pads = ((0, 0), (side, side), (side, side), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, 1, 1, 1), pads)


def test_max_pool_takes_the_largest_of_each_window_and_its_gradient_goes_there():
    x = -1 - jnp.abs(normal(2, 6, 7, 3))  # negative: padding must not win
    expected = np.zeros(x.shape, np.float32)
    for i in range(6):
        for j in range(7):
            window = np.asarray(x)[:, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            expected[:, i, j] = window.max((1, 2))
    np.testing.assert_array_equal(max_pool(x, 5), expected)
    gradient = jax.grad(lambda x: max_pool(x, 5).sum())(x)
    wins = np.array([(expected == value).sum() for value in np.asarray(x).ravel()])
    np.testing.assert_array_equal(gradient.ravel(), wins)


@pytest.mark.parametrize("size", [3, 5, 9])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_of_equal_numbers_the_first_of_the_window_gets_the_gradient_as_in_xla(size, values):
    x = jnp.round(normal(2, 7, 6, 3) * values) / values
    mine, pull_mine = jax.vjp(lambda x: max_pool(x, size), x)
    plain, pull_plain = jax.vjp(lambda x: plain_max_pool(x, size), x)
    dy = normal(*x.shape)
    np.testing.assert_array_equal(mine, plain)
    np.testing.assert_allclose(pull_mine(dy)[0], pull_plain(dy)[0], rtol=1e-5, atol=1e-6)


def test_max_pool_keeps_bfloat16():
    x = normal(1, 4, 5, 2).astype(jnp.bfloat16)
    y, pull = jax.vjp(lambda x: max_pool(x, 3), x)
    assert y.dtype == pull(y)[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, plain_max_pool(x, 3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_upsample_repeats_every_pixel_twice_and_adds_up_their_gradients(dtype):
    x, dy = normal(2, 3, 4, 5).astype(dtype), normal(2, 6, 8, 5).astype(dtype)
    y, pull = jax.vjp(upsample, x)
    np.testing.assert_array_equal(y, np.repeat(np.repeat(x, 2, 1), 2, 2))
    gradient = pull(dy)[0]
    assert y.dtype == gradient.dtype == dtype
    expected = np.asarray(dy, np.float32).reshape(2, 3, 2, 4, 2, 5).sum((2, 4))
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=0, atol=tolerance)


def test_the_gradient_of_the_largest_goes_to_the_first_of_equal_ones():
    x = jnp.asarray([[[1.0, 5.0], [3.0, 5.0], [3.0, 2.0]]])
    weights = jnp.asarray([[10.0, 20.0]])
    value, gradient = jax.value_and_grad(lambda x: (largest(x, 1) * weights).sum())(x)
    assert value == 3 * 10 + 5 * 20
    np.testing.assert_array_equal(gradient[0], [[0, 20], [10, 0], [0, 0]])
