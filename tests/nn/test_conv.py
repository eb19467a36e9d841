"""Every form of the convolution has the value and gradients of the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flaxyolo.nn.conv import Conv, conv2d
from flaxyolo.nn.conv_forms import padding, plain_form
from flaxyolo.nn.depthwise_forms import IMAGES
from flaxyolo.nn.layers import ConvNormAct

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32))


def assert_equals_the_plain_form(x, kernel, stride, groups, dilation, tolerance=1e-5):
    """`conv2d` and both its gradients, each as a share of the plain one's largest number."""
    geometry = stride, groups, dilation
    plain, pull_plain = jax.vjp(lambda x, k: plain_form(x, k, *geometry), x, kernel)
    mine, pull_mine = jax.vjp(lambda x, k: conv2d(x, k, *geometry), x, kernel)
    dy = normal(*plain.shape).astype(plain.dtype)
    for a, b in zip((mine, *pull_mine(dy)), (plain, *pull_plain(dy)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(array, np.float32) for array in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


# (input width, width, kernel, stride, groups, dilation)
CASES = [
    (8, 12, 1, 1, 1, 1),
    (8, 12, 1, 2, 1, 1),
    (8, 12, 3, 1, 1, 1),
    (8, 12, 3, 2, 1, 1),
    (40, 12, 3, 2, 1, 1),
    (40, 8, 5, 2, 1, 1),
    (3, 8, 3, 2, 1, 1),  # stems
    (3, 8, 6, 2, 1, 1),
    (3, 8, 4, 4, 1, 1),
    (8, 8, 2, 2, 1, 1),
    (40, 8, 6, 2, 1, 1),
    (8, 8, 3, 1, 1, 2),
    (8, 8, 3, 2, 1, 2),
    (8, 8, 3, 2, 1, 3),
    (8, 8, 3, 1, 8, 1),  # depthwise
    (8, 8, 3, 2, 8, 1),
    (8, 8, 5, 1, 8, 1),
    (8, 8, 5, 2, 8, 1),
    (8, 8, 7, 1, 8, 1),
    (8, 8, 7, 2, 8, 1),
    (8, 8, 2, 2, 8, 1),
    (8, 8, 3, 1, 8, 2),
    (8, 8, 3, 2, 8, 2),
    (8, 8, 3, 2, 8, 3),
    (8, 12, 3, 1, 4, 1),  # grouped
    (8, 16, 3, 2, 8, 1),
    (8, 16, 1, 2, 2, 1),
    (48, 48, 3, 1, 6, 1),
    (64, 32, 3, 2, 2, 1),
    (64, 64, 3, 1, 32, 1),
    (32, 32, 3, 1, 2, 2),
    (32, 32, 3, 2, 2, 3),
]


@pytest.mark.parametrize(("inputs", "outputs", "size", "stride", "groups", "dilation"), CASES)
@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 11)])
def test_a_convolution_and_its_gradients_equal_the_plain_form(
    height, width, inputs, outputs, size, stride, groups, dilation
):
    x, kernel = normal(2, height, width, inputs), normal(size, size, inputs // groups, outputs)
    assert_equals_the_plain_form(x, kernel, stride, groups, dilation)


def test_more_images_than_one_expression_holds():
    assert_equals_the_plain_form(normal(2 * IMAGES, 5, 6, 4), normal(3, 3, 1, 4), 1, 4, 1)


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 8), (3, 2, 2)])
def test_a_convolution_keeps_bfloat16(size, stride, groups):
    x, kernel = normal(2, 6, 8, 8), normal(size, size, 8 // groups, 8)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    assert_equals_the_plain_form(x, kernel, stride, groups, 1, tolerance=0.02)


@pytest.mark.parametrize(("size", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 8), (3, 2, 2)])
def test_a_convolution_works_under_checkpoint_and_on_a_mesh(size, stride, groups):
    x, kernel = normal(2, 6, 8, 8), normal(size, size, 8 // groups, 8)

    def loss(form, x, kernel):
        return (form(x, kernel, stride, groups) ** 2).sum()

    plain = jax.grad(partial(loss, plain_form), (0, 1))(x, kernel)
    again = jax.grad(jax.checkpoint(partial(loss, conv2d)), (0, 1))(x, kernel)
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=(P("devices"), P()), out_specs=(P("devices"), P()))
    def shared(x, kernel):
        # As in training: a device's own copy of the weights, its gradient summed over devices.
        own = lax.pcast(kernel, "devices", to="varying")
        dx, dw = jax.grad(partial(loss, conv2d), (0, 1))(x, own)
        return dx, lax.psum(dw, "devices")

    for mine in (again, shared(x, kernel)):
        for a, b in zip(mine, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(2, 1, 1), (4, 1, 1), (2, 4, 1), (4, 2, 2)]
)
def test_an_even_kernel_that_cannot_be_centred_is_refused(size, stride, dilation):
    with pytest.raises(
        ValueError, match=f"a kernel of {size} cannot be centred at stride {stride}"
    ):
        padding(size, stride, dilation)


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
