"""How many images an exported model takes at once."""

from typing import Any

import jax

from flaxyolo.spec import DetectorSpec

Batch = int | None
"""None is any number."""


def shape_of(spec: DetectorSpec, batch: Batch) -> tuple[Any, ...]:
    """The shape of a batch of images, channels last; any number is a symbol of JAX."""
    (count,) = (batch,) if batch else jax.export.symbolic_shape("b")
    return (count, spec.image_size, spec.image_size, 3)
