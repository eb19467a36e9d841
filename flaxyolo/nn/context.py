"""Context layers, an optional one in the last stage: `Context(width, *, conv, rng)`, shape kept."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.layers import Layers
from flaxyolo.nn.pooling import max_pool


class NoContext(nnx.Module):
    """The identity."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        self.width = width

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return x


class SPPF(nnx.Module):
    """Spatial pyramid pooling, fast form: three 5x5 max-pools in a row (arXiv 1406.4729)."""

    def __init__(self, width: int, *, conv: Layers, rng: np.random.Generator):
        half = width // 2
        self.reduce = conv(width, half, 1, rng=rng)
        self.merge = conv(4 * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(max_pool(parts[-1], 5))
        return self.merge(jnp.concatenate(parts, axis=-1))


CONTEXTS: dict[str, Callable[..., nnx.Module]] = {"none": NoContext, "sppf": SPPF}
