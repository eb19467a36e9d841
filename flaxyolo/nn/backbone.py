"""Stem and stages: images to C2..C6."""

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS, SPPF, ConvFactory
from flaxyolo.nn.tables import entry
from flaxyolo.spec import LEVEL_STRIDES, BackboneSpec, StageSpec


class Stage(nnx.Module):
    """A downsampling convolution, the block, then attention."""

    def __init__(
        self,
        spec: StageSpec,
        in_width: int,
        *,
        conv: ConvFactory,
        dtype: DTypeLike,
        rng: np.random.Generator,
    ):
        block = entry(BLOCKS, spec.block, "block")
        attention = entry(ATTENTIONS, spec.attention, "attention")
        self.downsample = conv(in_width, spec.width, 3, spec.stride, rng=rng)
        self.block = block(spec.width, spec.width, spec.depth, conv=conv, rng=rng)
        self.attention = attention(spec.width, dtype=dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return self.attention(self.block(self.downsample(x)))


class Backbone(nnx.Module):
    """3x3 stem at stride 2, the stages, and an optional context layer after the last."""

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        conv: ConvFactory,
        dtype: DTypeLike,
        rng: np.random.Generator,
    ):
        self.stem = conv(3, spec.stem_width, 3, 2, rng=rng)
        widths = [spec.stem_width, *(stage.width for stage in spec.stages)]
        self.stages = nnx.List(
            [
                Stage(stage, width, conv=conv, dtype=dtype, rng=rng)
                for stage, width in zip(spec.stages, widths, strict=False)
            ]
        )
        self.context = SPPF(widths[-1], conv=conv, rng=rng) if spec.context == "sppf" else None
        self.strides = tuple(2 * int(s) for s in np.cumprod([st.stride for st in spec.stages]))

    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[int, Float[Array, "b _ _ _"]]:
        """Features by level: `{2: C2, 3: C3, ...}`, the last output at each stride."""
        levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
        x = self.stem(images)
        features = {}
        for index, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True)):
            x = stage(x)
            if index == len(self.stages) - 1 and self.context is not None:
                x = self.context(x)
            if stride in levels:
                features[levels[stride]] = x
        return features
