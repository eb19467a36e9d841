"""Stem and stages: images to C2..C6."""

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.context import CONTEXTS
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.regularize import DropBlock, SpatialDropout
from flaxyolo.nn.stem import STEMS
from flaxyolo.nn.tables import entry
from flaxyolo.spec import LEVEL_STRIDES, BackboneSpec, StageSpec, stem_stride

NOISE_STRIDE = 16
"""DropBlock and spatial dropout follow the blocks from this stride on: finer maps hold edges, not
objects (DropBlock is for the last groups of layers in arXiv 1810.12890)."""


class Stage(nnx.Module):
    """A transition to the stage's stride and width, the block, noise in training, then attention.

    `before` and `after` are the context layer, for the stage that has it.
    """

    def __init__(
        self,
        spec: StageSpec,
        in_width: int,
        *,
        before: str = "none",
        after: str = "none",
        drop_block: float = 0.0,
        spatial_dropout: float = 0.0,
        conv: Layers,
        rng: np.random.Generator,
    ):
        down_width = spec.down_width or spec.width
        downsample = entry(DOWNSAMPLES, spec.downsample, "downsample")
        block = entry(BLOCKS, spec.block, "block")
        attention = entry(ATTENTIONS, spec.attention, "attention")
        plain = conv.plain()
        self.downsample = downsample(in_width, down_width, spec.stride, conv=plain, rng=rng)
        self.before = entry(CONTEXTS, before, "context")(down_width, conv=plain, rng=rng)
        self.block = block(down_width, spec.width, spec.depth, conv=conv, rng=rng)
        self.drop_block = DropBlock(drop_block)
        self.spatial_dropout = SpatialDropout(spatial_dropout)
        self.attention = attention(spec.width, conv=plain, rng=rng)
        self.after = entry(CONTEXTS, after, "context")(spec.width, conv=plain, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        x = self.block(self.before(self.downsample(x)))
        x = self.spatial_dropout(self.drop_block(x))
        return self.after(self.attention(x))


class Backbone(nnx.Module):
    """Stem, stages, and an optional context layer in the last."""

    def __init__(self, spec: BackboneSpec, *, conv: Layers, rng: np.random.Generator):
        self.stem = entry(STEMS, spec.stem, "stem")(spec.stem_width, conv=conv, rng=rng)
        self.stem_stride = stem_stride(spec.stem)
        self.strides = spec.strides
        widths = [spec.stem_width, *(stage.width for stage in spec.stages)]
        rates = iter(drop_path_rates(spec))
        self.stages = nnx.List([])
        for number, (stage, stride) in enumerate(zip(spec.stages, spec.strides, strict=True)):
            noisy = stride >= NOISE_STRIDE
            last = number == len(spec.stages) - 1
            place = spec.context_place if last else None
            self.stages.append(
                Stage(
                    stage,
                    widths[number],
                    before=spec.context if place == "before" else "none",
                    after=spec.context if place == "after" else "none",
                    drop_block=spec.drop_block if noisy else 0.0,
                    spatial_dropout=spec.spatial_dropout if noisy else 0.0,
                    conv=conv.dropping(tuple(next(rates) for _ in range(stage.depth))),
                    rng=rng,
                )
            )

    def __call__(self, images: Float[Array, "b h w 3"]) -> dict[int, Float[Array, "b _ _ _"]]:
        """Features by level: `{2: C2, 3: C3, ...}`, the last output at each stride."""
        levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
        with jax.named_scope("stem"):
            x = self.stem(images)
        if images.shape[1] != x.shape[1] * self.stem_stride:
            raise ValueError(
                f"the stem gives {x.shape[1]} cells for {images.shape[1]} pixels, expected a "
                f"stride of {self.stem_stride}; a stem of another has it in spec.STEM_STRIDES"
            )
        features = {}
        for number, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True)):
            with jax.named_scope(f"stage{number}"):
                x = stage(x)
            if stride in levels:
                features[levels[stride]] = x
        return features


def drop_path_rates(spec: BackboneSpec) -> list[float]:
    """Drop path of every layer of the backbone: from 0 at the first, rising linearly."""
    layers = sum(stage.depth for stage in spec.stages)
    return [spec.drop_path * i / max(layers - 1, 1) for i in range(layers)]
