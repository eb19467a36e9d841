"""Transitions between stages: `Downsample(in_width, width, stride, *, conv, rng)`.

They divide height and width by `stride`, 1 or 2, and change the width.
"""

from collections.abc import Callable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.layers import Layers


class ConvDown(nnx.Module):
    """One 3x3 convolution with the stride."""

    def __init__(
        self, in_width: int, width: int, stride: int, *, conv: Layers, rng: np.random.Generator
    ):
        self.conv = conv(in_width, width, 3, stride, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.conv(x)


DOWNSAMPLES: dict[str, Callable[..., nnx.Module]] = {"conv": ConvDown}
