"""The platform that a program is traced for, by which a layer chooses its form.

A step is traced where it is to run, so its platform is known and the forms of others need not be
in it. `traced_for` says otherwise: for a device that is not here, or for several.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import jax
from jax import lax

T = TypeVar("T")

# Part of JAX's cache keys: what is traced for one platform is never taken for another.
_platforms = jax.make_user_context(())


def traced_for(*platforms: str) -> AbstractContextManager[None]:
    """Inside, programs are traced for these platforms instead of the default backend's."""
    return _platforms(platforms)


def by_platform(*operands: jax.Array, cpu: Callable[..., T], default: Callable[..., T]) -> T:
    """What `cpu` or `default` gives for the operands, by the platform that is traced for.

    A program that is traced for both CPUs and others has both, and chooses when it is lowered.
    """
    platforms = _platforms.value or (jax.default_backend(),)
    if "cpu" not in platforms:
        return default(*operands)
    if set(platforms) == {"cpu"}:
        return cpu(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)
