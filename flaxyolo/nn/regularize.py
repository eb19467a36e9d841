"""Noise that regularises, active in training only: drop path, DropBlock, spatial dropout.

Its numbers come from the key given to `randomness`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Key

_keys: ContextVar[Iterator[jax.Array] | None] = ContextVar("keys", default=None)


@contextmanager
def randomness(key: Key[Array, ""]) -> Iterator[None]:
    """Inside, every layer that drops something draws from this key, each its own numbers.

    Layers draw in the order in which the network calls them, so a key gives the same numbers in
    every run.
    """
    token = _keys.set(_folded(key))
    try:
        yield
    finally:
        _keys.reset(token)


def _folded(key: Key[Array, ""]) -> Iterator[jax.Array]:
    number = 0
    while True:
        yield jax.random.fold_in(key, number)
        number += 1


def next_key() -> Key[Array, ""]:
    """The next layer's key; RuntimeError outside `randomness`."""
    keys = _keys.get()
    if keys is None:
        raise RuntimeError("a layer that drops something was called in training without a key")
    return next(keys)


class Noise(nnx.Module):
    """A layer that is the identity outside training; `graph(train=True)` turns it on."""

    deterministic = True

    def set_view(self, deterministic: bool | None = None):
        """Switch the noise off or on (called by `nnx.view`)."""
        if deterministic is not None:
            self.deterministic = deterministic


class DropPath(Noise):
    """Drop a branch of some images, and scale it up for the others (arXiv 1603.09382)."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.deterministic or not self.rate:
            return x
        keep = jax.random.bernoulli(next_key(), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return x * (keep / (1 - self.rate)).astype(x.dtype)


class Shortcut(nnx.Module):
    """Input plus branch, the branch under drop path."""

    def __init__(self, rate: float = 0.0):
        self.drop = DropPath(rate)

    def __call__(
        self, x: Float[Array, "b h w c"], branch: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        return x + self.drop(branch)


class DropBlock(Noise):
    """Drop squares of cells, each channel's own, and scale up what is kept (arXiv 1810.12890).

    `rate` is about the share of the cells that is dropped; squares may overlap.
    """

    def __init__(self, rate: float, *, block: int = 7):
        self.rate, self.block = rate, block

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.deterministic or not self.rate:
            return x
        b, h, w, c = x.shape
        block = min(self.block, h, w)
        # A square's first cell lies where the whole square fits into the map.
        rows, columns = h - block + 1, w - block + 1
        share = min(1.0, self.rate * h * w / (block**2 * rows * columns))
        first = jax.random.bernoulli(next_key(), share, (b, rows, columns, c))
        keep = ~_widened(_widened(first, block, 1), block, 2)
        kept = keep.mean(dtype=jnp.float32)
        return x * (keep / jnp.maximum(kept, 1 / keep.size)).astype(x.dtype)


def _widened(mask: Bool[Array, "b h w c"], size: int, axis: int) -> Bool[Array, "b h2 w2 c"]:
    """Every true cell and the `size - 1` after it along an axis, which grows by as many."""
    pads = [(0, 0)] * 4
    pads[axis] = (size - 1, size - 1)
    padded = jnp.pad(mask, pads)
    length = mask.shape[axis] + size - 1
    shifted = (lax.slice_in_dim(padded, i, i + length, axis=axis) for i in range(size))
    return reduce(jnp.logical_or, shifted)


class SpatialDropout(Noise):
    """Drop whole channels of an image, and scale up the others (arXiv 1411.4280)."""

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.deterministic or not self.rate:
            return x
        shape = (x.shape[0], 1, 1, x.shape[-1])
        keep = jax.random.bernoulli(next_key(), 1 - self.rate, shape)
        return x * (keep / (1 - self.rate)).astype(x.dtype)
