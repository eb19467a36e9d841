"""The one convolution, which chooses its form by platform and shape.

Every form has the same value. On CPU, XLA's own depthwise and grouped convolutions are tens of
times slower than they need be, so those run as sums of shifted slices or as one dense
convolution per group; elsewhere the plain form is right.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def padding(kernel: int, stride: int, dilation: int = 1) -> int:
    """Cells added on every side so that n cells become n / stride, rounded up.

    An odd kernel is centred; an even one, as in YOLOv5's stem, needs an even stride.
    """
    if kernel % 2:
        return dilation * (kernel // 2)
    if (kernel - stride) % 2 or kernel < stride or dilation > 1:
        raise ValueError(f"a kernel of {kernel} cannot be centred at stride {stride}")
    return (kernel - stride) // 2


def plain_form(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int,
    groups: int,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """XLA's own convolution."""
    pads = [(padding(size, stride, dilation),) * 2 for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def product_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "1 1 c o"]
) -> Float[Array, "b h w o"]:
    """A 1x1 convolution as one matrix product over all pixels."""
    b, h, w, c = x.shape
    return (x.reshape(-1, c) @ kernel[0, 0]).reshape(b, h, w, -1)


def shifted_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, dilation: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """A depthwise convolution as the sum of shifted slices times their weights."""
    kh, kw = kernel.shape[:2]
    _, h, w, _ = x.shape
    top, left = padding(kh, stride, dilation), padding(kw, stride, dilation)
    padded = jnp.pad(x, [(0, 0), (top, top), (left, left), (0, 0)])
    rows = (h + 2 * top - dilation * (kh - 1) - 1) // stride + 1
    columns = (w + 2 * left - dilation * (kw - 1) - 1) // stride + 1
    total = None
    for i in range(kh):
        for j in range(kw):
            down, across = i * dilation, j * dilation
            tap = (
                padded[
                    :,
                    down : down + (rows - 1) * stride + 1 : stride,
                    across : across + (columns - 1) * stride + 1 : stride,
                ]
                * kernel[i, j, 0][None, None, None]
            )
            total = tap if total is None else total + tap
    assert total is not None
    return total


def per_group_form(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int,
    groups: int,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """A grouped convolution as one dense convolution for each group."""
    inputs = jnp.split(x, groups, axis=-1)
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [
        plain_form(part, part_kernel, stride, 1, dilation)
        for part, part_kernel in zip(inputs, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def cpu_form(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int,
    groups: int,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """The form that is fastest on a CPU for this shape."""
    width = x.shape[-1]
    if groups == width == kernel.shape[-1]:
        return shifted_form(x, kernel, stride, dilation)
    if groups > 1:
        return per_group_form(x, kernel, stride, groups, dilation)
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return product_form(x, kernel)
    return plain_form(x, kernel, stride, groups, dilation)


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """Convolution, padded as `padding` says, in the best form of the platform."""
    if groups == 1 and kernel.shape[:2] != (1, 1):
        return plain_form(x, kernel, stride, groups, dilation)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: cpu_form(x, kernel, stride, groups, dilation),
        default=lambda x, kernel: plain_form(x, kernel, stride, groups, dilation),
    )


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
        y = conv2d(x.astype(self.dtype), kernel, self.stride, self.groups, self.dilation)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None, None, None]
