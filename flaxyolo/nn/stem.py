"""Stems, from images to the first features: `Stem(width, *, conv, rng)`.

They divide height and width by two; one that does not has its stride in `spec.STEM_STRIDES`.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.bottlenecks import inner_width
from flaxyolo.nn.downsample import space_to_depth
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.rep import RepConv


class ConvStem(nnx.Module):
    """One convolution with the whole stride."""

    def __init__(
        self,
        width: int,
        *,
        kernel: int = 3,
        stride: int = 2,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.conv = conv(3, width, kernel, stride, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(images)


class DeepStem(nnx.Module):
    """Three 3x3 convolutions, the first at stride 2, the first two at half the width."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        half = inner_width(width, 0.5)
        self.first = conv(3, half, 3, 2, rng=rng)
        self.second = conv(half, half, 3, rng=rng)
        self.third = conv(half, width, 3, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 o"]:
        return self.third(self.second(self.first(images)))


class FocusStem(nnx.Module):
    """Every 2x2 square of pixels as 12 channels, then a 3x3 convolution (YOLOX)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.conv = conv(12, width, 3, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(space_to_depth(images))


class RepStem(nnx.Module):
    """A RepVGG block at stride 2 (arXiv 2101.03697)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.conv = RepConv(3, width, 3, 2, conv=conv, rng=rng)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(images)


STEMS: dict[str, Callable[..., nnx.Module]] = {
    "conv3": ConvStem,
    # YOLOv5.
    "conv6": partial(ConvStem, kernel=6),
    # RTMDet (arXiv 2212.07784).
    "deep": DeepStem,
    "focus": FocusStem,
    "rep": RepStem,
    # ConvNeXt (arXiv 2201.03545), here with the activation that every convolution has.
    "patchify": partial(ConvStem, kernel=4, stride=4),
}
