"""A small fixed network that is timed in turn with every other: how fast the device is now.

What else runs on a machine slows both by about the same factor, so the ratio of their times holds
where neither does. Both are taken at a low quantile, and the reference in blocks as long as a call
of the other: a short call finds a gap between the neighbour's turns more easily than a long one.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64

from flaxyolo.cost.measurement import Reference
from flaxyolo.machine.clock import Turns, quietest
from flaxyolo.nn.detector import compiled_detect, fuse, initial_weights
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec

LOW = 5
"""Percentile of times: low, so that a neighbour is in few of them."""
IMAGES = 4
"""Shown in turn."""

SPEC = DetectorSpec(
    backbone=BackboneSpec(
        stem_width=8,
        stages=tuple(
            StageSpec(block="residual", width=width, depth=1) for width in (16, 32, 64, 96)
        ),
        context="sppf",
    ),
    neck=NeckSpec(kind="fpn", levels=(3, 4, 5), block="plain"),
    head=HeadSpec(depth=1, box="dfl", box_width=32, class_width=32),
    norm="batch",
    activation="silu",
    num_classes=1,
    image_size=160,
)
"""The reference. Another one makes every best that is kept on disk another's."""


def reference_of(times: Float64[np.ndarray, " n"]) -> Reference:
    """What calls of the reference took, in ms: the low quantile of all, the quietest of the rest.

    Of the quietest hundred calls, because p95 of all of them is that of a burst.
    """
    quiet = quietest(times)
    p50, p95 = np.percentile(quiet, [50, 95]).tolist()
    return Reference(min(float(np.percentile(times, LOW)), p50), p50, p95)


def block_low(turns: Turns) -> float:
    """The low quantile of the reference's blocks: milliseconds of a call in them."""
    return float(np.percentile(turns.reference.mean(1), LOW))


def calm_ms(turns: Turns, best: Reference) -> float:
    """The median of the calls on a device where the reference is at its best."""
    calm = best.of_blocks(turns.reference.shape[1])
    return float(np.percentile(turns.calls, LOW)) / block_low(turns) * calm.p50_ms


@lru_cache(maxsize=1)
def reference_call() -> Callable[[int], Any]:
    """The reference compiled for this device with its weights and images on it, to be called."""
    size = SPEC.image_size
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, size, size, 3), np.uint8)
    shown = [jax.device_put(image) for image in images]
    fused = jax.device_put(fuse(SPEC, initial_weights(SPEC, 0)))
    detect = compiled_detect(SPEC, 1, images.dtype)
    return lambda number: detect(fused, shown[number % IMAGES])
