"""Forms of a depthwise convolution and of its gradients, equal in value to XLA's own."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flaxyolo.nn.conv_forms import Pads, from_squares, padding, reaching_half, square_kernel

IMAGES = 16
"""Most images in one expression of `shifted_kernel_gradient`."""


def _padded(x: Float[Array, "b h w c"], pads: Pads) -> Float[Array, "b h2 w2 c"]:
    """A padded copy; behind the barrier XLA does not test every index of every shifted slice."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), *pads, (0, 0))))


def shifted_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, dilation: int = 1
) -> Float[Array, "b h2 w2 c"]:
    """A depthwise convolution as the sum of shifted slices times their weights."""
    size = kernel.shape[0]
    _, h, w, _ = x.shape
    side = padding(size, stride, dilation)
    padded = _padded(x, ((side, side), (side, side)))
    spans = [n + 2 * side - dilation * (size - 1) - 1 for n in (h, w)]
    taps = []
    for i in range(size):
        for j in range(size):
            down, across = i * dilation, j * dilation
            cells = padded[
                :, down : down + spans[0] + 1 : stride, across : across + spans[1] + 1 : stride
            ]
            taps.append(cells * kernel[i, j, 0][None, None, None])
    return _summed(taps)


def _summed(parts: list[Array]) -> Array:
    total, *others = parts
    for part in others:
        total = total + part
    return total


def shifted_phases(
    dy: Float[Array, "b h2 w2 c"], kernel: Float[Array, "kh kw 1 c"], shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
    """The input gradient of a depthwise convolution of stride 2: four cells at once."""
    size, _, _, c = kernel.shape
    apart, (back, ahead) = square_kernel(kernel.reshape(size, size, c, 1))
    n = len(apart)
    cells = apart[::-1, ::-1].reshape(n, n, 4, c)
    pads = reaching_half(((ahead, back), (ahead, back)), dy, shape)
    (top, bottom), (left, right) = pads
    rows, columns = dy.shape[1] + top + bottom - n + 1, dy.shape[2] + left + right - n + 1
    padded = _padded(dy, pads)[:, :, :, None]
    squares = _summed(
        [
            padded[:, i : i + rows, j : j + columns] * cells[i, j][None, None, None]
            for i in range(n)
            for j in range(n)
        ]
    )
    return from_squares(squares.reshape(len(dy), rows, columns, 4 * c), shape)


def shifted_kernel_gradient(
    x: Float[Array, "b h w c"],
    dy: Float[Array, "b h2 w2 c"],
    size: int,
    stride: int,
    dilation: int = 1,
) -> Float[Array, "k k 1 c"]:
    """The kernel gradient of a depthwise convolution: a sum over all pixels for each tap.

    XLA on CPU sums over pixels with strided steps, without vectors. So this adds up row by row,
    `IMAGES` images in one expression, which leaves little to sum; and a row stays in the cache for
    all taps that read it.
    """
    side = padding(size, stride, dilation)
    b, rows, columns, c = dy.shape
    fan = max(n for n in range(1, IMAGES + 1) if b % n == 0)
    padded = _padded(x, ((side, side), (side, side)))
    seen = (fan, dilation * (size - 1) + 1, *padded.shape[2:])
    taps = [(i * dilation, j * dilation) for i in range(size) for j in range(size)]

    def add_row(step: Array, sums: list[Array]) -> list[Array]:
        first, row = step // rows * fan, step % rows
        cells = lax.dynamic_slice(padded, (first, row * stride, 0, 0), seen)
        slopes = lax.dynamic_slice(dy, (first, row, 0, 0), (fan, 1, columns, c))[:, 0]
        # A copy of these rows, or every term of every sum finds its own way to them.
        cells, slopes = lax.optimization_barrier((cells, slopes))
        new = []
        for total, (down, across) in zip(sums, taps, strict=True):
            span = slice(across, across + (columns - 1) * stride + 1, stride)
            # One slice for each image: XLA would copy a slice that several terms share.
            new.append(_summed([total, *(cells[n, down, span] * slopes[n] for n in range(fan))]))
        return new

    zero = jnp.zeros_like(dy[0, 0])
    sums = lax.fori_loop(0, b // fan * rows, add_row, [zero] * len(taps))
    return jnp.stack([total.sum(0) for total in sums]).reshape(size, size, 1, c)
