"""A parent's layers as ones of another form: what a child has in their place can take from those.

Exact but for two convolutions as one, where the activation between them becomes a line.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.conv_forms import padding
from flaxyolo.nn.layers import ACTIVATIONS, ConvNormAct
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.weights.inherit.walk import Walk

FOCUS_STRIDE = 2
"""Of a stem that sees squares of pixels."""
BATCH_ARRAYS = ("scale", "bias", "mean", "var")
NODES = 16
"""Places at which an activation is looked at for its line."""
LEAST_SPREAD = 1e-3
"""Of what an activation is given."""

Kernel = Float[np.ndarray, "_ _ _ _"]


class Line(NamedTuple):
    """The line that is nearest to an activation, for each channel."""

    slope: Float[np.ndarray, " c"]
    offset: Float[np.ndarray, " c"]


def pixels_of_squares(kernel: Kernel) -> Kernel:
    """A focus stem's kernel over squares of 2x2 pixels as the one over pixels, twice as large."""
    size, _, _, width = kernel.shape
    # In a square pixels go by columns, then rows, as `space_to_depth` has them.
    parts = kernel.reshape(size, size, 2, 2, 3, width).transpose(0, 3, 1, 2, 4, 5)
    return parts.reshape(2 * size, 2 * size, 3, width)


def squares_of_pixels(kernel: Kernel, size: int) -> Kernel:
    """A kernel over pixels at stride 2 as the one of `size` over squares, with zeros around."""
    pixels = np.zeros((2 * size, 2 * size, *kernel.shape[2:]), np.float32)
    first = padding(2 * size, FOCUS_STRIDE) - padding(len(kernel), FOCUS_STRIDE)
    end = first + len(kernel)
    pixels[first:end, first:end] = kernel
    parts = pixels.reshape(size, 2, size, 2, 3, -1).transpose(0, 2, 3, 1, 4, 5)
    return parts.reshape(size, size, 12, -1)


def with_kernel(walk: Walk, conv: Conv, norm: Any, kernel: Kernel, stride: int) -> ConvNormAct:
    """A layer of the parent with another kernel instead of its convolution's."""
    layer = ConvNormAct(1, 1, 1, stride, rng=np.random.default_rng(0))
    layer.conv = Conv.holding(kernel, None, like=layer.conv)
    layer.norm = norm
    walk.sources[id(layer.conv)] = walk.sources[id(conv)]
    return layer


def merged(
    walk: Walk, first: tuple[Conv, BatchNorm], activation: str, second: tuple[Conv, BatchNorm]
) -> ConvNormAct:
    """A depthwise and a 1x1 convolution, each with its norm, as one.

    In place of the activation between them is the line that is nearest to it on what the first
    norm puts out.
    """
    (depthwise, inner), (pointwise, outer) = first, second
    line = nearest_line(activation, np.asarray(inner.bias[...]), np.asarray(inner.scale[...]))
    scale, shift = inner.running_scale_and_shift()
    taps = np.asarray(depthwise.kernel[...])[:, :, 0] * (scale * line.slope)
    mixing = np.asarray(pointwise.kernel[...])[0, 0]
    moved = arrays_of(outer) | {
        "mean": np.asarray(outer.mean[...]) - (shift * line.slope + line.offset) @ mixing
    }
    norm = norm_with(walk, outer, moved)
    kernel = (taps[..., None] * mixing).astype(np.float32)
    return with_kernel(walk, pointwise, norm, kernel, depthwise.stride)


def beside(walk: Walk, first: ConvNormAct, second: ConvNormAct) -> ConvNormAct:
    """Two layers with batch norms that see the same, as one with the channels of both."""
    norms = arrays_of(first.norm), arrays_of(second.norm)
    both = {name: np.concatenate([one[name] for one in norms]) for name in norms[0]}
    kernels = [np.asarray(layer.conv.kernel[...]) for layer in (first, second)]
    norm = norm_with(walk, first.norm, both)
    return with_kernel(walk, first.conv, norm, np.concatenate(kernels, -1), first.conv.stride)


def halves(walk: Walk, layer: ConvNormAct) -> tuple[ConvNormAct, ConvNormAct]:
    """A layer with batch norm as two of half its channels each."""
    kernels = np.split(np.asarray(layer.conv.kernel[...]), 2, axis=-1)
    parts = {name: np.split(array, 2) for name, array in arrays_of(layer.norm).items()}
    first, second = (
        with_kernel(
            walk,
            layer.conv,
            norm_with(walk, layer.norm, {name: two[place] for name, two in parts.items()}),
            kernel,
            layer.conv.stride,
        )
        for place, kernel in enumerate(kernels)
    )
    return first, second


def arrays_of(norm: Any) -> dict[str, np.ndarray]:
    """Scale, bias and statistics of a batch norm."""
    return {name: np.asarray(getattr(norm, name)[...]) for name in BATCH_ARRAYS}


def norm_with(walk: Walk, norm: Any, arrays: dict[str, np.ndarray]) -> BatchNorm:
    """A batch norm of the parent with other arrays."""
    other = BatchNorm(len(arrays["scale"]), epsilon=norm.epsilon)
    for name, array in arrays.items():
        getattr(other, name)[...] = array.astype(np.float32)
    walk.sources[id(other)] = walk.sources[id(norm)]
    return other


def nearest_line(
    activation: str, mean: Float[np.ndarray, " c"], spread: Float[np.ndarray, " c"]
) -> Line:
    """The least squares line of an activation on normal values, as a batch norm puts them out."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    wide = np.maximum(np.abs(spread), LEAST_SPREAD)
    given = (mean + nodes[:, None] * wide).astype(np.float32)
    said = np.asarray(ACTIVATIONS[activation](jnp.asarray(given)), np.float64)
    slope = (weights * nodes) @ said / wide
    return Line(slope.astype(np.float32), (weights @ said - slope * mean).astype(np.float32))
