"""Attention layers, all with one contract: `Attention(width, *, conv, rng)`, shape kept.

Most weigh channels or places by gates between 0 and 1. The self-attentions mix places, so their
cost grows with the square of a tile; a spec has them only from stride 16 on.
"""

from collections.abc import Callable
from functools import partial
from math import gcd, log2

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import largest

HEAD_WIDTH = 32
"""Channels of a self-attention's head (arXiv 2502.12524)."""
WINDOW = 8
"""Largest side of a window, in cells."""
AREAS = 4
"""Areas that a map is split into (arXiv 2502.12524)."""


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


def eca_kernel(width: int) -> int:
    """Channels that one gate looks at: the odd number at log2(width) / 2 + 1/2 or next above."""
    size = int((log2(width) + 1) / 2)
    return size if size % 2 else size + 1


class EfficientChannel(nnx.Module):
    """A gate for each channel from the means of its neighbours (ECA, arXiv 1910.03151)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        size = eca_kernel(width)
        bound = 1 / np.sqrt(size)
        self.kernel = nnx.Param(rng.uniform(-bound, bound, size).astype(np.float32))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        mean = x.astype(jnp.float32).mean((1, 2))
        kernel = self.kernel[...]
        size, width = len(kernel), x.shape[-1]
        padded = jnp.pad(mean, [(0, 0), (size // 2, size // 2)])
        neighbours = jnp.stack([padded[:, i : i + width] for i in range(size)], axis=-1)
        return x * nnx.sigmoid(neighbours @ kernel)[:, None, None].astype(x.dtype)


class ConvBlockAttention(nnx.Module):
    """A gate for each channel, then one for each cell (CBAM, arXiv 1807.06521).

    The channels' from mean and maximum over the map through one MLP; the cells' from mean and
    maximum over the channels through a 7x7 convolution.
    """

    def __init__(
        self,
        width: int,
        *,
        reduction: int = 16,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = max(8, width // reduction)
        self.reduce = Conv(width, inner, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.expand = Conv(inner, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.spatial = Conv(2, 1, 7, bias=0.0, dtype=conv.dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        wide = x.astype(jnp.float32).reshape(b, h * w, c)
        pooled = jnp.stack([wide.mean(1), largest(wide, 1)], 1)[:, :, None]
        channels = self.expand(nnx.relu(self.reduce(pooled)))
        x = x * nnx.sigmoid(channels.sum(1, keepdims=True))
        wide = x.astype(jnp.float32).reshape(b, h * w, c)
        maps = jnp.stack([wide.mean(2), largest(wide, 2)], -1).reshape(b, h, w, 2)
        return x * nnx.sigmoid(self.spatial(maps))


class Coordinate(nnx.Module):
    """Gates for each channel by row and by column, from the means along them (arXiv 2103.02907)."""

    def __init__(
        self,
        width: int,
        *,
        reduction: int = 32,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = max(8, width // reduction)
        self.reduce = conv(width, inner, 1, activation="hard_swish", rng=rng)
        self.rows = Conv(inner, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.columns = Conv(inner, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        height = x.shape[1]
        wide = x.astype(jnp.float32)
        rows, columns = wide.mean(2, keepdims=True), wide.mean(1, keepdims=True)
        means = self.reduce(jnp.concatenate([rows, columns.swapaxes(1, 2)], 1))
        rows, columns = means[:, :height], means[:, height:].swapaxes(1, 2)
        return x * nnx.sigmoid(self.rows(rows)) * nnx.sigmoid(self.columns(columns))


def window_tile(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of windows of at most 8x8 that cover a map with as little padding."""

    def side(cells: int) -> int:
        return -(-cells // -(-cells // WINDOW))

    return side(height), side(width)


def area_tile(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a quarter of the map, cut along one axis; of all where none divides."""
    if height % AREAS == 0:
        return height // AREAS, width
    return (height, width // AREAS) if width % AREAS == 0 else (height, width)


def tiled(x: Float[Array, "b h w c"], rows: int, columns: int) -> Float[Array, "n t c"]:
    """The map cut into tiles of rows x columns cells, zeros below and on the right."""
    b, h, w, c = x.shape
    down, across = -(-h // rows), -(-w // columns)
    if (h, w) != (down * rows, across * columns):
        x = jnp.pad(x, [(0, 0), (0, down * rows - h), (0, across * columns - w), (0, 0)])
    x = x.reshape(b, down, rows, across, columns, c)
    return x.swapaxes(2, 3).reshape(b * down * across, rows * columns, c)


def untiled(
    tiles: Float[Array, "n t c"], rows: int, columns: int, height: int, width: int
) -> Float[Array, "b h w c"]:
    """The inverse of `tiled`."""
    down, across = -(-height // rows), -(-width // columns)
    x = tiles.reshape(-1, down, across, rows, columns, tiles.shape[-1])
    x = x.swapaxes(2, 3).reshape(-1, down * rows, across * columns, tiles.shape[-1])
    return x[:, :height, :width]


def attend(
    q: Float[Array, "n t c"],
    k: Float[Array, "n t c"],
    v: Float[Array, "n t c"],
    heads: int,
    seen: Bool[Array, "n t"] | None,
) -> Float[Array, "n t c"]:
    """Scaled dot-product attention in each tile, softmax in float32, over the cells `seen`."""
    n, t, c = q.shape
    q, k, v = (part.reshape(n, t, heads, c // heads) for part in (q, k, v))
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=jnp.float32)
    scores = scores * (c // heads) ** -0.5
    if seen is not None:
        scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", shares, v).reshape(n, t, c)


class SelfAttention(nnx.Module):
    """Input plus self-attention within tiles of the map, in heads of 32 channels.

    Places are told apart by a depthwise convolution of the values, added to what is attended (as
    in arXiv 2107.00652); it runs over the whole map, so that neighbouring tiles exchange something.
    """

    def __init__(
        self,
        width: int,
        *,
        tile: Callable[[int, int], tuple[int, int]],
        kernel: int,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.tile = tile
        # A width that 32 does not divide has more, narrower heads.
        self.heads = width // gcd(width, HEAD_WIDTH)
        self.qkv = conv(width, 3 * width, 1, activation="none", rng=rng)
        self.position = conv(width, width, kernel, groups=width, activation="none", rng=rng)
        self.project = conv(width, width, 1, activation="none", rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, _ = x.shape
        rows, columns = self.tile(h, w)
        q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
        seen = None
        if h % rows or w % columns:
            seen = tiled(jnp.ones((b, h, w, 1)), rows, columns)[..., 0] > 0
        place = self.position(v)
        q, k, v = (tiled(part, rows, columns) for part in (q, k, v))
        mixed = untiled(attend(q, k, v, self.heads, seen), rows, columns, h, w)
        return x + self.project(mixed + place).astype(x.dtype)


ATTENTIONS: dict[str, Callable[..., nnx.Module]] = {
    "none": NoAttention,
    "se": SqueezeExcite,
    "eca": EfficientChannel,
    "cbam": ConvBlockAttention,
    "coordinate": Coordinate,
    # Windows as in Swin (arXiv 2103.14030), unshifted.
    "window": partial(SelfAttention, tile=window_tile, kernel=3),
    # Area attention of YOLOv12 (arXiv 2502.12524).
    "area": partial(SelfAttention, tile=area_tile, kernel=7),
}
