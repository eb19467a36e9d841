"""Transitions between stages: `Downsample(in_width, width, stride, *, conv, rng)`.

They divide height and width by `stride`, 1 or 2, and change the width.
"""

from collections.abc import Callable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.bottlenecks import separable
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import largest
from flaxyolo.nn.rep import RepConv


def squares(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 2 w2 2 c"]:
    """The map cut into 2x2 squares; both sides must be even."""
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"height and width must be even to be halved, got {h} x {w}")
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


def space_to_depth(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c4"]:
    """Every 2x2 square as channels: top left, bottom left, top right, bottom right."""
    parts = squares(x).transpose(0, 1, 3, 4, 2, 5)
    return parts.reshape(*parts.shape[:3], -1)


class ConvDown(nnx.Module):
    """One 3x3 convolution with the stride."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.conv = conv(in_width, width, 3, stride, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(x)


class SeparableDown(nnx.Module):
    """3x3 depthwise with the stride, then 1x1, each with norm and activation (YOLOX)."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.conv = separable(in_width, width, 3, stride, conv=conv, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(x)


class PointwiseDepthwise(nnx.Module):
    """1x1, then 3x3 depthwise with the stride and no activation (YOLOv10, arXiv 2405.14458)."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.pointwise = conv(in_width, width, 1, rng=rng)
        self.depthwise = conv(width, width, 3, stride, groups=width, activation="none", rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.depthwise(self.pointwise(x))


class PoolDown(nnx.Module):
    """The largest value of every 2x2 square, then 1x1; with stride 1 the 1x1 alone."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.stride = stride
        self.conv = conv(in_width, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        if self.stride == 2:
            b, h, w, c = x.shape
            cells = squares(x).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4, c)
            x = largest(cells, 3)
        return self.conv(x)


class PatchDown(nnx.Module):
    """Space to depth, then 1x1 (arXiv 2208.03641); with stride 1 the 1x1 alone."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.stride = stride
        self.conv = conv(in_width * stride**2, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(x if self.stride == 1 else space_to_depth(x))


class RepDown(nnx.Module):
    """A RepVGG block with the stride (arXiv 2101.03697)."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.conv = RepConv(in_width, width, 3, stride, identity=True, conv=conv, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(x)


DOWNSAMPLES: dict[str, Callable[..., nnx.Module]] = {
    "conv": ConvDown,
    "separable": SeparableDown,
    "pointwise_depthwise": PointwiseDepthwise,
    "pool": PoolDown,
    "patch": PatchDown,
    "rep": RepDown,
}
