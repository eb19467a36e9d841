"""Normalisation layers, and which one suits a batch."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from flaxyolo.nn.mesh import averaged_over_devices, sharing_devices

BATCH_NORM_FROM = 16
"""Images a step from which batch statistics are steady enough (arXiv 1803.08494, figure 1)."""


def choose_norm(batch_total: int, multi_gpu: bool = False) -> str:
    """The norm for so many images a step in all: `batch`, `sync_batch` or `group`.

    Batch norm from 16 images; below that its statistics over all devices where there are several,
    otherwise group norm, which needs no batch.
    """
    if batch_total < 1:
        raise ValueError(f"batch_total must be at least 1, got {batch_total}")
    if batch_total >= BATCH_NORM_FROM:
        return "batch"
    return "sync_batch" if multi_gpu else "group"


class BatchNorm(nnx.Module):
    """Batch normalisation (arXiv 1502.03167) as one scale and shift; float32 statistics."""

    synchronised = False

    def __init__(self, width: int, *, momentum: float = 0.97, epsilon: float = 1e-3):
        self.scale = nnx.Param(np.ones(width, np.float32))
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.mean = nnx.BatchStat(np.zeros(width, np.float32))
        self.var = nnx.BatchStat(np.ones(width, np.float32))
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = True

    def set_view(self, use_running_average: bool | None = None):
        """Switch between the batch's statistics and the running ones (called by `nnx.view`)."""
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = moments(x, synchronised=self.synchronised)
            count = x.size // x.shape[-1] * (sharing_devices() if self.synchronised else 1)
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * mean
            unbiased = var * (count / max(count - 1, 1))
            self.var[...] = keep * self.var[...] + (1 - keep) * unbiased
        scale = self.scale[...] * lax.rsqrt(var + self.epsilon)
        shift = self.bias[...] - mean * scale
        return (x * scale[None, None, None] + shift[None, None, None]).astype(x.dtype)

    def running_scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """What the layer multiplies and adds in use, for each channel."""
        mean, var = np.asarray(self.mean[...]), np.asarray(self.var[...])
        scale = np.asarray(self.scale[...]) / np.sqrt(var + np.float32(self.epsilon))
        return scale, np.asarray(self.bias[...]) - mean * scale


class SyncBatchNorm(BatchNorm):
    """Batch normalisation with the statistics of all devices of the run."""

    synchronised = True


def moments(
    x: Float[Array, "b h w c"], *, synchronised: bool = False
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and variance of each channel over batch, height and width, in float32.

    `synchronised`: over all devices that share the step as well, each with as many values.
    """
    x = x.astype(jnp.float32)
    mean, square = x.mean((0, 1, 2)), (x * x).mean((0, 1, 2))
    if synchronised:
        mean, square = averaged_over_devices((mean, square))
    return mean, jnp.maximum(square - mean * mean, 0)


class GroupNorm(nnx.Module):
    """Group normalisation (arXiv 1803.08494): groups of 8 channels or more, at most 32."""

    def __init__(self, width: int, *, epsilon: float = 1e-3):
        self.scale = nnx.Param(np.ones(width, np.float32))
        self.bias = nnx.Param(np.zeros(width, np.float32))
        self.groups = max(g for g in range(1, min(32, max(width // 8, 1)) + 1) if width % g == 0)
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        b, h, w, c = x.shape
        grouped = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        mean = grouped.mean((1, 3), keepdims=True)
        var = grouped.var((1, 3), keepdims=True)
        normal = ((grouped - mean) * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        return (
            normal * self.scale[...][None, None, None] + self.bias[...][None, None, None]
        ).astype(x.dtype)


NORMS: dict[str, Callable[[int], nnx.Module]] = {
    "batch": BatchNorm,
    "group": GroupNorm,
    "sync_batch": SyncBatchNorm,
}
