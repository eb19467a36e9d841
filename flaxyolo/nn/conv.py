"""The one convolution, which chooses its form and those of its gradients by platform and shape.

XLA's convolution on CPU is quick only where it is dense and of stride 1: grouped and depthwise
ones take tens of times what they need, and the gradient of a strided one multiplies zeros. There
`cpu_value`, `cpu_input_gradient` and `cpu_kernel_gradient` choose, as measured by
benchmarks/convolutions.py; elsewhere the plain form is right.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxyolo.nn.conv_forms import (
    dense_blocks,
    groups_in_a_block,
    own_channels,
    patch_form,
    patch_input_gradient,
    patch_kernel_gradient,
    phases_form,
    plain_form,
    plain_input_gradient,
    plain_kernel_gradient,
    product,
    product_kernel_gradient,
    squares_form,
    squares_kernel_gradient,
)
from flaxyolo.nn.depthwise_forms import shifted_form, shifted_kernel_gradient, shifted_phases
from flaxyolo.nn.platform import by_platform

FEW = 8
"""Below so many channels XLA's convolution gathers its windows one number at a time."""


def cpu_value(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """The convolution in the form that is fastest on a CPU for this shape."""
    size = kernel.shape[0]
    if _skips(size, stride, dilation):
        return cpu_value(x[:, ::stride, ::stride], kernel, 1, groups, max(dilation // stride, 1))
    if groups == x.shape[-1] == kernel.shape[-1]:
        return shifted_form(x, kernel, stride, dilation)
    if groups > 1:
        kernels = dense_blocks(kernel, groups)
        parts = zip(jnp.split(x, len(kernels), axis=-1), kernels, strict=True)
        return jnp.concatenate([cpu_value(x, k, stride, 1, dilation) for x, k in parts], axis=-1)
    if size == 1:
        return product(x, kernel[0, 0])
    if _tiles(x.shape, size, stride):
        return patch_form(x, kernel)
    if _squares(x.shape, stride, dilation):
        return squares_form(x, kernel)
    return plain_form(x, kernel, stride, 1, dilation)


def cpu_input_gradient(
    dy: Float[Array, "b h2 w2 o"],
    kernel: Float[Array, "kh kw i o"],
    shape: tuple[int, ...],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b h w c"]:
    """The gradient for an input of this shape, in the form that is fastest on a CPU."""
    (b, h, w, c), size = shape, kernel.shape[0]
    if _skips(size, stride, dilation):
        small = (b, -(-h // stride), -(-w // stride), c)
        inner = cpu_input_gradient(dy, kernel, small, 1, groups, max(dilation // stride, 1))
        ends = [n - (m - 1) * stride - 1 for n, m in zip((h, w), small[1:3], strict=True)]
        spread = [(0, 0, 0), *((0, end, stride - 1) for end in ends), (0, 0, 0)]
        return lax.pad(inner, jnp.zeros((), inner.dtype), spread)
    if groups == c == kernel.shape[-1] and stride == 1:
        return shifted_form(dy, kernel[::-1, ::-1], 1, dilation)
    if groups == c == kernel.shape[-1] and (stride, dilation) == (2, 1):
        return shifted_phases(dy, kernel, shape)
    if groups > 1:
        kernels = dense_blocks(kernel, groups)
        parts = zip(jnp.split(dy, len(kernels), axis=-1), kernels, strict=True)
        shape = (b, h, w, c // len(kernels))
        return jnp.concatenate(
            [cpu_input_gradient(dy, k, shape, stride, 1, dilation) for dy, k in parts], axis=-1
        )
    if stride == 1:
        return cpu_value(dy, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), 1, 1, dilation)
    if _tiles(shape, size, stride):
        return patch_input_gradient(dy, kernel)
    if stride == 2 and dilation == 1:
        return phases_form(dy, kernel, shape)
    return plain_input_gradient(dy, kernel, shape, stride, dilation)


def cpu_kernel_gradient(
    x: Float[Array, "b h w c"],
    dy: Float[Array, "b h2 w2 o"],
    shape: tuple[int, ...],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "kh kw i o"]:
    """The gradient for a kernel of this shape, in the form that is fastest on a CPU."""
    size, _, i, o = shape
    if _skips(size, stride, dilation):
        x = x[:, ::stride, ::stride]
        return cpu_kernel_gradient(x, dy, shape, 1, groups, max(dilation // stride, 1))
    if groups == x.shape[-1] == o:
        return shifted_kernel_gradient(x, dy, size, stride, dilation)
    if groups > 1:
        merged = groups_in_a_block(groups, i)
        count = groups // merged
        wide = (size, size, merged * i, o // count)
        parts = zip(jnp.split(x, count, axis=-1), jnp.split(dy, count, axis=-1), strict=True)
        gradients = [cpu_kernel_gradient(x, dy, wide, stride, 1, dilation) for x, dy in parts]
        return jnp.concatenate([own_channels(part, merged) for part in gradients], axis=-1)
    if size == 1:
        return product_kernel_gradient(x, dy)
    if _tiles(x.shape, size, stride):
        return patch_kernel_gradient(x, dy, size)
    if _squares(x.shape, stride, dilation) and size % 2 == 0:
        return squares_kernel_gradient(x, dy, size)
    return plain_kernel_gradient(x, dy, size, stride, dilation)


def _tiles(shape: tuple[int, ...], size: int, stride: int) -> bool:
    """Whether windows lie side by side and cover the image."""
    return size == stride and shape[1] % size == shape[2] % size == 0


def _squares(shape: tuple[int, ...], stride: int, dilation: int) -> bool:
    """Whether 2x2 squares are the better channels."""
    _, h, w, c = shape
    return (stride, dilation) == (2, 1) and c < FEW and h % 2 == w % 2 == 0


def _skips(size: int, stride: int, dilation: int) -> bool:
    """Whether every tap reads only cells whose place is a multiple of the stride."""
    return stride > 1 and (size == 1 or (size % 2 == 1 and dilation % stride == 0))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """Convolution, padded as `padding` says, in the best form of the platform.

    Its gradients have forms of their own, so it can be differentiated once, in reverse.
    """

    def cpu(x: Array, kernel: Array) -> Array:
        wide, weights = _float32(x, kernel)
        return cpu_value(wide, weights, stride, groups, dilation).astype(x.dtype)

    def default(x: Array, kernel: Array) -> Array:
        return plain_form(x, kernel, stride, groups, dilation)

    return by_platform(x, kernel, cpu=cpu, default=default)


def _forward(
    x: Array, kernel: Array, stride: int, groups: int, dilation: int
) -> tuple[Array, tuple[Array, Array]]:
    return conv2d(x, kernel, stride, groups, dilation), (x, kernel)


def _backward(
    stride: int, groups: int, dilation: int, kept: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    shape, kernel_shape = (array.shape for array in kept)
    geometry = stride, groups, dilation

    def cpu(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        x, kernel, dy = _float32(x, kernel, dy)
        dx = cpu_input_gradient(dy, kernel, shape, *geometry)
        dw = cpu_kernel_gradient(x, dy, kernel_shape, *geometry)
        return dx.astype(kept[0].dtype), dw.astype(kept[1].dtype)

    def default(x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, kernel: plain_form(x, kernel, *geometry), x, kernel)[1](dy)

    return by_platform(*kept, dy, cpu=cpu, default=default)


conv2d.defvjp(_forward, _backward)


def _float32(*arrays: Array) -> list[Array]:
    """CPUs sum in float32 whatever the layer's type."""
    return [array.astype(jnp.float32) for array in arrays]


class Conv(nnx.Module):
    """Convolution with its kernel drawn as in PyTorch: uniform within 1 / sqrt(fan-in)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        bias: float | np.ndarray | None = None,
        dtype: DTypeLike = jnp.float32,
        rng: np.random.Generator,
    ):
        if in_width % groups or width % groups:
            raise ValueError(f"widths {in_width} and {width} must be multiples of groups {groups}")
        shape = (kernel, kernel, in_width // groups, width)
        bound = 1 / np.sqrt(np.prod(shape[:3]))
        self.kernel = nnx.Param(rng.uniform(-bound, bound, shape).astype(np.float32))
        initial = None if bias is None else np.broadcast_to(np.float32(bias), (width,)).copy()
        self.bias = None if initial is None else nnx.Param(initial)
        self.stride, self.groups, self.dilation = stride, groups, dilation
        self.dtype = dtype

    @classmethod
    def holding(cls, kernel: np.ndarray, bias: np.ndarray | None, *, like: "Conv") -> "Conv":
        """A convolution of the same stride, groups, dilation and dtype with these weights."""
        conv = cls(
            like.groups,
            like.groups,
            1,
            like.stride,
            groups=like.groups,
            dilation=like.dilation,
            bias=None if bias is None else 0.0,
            dtype=like.dtype,
            rng=np.random.default_rng(0),
        )
        conv.kernel = nnx.Param(np.asarray(kernel, np.float32))
        if bias is not None:
            conv.bias = nnx.Param(np.asarray(bias, np.float32))
        return conv

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        kernel = jnp.asarray(self.kernel[...], self.dtype)
        y: Array = conv2d(x.astype(self.dtype), kernel, self.stride, self.groups, self.dilation)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None, None, None]
