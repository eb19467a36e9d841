"""Feature pyramids, C levels to P levels, all with one contract.

`Neck(spec, in_widths, widths, *, conv, rng)` maps the C features, finest first, to the
P features of the same strides.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import upsample
from flaxyolo.nn.tables import entry
from flaxyolo.spec import NeckSpec


class Fusion(nnx.Module):
    """Concatenate two features of one stride, then the block and attention of `level`."""

    def __init__(
        self,
        spec: NeckSpec,
        level: int,
        in_width: int,
        width: int,
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        block = entry(BLOCKS, spec.blocks[level], "neck.block")
        attention = entry(ATTENTIONS, spec.attentions[level], "neck.attention")
        self.block = block(in_width, width, spec.depth, conv=conv, rng=rng)
        self.attention = attention(width, conv=conv, rng=rng)

    def __call__(
        self, a: Float[Array, "b h w c"], b: Float[Array, "b h w d"]
    ) -> Float[Array, "b h w o"]:
        return self.attention(self.block(jnp.concatenate([a, b], axis=-1)))


class FPN(nnx.Module):
    """Top-down pyramid with concatenation (arXiv 1612.03144, in YOLO's form).

    The coarsest level passes through; `project` gives it the neck's width where the two differ.
    """

    def __init__(
        self,
        spec: NeckSpec,
        in_widths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        same = in_widths[-1] == widths[-1]
        self.project = None if same else conv(in_widths[-1], widths[-1], 1, rng=rng)
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        self.down = nnx.List(
            [
                Fusion(spec, i, widths[i + 1] + in_widths[i], widths[i], **common)
                for i in reversed(range(len(widths) - 1))
            ]
        )

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        top = features[-1] if self.project is None else self.project(features[-1])
        outputs = [top]
        for fuse, feature in zip(self.down, reversed(features[:-1]), strict=True):
            outputs.append(fuse(upsample(outputs[-1]), feature))
        return outputs[::-1]


class PAN(nnx.Module):
    """FPN, then a bottom-up path (arXiv 1803.01534)."""

    def __init__(
        self,
        spec: NeckSpec,
        in_widths: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        self.fpn = FPN(spec, in_widths, widths, **common)
        downs = [entry(DOWNSAMPLES, name, "neck.downsample") for name in spec.downsamples[1:]]
        self.downsample = nnx.List(
            [down(width, width, 2, **common) for down, width in zip(downs, widths, strict=False)]
        )
        self.up = nnx.List(
            [
                Fusion(spec, i + 1, widths[i] + widths[i + 1], widths[i + 1], **common)
                for i in range(len(widths) - 1)
            ]
        )

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        middle = self.fpn(features)
        outputs = middle[:1]
        for downsample, fuse, feature in zip(self.downsample, self.up, middle[1:], strict=True):
            outputs.append(fuse(downsample(outputs[-1]), feature))
        return outputs


NECKS: dict[str, Callable[..., nnx.Module]] = {"fpn": FPN, "pan": PAN}
