"""Context layers, an optional one in the last stage: `Context(width, *, conv, rng)`, shape kept."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.bottlenecks import inner_width
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import max_pool

PSA_HEAD_WIDTH = 64
"""Channels of a head at least, as in YOLOv10 and YOLO11."""


class NoContext(nnx.Module):
    """The identity."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.width = width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x


def pyramid(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c4"]:
    """The map beside its maxima over 5x5, 9x9 and 13x13, each a 5x5 pool of the one before."""
    parts = [x]
    for _ in range(3):
        parts.append(max_pool(parts[-1], 5))
    return jnp.concatenate(parts, axis=-1)


class SPPF(nnx.Module):
    """Spatial pyramid pooling (arXiv 1406.4729) between two 1x1 convolutions.

    Three 5x5 max-pools in a row have the values of pools of 5, 9 and 13 side by side, so the fast
    form (YOLOv5, YOLOv8) is also the layer of YOLOX and RTMDet.
    """

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        half = inner_width(width, 0.5)
        self.reduce = conv(width, half, 1, rng=rng)
        self.merge = conv(4 * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.merge(pyramid(self.reduce(x)))


class CSPSPPF(nnx.Module):
    """SPPF's CSP form: pooling between convolutions on one half, a 1x1 bypass beside.

    1x1, 3x3, 1x1, pools, 1x1, 3x3 at half the width (arXiv 2011.08036, 2207.02696).
    """

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        half = inner_width(width, 0.5)
        self.before = nnx.List(
            [
                conv(width, half, 1, rng=rng),
                conv(half, half, 3, rng=rng),
                conv(half, half, 1, rng=rng),
            ]
        )
        self.after = nnx.List([conv(4 * half, half, 1, rng=rng), conv(half, half, 3, rng=rng)])
        self.bypass = conv(width, half, 1, rng=rng)
        self.merge = conv(2 * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = x
        for layer in self.before:
            y = layer(y)
        y = pyramid(y)
        for layer in self.after:
            y = layer(y)
        return self.merge(jnp.concatenate([y, self.bypass(x)], axis=-1))


class PositionedAttention(nnx.Module):
    """Self-attention of all cells, keys half as wide as values (arXiv 2405.14458).

    Places are told apart by a 3x3 depthwise convolution of the values, added to what is attended.
    The channels of `qkv` are query, key and value of the first head, then of the next.
    """

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        most = max(1, width // PSA_HEAD_WIDTH)
        self.heads = max(heads for heads in range(1, most + 1) if width % heads == 0)
        self.key_width = max(1, width // self.heads // 2)
        both = 2 * self.key_width * self.heads
        self.qkv = conv(width, both + width, 1, activation="none", rng=rng)
        self.position = conv(width, width, 3, groups=width, activation="none", rng=rng)
        self.project = conv(width, width, 1, activation="none", rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        qkv = self.qkv(x).reshape(b, h * w, self.heads, -1)
        q, k, v = jnp.split(qkv, [self.key_width, 2 * self.key_width], axis=-1)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores * self.key_width**-0.5, axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(b, h, w, c)
        return self.project(mixed + self.position(v.reshape(b, h, w, c)))


class PartialAttention(nnx.Module):
    """YOLOv10's partial self-attention, YOLO11's C2PSA of one block (arXiv 2405.14458).

    Attention and a two-layer feed-forward part, each added to its input, on half the channels.
    """

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        half = inner_width(width, 0.5)
        self.split = conv(width, 2 * half, 1, rng=rng)
        self.attention = PositionedAttention(half, conv=conv, rng=rng)
        self.widen = conv(half, 2 * half, 1, rng=rng)
        self.narrow = conv(2 * half, half, 1, activation="none", rng=rng)
        self.merge = conv(2 * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        kept, y = jnp.split(self.split(x), 2, axis=-1)
        y = y + self.attention(y)
        y = y + self.narrow(self.widen(y))
        return self.merge(jnp.concatenate([kept, y], axis=-1))


class PooledAttention(nnx.Module):
    """SPPF, then partial self-attention (YOLOv10, YOLO11)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.pool = SPPF(width, conv=conv, rng=rng)
        self.attend = PartialAttention(width, conv=conv, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return self.attend(self.pool(x))


CONTEXTS: dict[str, Callable[..., nnx.Module]] = {
    "none": NoContext,
    "sppf": SPPF,
    # The pools side by side of YOLOX and RTMDet have the same values, so it is the same layer.
    "spp": SPPF,
    "csp_sppf": CSPSPPF,
    "sppf_psa": PooledAttention,
}
