"""Every form of the convolution has the value and gradients of the plain one; norms; pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.conv import Conv, conv2d, cpu_form, plain_form
from flaxyolo.nn.layers import ConvNormAct
from flaxyolo.nn.norm import BatchNorm, GroupNorm
from flaxyolo.nn.pooling import max_pool, upsample

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


def value_and_gradients(form, x, kernel, weights):
    function = jax.value_and_grad(lambda x, k: (form(x, k) * weights).sum(), (0, 1))
    return jax.jit(function)(x, kernel)


# (input width, width, kernel, stride, groups)
CASES = [
    (8, 12, 1, 1, 1),
    (8, 12, 1, 2, 1),
    (8, 12, 3, 2, 1),
    (8, 8, 3, 1, 8),
    (8, 8, 3, 2, 8),
    (8, 8, 5, 1, 8),
    (8, 8, 5, 2, 8),
    (8, 12, 3, 1, 4),
    (8, 16, 3, 2, 8),
]


@pytest.mark.parametrize(("inputs", "outputs", "size", "stride", "groups"), CASES)
@pytest.mark.parametrize("form", [cpu_form, conv2d])
def test_a_form_equals_the_plain_one_with_its_gradients(
    form, inputs, outputs, size, stride, groups
):
    x, kernel = normal(2, 9, 12, inputs), normal(size, size, inputs // groups, outputs)
    weights = normal(*plain_form(x, kernel, stride, groups).shape)
    mine = value_and_gradients(lambda x, k: form(x, k, stride, groups), x, kernel, weights)
    plain = value_and_gradients(lambda x, k: plain_form(x, k, stride, groups), x, kernel, weights)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 2)])
def test_a_convolution_pads_by_half_its_kernel(size, stride):
    x, kernel = RNG.normal(size=(1, 6, 7, 2)), RNG.normal(size=(size, size, 2, 3))
    side = size // 2
    padded = np.pad(x, [(0, 0), (side, side), (side, side), (0, 0)])
    rows, columns = -(-6 // stride), -(-7 // stride)
    expected = np.zeros((1, rows, columns, 3))
    for i in range(rows):
        for j in range(columns):
            window = padded[0, i * stride : i * stride + size, j * stride : j * stride + size]
            expected[0, i, j] = np.einsum("ijc,ijco->o", window, kernel)
    x, kernel = jnp.float32(x), jnp.float32(kernel)
    np.testing.assert_allclose(conv2d(x, kernel, stride), expected, rtol=1e-4, atol=1e-5)


def test_widths_that_the_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="widths 8 and 12 must be multiples of groups 8"):
        Conv(8, 12, groups=8, rng=np.random.default_rng(0))


def test_a_kernel_is_drawn_within_the_root_of_its_fan_in():
    conv = Conv(16, 64, 3, groups=4, bias=0.25, rng=np.random.default_rng(0))
    bound = 1 / np.sqrt(3 * 3 * 4)
    assert 0.98 * bound < np.abs(conv.kernel[...]).max() <= bound
    assert conv.bias is not None
    np.testing.assert_array_equal(conv.bias[...], np.full(64, 0.25, np.float32))


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


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("activation", ["silu", "relu", "none"])
def test_a_layer_computes_and_returns_its_dtype(norm, activation):
    layer = ConvNormAct(
        8,
        16,
        3,
        2,
        norm=norm,
        activation=activation,
        dtype=jnp.bfloat16,
        rng=np.random.default_rng(0),
    )
    y = layer(normal(1, 7, 8, 8))
    assert y.shape == (1, 4, 4, 16)
    assert y.dtype == jnp.bfloat16
    assert layer.conv.kernel[...].dtype == jnp.float32
    assert bool((y < 0).any()) == (activation != "relu")


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


def test_upsample_repeats_every_pixel_twice():
    x = normal(2, 3, 4, 5)
    np.testing.assert_array_equal(upsample(x), np.repeat(np.repeat(x, 2, 1), 2, 2))
