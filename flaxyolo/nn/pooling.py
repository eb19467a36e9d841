"""Up-sampling and pooling."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Nearest-neighbour up-sampling by two."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)


def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Maximum over `size` x `size` windows at stride 1, same shape."""
    side = size // 2
    window, ones = (1, size, size, 1), (1, 1, 1, 1)
    pads = ((0, 0), (side, side), (side, side), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, ones, pads)
