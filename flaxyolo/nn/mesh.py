"""Devices that share a step, and what they tell each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax
from jax import lax
from jaxtyping import Array, Key

T = TypeVar("T")

_device_axis: ContextVar[str | None] = ContextVar("device_axis", default=None)


@contextmanager
def devices_along(axis: str) -> Iterator[None]:
    """Inside, the functions of this file know the devices along this axis of a `shard_map`."""
    token = _device_axis.set(axis)
    try:
        yield
    finally:
        _device_axis.reset(token)


def sharing_devices() -> int:
    """How many devices share the step that is traced."""
    axis = _device_axis.get()
    return 1 if axis is None else lax.axis_size(axis)


def summed_over_devices(values: T) -> T:
    """The sum of every array over the devices that share a step; one device has its own."""
    axis = _device_axis.get()
    return values if axis is None else lax.psum(values, axis)


def averaged_over_devices(values: T) -> T:
    """The mean of every array over the devices that share a step; one device has its own."""
    axis = _device_axis.get()
    return values if axis is None else lax.pmean(values, axis)


def own_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """A key that differs between the devices that share a step; one device keeps its own."""
    axis = _device_axis.get()
    return key if axis is None else jax.random.fold_in(key, lax.axis_index(axis))
