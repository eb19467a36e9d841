"""Cross-stage-partial blocks: layers on a part of the channels, the rest led past them.

`layer(in_width, width, *, conv, rng)` is what they repeat.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.bottlenecks import Bottleneck, inner_width
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import Layers


class C2f(nnx.Module):
    """CSP in YOLOv8's form: split, and concatenate what every layer puts out."""

    def __init__(
        self,
        in_width: int,
        width: int,
        depth: int,
        *,
        layer: Callable[..., nnx.Module] = Bottleneck,
        share: float = 0.5,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = inner_width(width, share)
        self.split = conv(in_width, 2 * inner, 1, rng=rng)
        self.layers = nnx.List(
            [layer(inner, inner, conv=conv.at(i), rng=rng) for i in range(depth)]
        )
        self.merge = conv((2 + depth) * inner, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        parts = jnp.split(self.split(x), 2, axis=-1)
        for layer in self.layers:
            parts.append(layer(parts[-1]))
        return self.merge(jnp.concatenate(parts, axis=-1))


class ChannelGate(nnx.Module):
    """RTMDet's channel attention: a hard-sigmoid gate from the global mean (arXiv 2212.07784)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.gate = Conv(width, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        return x * nnx.hard_sigmoid(self.gate(mean)).astype(x.dtype)


class C3(nnx.Module):
    """CSP in YOLOv5's form: layers on one half, a 1x1 bypass beside (arXiv 1911.11929)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        depth: int,
        *,
        layer: Callable[..., nnx.Module],
        gated: bool = False,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = inner_width(width, 0.5)
        self.main = conv(in_width, inner, 1, rng=rng)
        self.bypass = conv(in_width, inner, 1, rng=rng)
        self.layers = nnx.List(
            [layer(inner, inner, conv=conv.at(i), rng=rng) for i in range(depth)]
        )
        self.gate = ChannelGate(2 * inner, conv=conv, rng=rng) if gated else None
        self.merge = conv(2 * inner, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.main(x)
        for layer in self.layers:
            y = layer(y)
        y = jnp.concatenate([y, self.bypass(x)], axis=-1)
        return self.merge(y if self.gate is None else self.gate(y))
