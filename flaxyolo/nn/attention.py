"""Attention layers, all with one contract: `Attention(width, *, conv, rng)`, shape kept."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import Layers


class NoAttention(nnx.Module):
    """The identity."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.width = width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x


class SqueezeExcite(nnx.Module):
    """Squeeze-and-excitation: a gate for each channel from the global mean (arXiv 1709.01507)."""

    def __init__(
        self,
        width: int,
        *,
        reduction: int = 4,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = max(8, width // reduction)
        self.reduce = Conv(width, inner, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.expand = Conv(inner, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True)
        return x * nnx.sigmoid(self.expand(nnx.relu(self.reduce(mean))))


ATTENTIONS: dict[str, Callable[..., nnx.Module]] = {"none": NoAttention, "se": SqueezeExcite}
