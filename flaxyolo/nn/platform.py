"""The platform that a program is traced for, by which a layer chooses its form.

A step is traced where it is to run, so its platform is known and the forms of others need not be
in it. `traced_for` says otherwise: for a device that is not here, or for several.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
from jax import lax

T = TypeVar("T")

# Part of JAX's cache keys: what is traced for one platform is never taken for another.
_platforms = jax.make_user_context(())


def traced_for(*platforms: str) -> AbstractContextManager[None]:
    """Inside, programs are traced for these platforms instead of the default backend's."""
    return _platforms(platforms)


def by_platform(*operands: Any, cpu: Callable[..., T], default: Callable[..., T]) -> T:
    """What `cpu` or `default` gives for the operands (pytrees), by the platform traced for.

    A program that is traced for both CPUs and others has both, and chooses when it is lowered.
    """
    platforms = _platforms.value or (jax.default_backend(),)
    if "cpu" not in platforms:
        return default(*operands)
    if set(platforms) == {"cpu"}:
        return cpu(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def of_each(one: Callable[[Any], T], images: Any) -> T:
    """`one` of every image of a pytree: one after the other on a CPU, elsewhere all at once."""
    return by_platform(
        images, cpu=lambda each: lax.map(one, each), default=lambda each: whole(one, each)
    )


def whole(one: Callable[[Any], T], images: Any) -> T:
    """`one` of all images at once. Nothing is fused across its border, as none is into a loop."""
    return lax.optimization_barrier(jax.vmap(one)(images))
