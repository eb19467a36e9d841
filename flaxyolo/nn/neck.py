"""Feature pyramids, C levels to P levels, all with one contract.

`Neck(spec, in_widths, widths, *, conv, rng)` maps the C features, finest first, to the
P features of the same strides, of `widths` or all of `spec.out_width`. A single level has nothing
to be fused with: whatever the kind, its block and attention run alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import upsample
from flaxyolo.nn.tables import entry
from flaxyolo.spec import NeckSpec

BIFPN_EPSILON = 1e-4
"""Keeps the normalised weights finite where all are zero (arXiv 1911.09070, section 3.3)."""


class Fusion(nnx.Module):
    """Concatenate features of one stride, then the block and attention of `level`."""

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

    def __call__(self, *features: Float[Array, "b h w _"]) -> Float[Array, "b h w o"]:
        x = features[0] if len(features) == 1 else jnp.concatenate(features, axis=-1)
        return self.attention(self.block(x))


class Nearest(nnx.Module):
    """Up-sampling by two that repeats every cell."""

    def __init__(self, width: int, *, dtype: DTypeLike, rng: np.random.Generator):
        self.width = width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        return upsample(x)


class Transpose(nnx.Module):
    """Up-sampling by two with a learned kernel: 2x2 transposed convolution, stride 2, with bias.

    `kernel[i, j]` leads from a cell's channels to those of its part in row i and column j. The
    parts do not overlap, so it is one matrix product. Drawn as in PyTorch, with fan-in 4 * width.
    """

    def __init__(self, width: int, *, dtype: DTypeLike, rng: np.random.Generator):
        bound = 1 / np.sqrt(4 * width)
        kernel = rng.uniform(-bound, bound, (2, 2, width, width))
        self.kernel = nnx.Param(kernel.astype(np.float32))
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        b, h, w, c = x.shape
        # Columns in the order i, j, output channel.
        kernel = jnp.asarray(self.kernel[...], self.dtype).transpose(2, 0, 1, 3).reshape(c, 4 * c)
        parts = (x.astype(self.dtype).reshape(-1, c) @ kernel).reshape(b, h, w, 2, 2, c)
        y = parts.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)
        return y + self.bias[...].astype(self.dtype)[None, None, None]


class FPN(nnx.Module):
    """Top-down pyramid with concatenation (arXiv 1612.03144, in YOLO's form).

    The coarsest level passes through; `project` gives it the neck's width where the two differ.
    With `spec.reduce` a level is brought to the width of the next finer one before up-sampling.
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
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        if len(widths) == 1:
            self.project = Fusion(spec, 0, in_widths[0], widths[0], **common)
        else:
            same = in_widths[-1] == widths[-1]
            self.project = None if same else conv(in_widths[-1], widths[-1], 1, rng=rng)
        self.reduce = nnx.List([]) if spec.reduce else None
        self.upsample, self.down = nnx.List([]), nnx.List([])
        for i in reversed(range(len(widths) - 1)):
            above = widths[i] if spec.reduce else widths[i + 1]
            if self.reduce is not None:
                self.reduce.append(conv(widths[i + 1], widths[i], 1, rng=rng))
            self.upsample.append(UPSAMPLES[spec.upsample](above, dtype=conv.dtype, rng=rng))
            self.down.append(Fusion(spec, i, above + in_widths[i], widths[i], **common))
        self.out = output_layers(spec, widths, **common)

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        return run_each(self.out, self.top_down(features)[0])

    def top_down(
        self, features: list[Float[Array, "b _ _ _"]]
    ) -> tuple[list[Float[Array, "b _ _ _"]], list[Float[Array, "b _ _ _"]]]:
        """P features, and what a bottom-up path takes of each level: the same, or the reduced."""
        top = features[-1] if self.project is None else self.project(features[-1])
        outputs, taken = [top], []
        for i, feature in enumerate(reversed(features[:-1])):
            above = outputs[-1] if self.reduce is None else self.reduce[i](outputs[-1])
            taken.append(above)
            outputs.append(self.down[i](self.upsample[i](above), feature))
        return outputs[::-1], [*taken, outputs[-1]][::-1]


class PAN(nnx.Module):
    """FPN, then a bottom-up path (arXiv 1803.01534).

    With `spec.reduce` the bottom-up path takes the reduced features, and so the coarsest C level
    needs no projection: this is the neck of YOLOv5, YOLOX and RTMDet.
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
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        levels = len(widths)
        middle = (*widths[:-1], in_widths[-1]) if spec.reduce and levels > 1 else widths
        self.fpn = FPN(replace(spec, out_width=None), in_widths, middle, **common)
        self.downsample = downsamples(spec, widths, **common)
        taken = widths if spec.reduce else widths[1:]
        self.up = nnx.List(
            [
                Fusion(spec, i + 1, widths[i] + taken[i], widths[i + 1], **common)
                for i in range(levels - 1)
            ]
        )
        self.out = output_layers(spec, widths, **common)

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        _, middle = self.fpn.top_down(features)
        outputs = middle[:1]
        for downsample, fuse, feature in zip(self.downsample, self.up, middle[1:], strict=True):
            outputs.append(fuse(downsample(outputs[-1]), feature))
        return run_each(self.out, outputs)


class WeightedFusion(nnx.Module):
    """Fast normalised fusion (arXiv 1911.09070), then the block and attention of `level`.

    A mean with learned weights that are kept from being negative, all equal at the start.
    """

    def __init__(
        self,
        spec: NeckSpec,
        level: int,
        inputs: int,
        width: int,
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.weights = nnx.Param(np.ones(inputs, np.float32))
        self.node = Fusion(spec, level, width, width, conv=conv, rng=rng)

    def __call__(self, *features: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        weights = jnp.maximum(self.weights[...], 0)
        shares = (weights / (weights.sum() + BIFPN_EPSILON)).astype(features[0].dtype)
        total = features[0] * shares[0]
        for i, feature in enumerate(features[1:], 1):
            total = total + feature * shares[i]
        return self.node(total)


class BiFPNLayer(nnx.Module):
    """One run down and up through all levels, which have one width."""

    def __init__(
        self,
        spec: NeckSpec,
        widths: tuple[int, ...],
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        width, last = widths[0], len(widths) - 1
        self.alone = None if last else Fusion(spec, 0, width, width, **common)
        self.upsample, self.down, self.up = nnx.List([]), nnx.List([]), nnx.List([])
        for i in reversed(range(last)):
            self.upsample.append(UPSAMPLES[spec.upsample](width, dtype=conv.dtype, rng=rng))
            self.down.append(WeightedFusion(spec, i, 2, width, **common))
        self.downsample = downsamples(spec, widths, **common)
        for i in range(1, last + 1):
            self.up.append(WeightedFusion(spec, i, 2 if i == last else 3, width, **common))

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        if self.alone is not None:
            return [self.alone(features[0])]
        middle = features[-1:]
        for i, feature in enumerate(reversed(features[:-1])):
            middle.append(self.down[i](feature, self.upsample[i](middle[-1])))
        middle = middle[::-1]
        outputs = middle[:1]
        for i, (downsample, fuse) in enumerate(zip(self.downsample, self.up, strict=True), 1):
            # The coarsest level has no node on the way down: its middle feature is its own.
            own = [features[i], middle[i]] if i < len(features) - 1 else [features[i]]
            outputs.append(fuse(*own, downsample(outputs[-1])))
        return outputs


class BiFPN(nnx.Module):
    """Weighted fusion at one width, down and up `spec.repeats` times (arXiv 1911.09070).

    Levels of another width are first projected by a 1x1 convolution without activation.
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
        if len(set(widths)) > 1:
            raise ValueError(
                f"neck.widths must be one number for kind bifpn, got {list(widths)} "
                "(without any they are the backbone's)"
            )
        common: dict[str, Any] = {"conv": conv, "rng": rng}
        self.project = nnx.List([])
        for in_width, width in zip(in_widths, widths, strict=True):
            same = in_width == width
            layer = Same() if same else conv(in_width, width, 1, activation="none", rng=rng)
            self.project.append(layer)
        self.layers = nnx.List([BiFPNLayer(spec, widths, **common) for _ in range(spec.repeats)])
        self.out = output_layers(spec, widths, **common)

    def __call__(self, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
        outputs = run_each(self.project, features)
        for layer in self.layers:
            outputs = layer(outputs)
        return run_each(self.out, outputs)


class Same(nnx.Module):
    """The identity."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x


def downsamples(
    spec: NeckSpec, widths: tuple[int, ...], *, conv: Layers, rng: np.random.Generator
) -> Any:
    """What leads from each level to the next coarser one at stride 2, finest first."""
    downs = [entry(DOWNSAMPLES, name, "neck.downsample") for name in spec.downsamples[1:]]
    return nnx.List(
        [
            down(width, width, 2, conv=conv, rng=rng)
            for down, width in zip(downs, widths[:-1], strict=True)
        ]
    )


def output_layers(
    spec: NeckSpec, widths: tuple[int, ...], *, conv: Layers, rng: np.random.Generator
) -> Any:
    """The last 3x3 convolution of every level; None where the spec has none."""
    if spec.out_width is None:
        return None
    return nnx.List([conv(width, spec.out_width, 3, rng=rng) for width in widths])


def run_each(layers: Any, features: list[Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ _"]]:
    """Each level through its own layer; unchanged where there are none."""
    if layers is None:
        return features
    return [layer(x) for layer, x in zip(layers, features, strict=True)]


UPSAMPLES: dict[str, Callable[..., nnx.Module]] = {"nearest": Nearest, "transpose": Transpose}

NECKS: dict[str, Callable[..., nnx.Module]] = {"fpn": FPN, "pan": PAN, "bifpn": BiFPN}
