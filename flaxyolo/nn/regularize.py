"""Noise that regularises: drop path. Active in training only, seeded by `randomness`."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

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
