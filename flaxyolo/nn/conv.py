"""The one convolution, which chooses its form by platform and shape; norms; ConvNormAct.

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


def plain_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], stride: int, groups: int
) -> Float[Array, "b h2 w2 o"]:
    """XLA's own convolution, padded by `kernel // 2` on every side."""
    pads = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
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
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int
) -> Float[Array, "b h2 w2 c"]:
    """A depthwise convolution as the sum of shifted slices times their weights."""
    kh, kw = kernel.shape[:2]
    _, h, w, _ = x.shape
    padded = jnp.pad(x, [(0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)])
    rows = (h + 2 * (kh // 2) - kh) // stride + 1
    columns = (w + 2 * (kw // 2) - kw) // stride + 1
    taps = (
        padded[
            :, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride
        ]
        * kernel[i, j, 0][None, None, None]
        for i in range(kh)
        for j in range(kw)
    )
    total = next(taps)
    for tap in taps:
        total = total + tap
    return total


def per_group_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], stride: int, groups: int
) -> Float[Array, "b h2 w2 o"]:
    """A grouped convolution as one dense convolution for each group."""
    inputs = jnp.split(x, groups, axis=-1)
    kernels = jnp.split(kernel, groups, axis=-1)
    outputs = [
        plain_form(part, part_kernel, stride, 1)
        for part, part_kernel in zip(inputs, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def cpu_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], stride: int, groups: int
) -> Float[Array, "b h2 w2 o"]:
    """The form that is fastest on a CPU for this shape."""
    width = x.shape[-1]
    if groups == width == kernel.shape[-1]:
        return shifted_form(x, kernel, stride)
    if groups > 1:
        return per_group_form(x, kernel, stride, groups)
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return product_form(x, kernel)
    return plain_form(x, kernel, stride, groups)


def conv2d(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw i o"], stride: int = 1, groups: int = 1
) -> Float[Array, "b h2 w2 o"]:
    """Convolution with odd kernels, padded by `kernel // 2`, in the best form of the platform."""
    if groups == 1 and kernel.shape[:2] != (1, 1):
        return plain_form(x, kernel, stride, groups)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: cpu_form(x, kernel, stride, groups),
        default=lambda x, kernel: plain_form(x, kernel, stride, groups),
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
        self.stride, self.groups, self.dtype = stride, groups, dtype

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        kernel = jnp.asarray(self.kernel[...], self.dtype)
        y = conv2d(x.astype(self.dtype), kernel, self.stride, self.groups)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)[None, None, None]


class BatchNorm(nnx.Module):
    """Batch normalisation (arXiv 1502.03167) as one scale and shift; float32 statistics."""

    def __init__(self, width: int, *, momentum: float = 0.97, epsilon: float = 1e-3):
        self.scale = nnx.Param(np.ones(width, np.float32))
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.mean = nnx.BatchStat(np.zeros(width, np.float32))
        self.var = nnx.BatchStat(np.ones(width, np.float32))
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = True

    def set_view(self, use_running_average: bool | None = None):
        """Switch between the batch's statistics and the running ones (called by `nnx.view`)."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = moments(x)
            count = x.size // x.shape[-1]
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
            unbiased = var * (count / max(count - 1, 1))
            self.var[...] = keep * self.var[...] + (1 - keep) * unbiased
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * scale
        return (x * scale[None, None, None] + shift[None, None, None]).astype(x.dtype)


def moments(x: Float[Array, "b h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and variance of each channel over batch, height and width, in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean((0, 1, 2))
    return mean, jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)


class GroupNorm(nnx.Module):
    """Group normalisation (arXiv 1803.08494): groups of 8 channels or more, at most 32."""

    def __init__(self, width: int, *, epsilon: float = 1e-3):
        self.scale = nnx.Param(np.ones(width, np.float32))
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.groups = max(g for g in range(1, min(32, max(width // 8, 1)) + 1) if width % g == 0)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        grouped = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        mean = grouped.mean((1, 3), keepdims=True)
        var = grouped.var((1, 3), keepdims=True)
        normal = ((grouped - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (
            normal * self.scale[...][None, None, None] + self.bias[...][None, None, None]
        ).astype(x.dtype)


class ConvNormAct(nnx.Module):
    """Convolution without bias, norm, activation."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: str = "batch",
        activation: str = "silu",
        dtype: DTypeLike = jnp.float32,
        rng: np.random.Generator,
    ):
        self.conv = Conv(in_width, width, kernel, stride, groups=groups, dtype=dtype, rng=rng)
        self.norm = NORMS[norm](width)
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return ACTIVATIONS[self.activation](self.norm(self.conv(x)))


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Nearest-neighbour up-sampling by two."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)


def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Maximum over `size` x `size` windows at stride 1, same shape."""
    side = size // 2
    window, ones = (1, size, size, 1), (1, 1, 1, 1)
    pads = ((0, 0), (side, side), (side, side), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, ones, pads)


NORMS = {"batch": BatchNorm, "group": GroupNorm}

ACTIVATIONS = {"silu": nnx.silu, "relu": nnx.relu, "none": lambda x: x}
