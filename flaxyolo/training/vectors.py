"""All arrays of a pytree as one vector, and Adam on it, which is soon compiled.

XLA compiles a kernel for every shape and every output of what is done array by array, and a network
has hundreds of arrays; the kernels of an optimizer take a quarter of the time for a whole step.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from flaxyolo.nn.platform import by_platform

T = TypeVar("T")


def as_vector(tree: Any) -> Float[Array, " p"]:
    """All arrays, one after the other; of none, an empty one."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.ravel() for leaf in leaves]) if leaves else jnp.zeros(0)


def as_arrays(vector: Float[Array, " p"] | Float[np.ndarray, " p"], like: T) -> T:
    """The inverse of `as_vector`: arrays, of NumPy from one of NumPy, of the shapes in `like`."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves], dtype=np.int32)
    parts = [
        vector[end - leaf.size : end].reshape(leaf.shape)
        for leaf, end in zip(leaves, ends.tolist(), strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def parted(vectors: Sequence[Float[Array, " p"]], like: T) -> list[T]:
    """`as_arrays` of each vector, in a form that is soon compiled for a CPU.

    XLA on CPU makes a kernel for every slice whose place it knows, and one for all of a shape whose
    places it does not. It does not look through a conditional.
    """
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves], dtype=np.int32)
    begins = [jnp.int32(end - leaf.size) for leaf, end in zip(leaves, ends.tolist(), strict=True)]

    def cpu(*vectors: Array) -> list[T]:
        nowhere = [jnp.int32(0)] * len(begins)
        hidden = lax.cond(jnp.isnan(vectors[0][0]), lambda: nowhere, lambda: begins)
        return [
            jax.tree.unflatten(
                structure,
                [
                    lax.dynamic_slice(vector, (begin,), (leaf.size,)).reshape(leaf.shape)
                    for leaf, begin in zip(leaves, hidden, strict=True)
                ],
            )
            for vector in vectors
        ]

    def default(*vectors: Array) -> list[T]:
        return [as_arrays(vector, like) for vector in vectors]

    return by_platform(*vectors, cpu=cpu, default=default)


def scale_by_adam(
    clip_norm: float, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """optax's `clip_by_global_norm` and `scale_by_adam`, with moments that are one vector each.

    The norm is summed and the moments are divided array by array, so all numbers are optax's.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        moment = jnp.zeros_like(as_vector(params))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), moment, jnp.zeros_like(moment))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        vector, norm = as_vector(updates), optax.tree.norm(updates)
        clipped = lax.select(norm < clip_norm, vector, vector / norm * clip_norm)
        mu = optax.tree.update_moment(clipped, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(clipped, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        first, second = parted((mu, nu), updates)
        first = optax.tree.bias_correction(first, b1, count)
        second = optax.tree.bias_correction(second, b2, count)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), first, second)
        return scaled, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
