"""Up-sampling and pooling, with gradients of their own that are fast on a CPU."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


@jax.custom_vjp
def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Nearest-neighbour up-sampling by two."""
    b, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c))
    return wide.reshape(b, 2 * h, 2 * w, c)


def _upsample_forward(x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b h2 w2 c"], None]:
    return upsample(x), None


def _upsample_backward(_: None, dy: Float[Array, "b h2 w2 c"]) -> tuple[Float[Array, "b h w c"]]:
    b, h, w, c = dy.shape
    cells = dy.reshape(b, h // 2, 2, w // 2, 2, c)
    # Four slices: XLA on CPU sums small inner axes with one thread and without vectors.
    top, bottom = cells[:, :, 0], cells[:, :, 1]
    return (top[:, :, :, 0] + top[:, :, :, 1] + bottom[:, :, :, 0] + bottom[:, :, :, 1],)


upsample.defvjp(_upsample_forward, _upsample_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Maximum over `size` x `size` windows (odd) at stride 1, same shape.

    A gradient goes to its window's first maximum, row by row. The maximum is taken along rows and
    then along columns: fewer comparisons, and all element-wise.
    """
    return _largest(_largest(x, size, 2), size, 1)


def _max_pool_forward(x: Float[Array, "b h w c"], size: int) -> tuple[Array, tuple[Array, Array]]:
    rows = _largest(x, size, 2)
    y = _largest(rows, size, 1)
    return y, (_first(x, rows, size, 2), _first(rows, y, size, 1))


def _max_pool_backward(
    size: int, places: tuple[Array, Array], dy: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b h w c"]]:
    across, down = places
    return (_to_first(across, _to_first(down, dy, size, 1), size, 2),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _neighbours(x: Array, size: int, axis: int, fill: float | int) -> list[Array]:
    """`x` shifted along the axis so that each cell meets its window's first to last cell."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (size // 2, size // 2)
    # Behind a barrier, XLA reads a padded copy and does not test every index for every shift.
    padded = lax.optimization_barrier(jnp.pad(x, pads, constant_values=fill))
    return [lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(size)]


def _largest(x: Float[Array, "b h w c"], size: int, axis: int) -> Float[Array, "b h w c"]:
    """Maximum over windows along one axis."""
    largest, *others = _neighbours(x, size, axis, -jnp.inf)
    for other in others:
        largest = jnp.maximum(largest, other)
    return largest


def _first(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w c"], size: int, axis: int
) -> Int[Array, "b h w c"]:
    """Place in its window of the first cell of `x` that equals the maximum `y`."""
    place = jnp.full(x.shape, size - 1, jnp.int8)
    cells = _neighbours(x, size, axis, -jnp.inf)
    for i in reversed(range(size - 1)):
        place = jnp.where(cells[i] == y, jnp.int8(i), place)
    return place


def _to_first(
    places: Int[Array, "b h w c"], dy: Float[Array, "b h w c"], size: int, axis: int
) -> Float[Array, "b h w c"]:
    """The gradient of maxima along one axis, at the places they came from."""
    seen, slopes = _neighbours(places, size, axis, -1), _neighbours(dy, size, axis, 0.0)
    total = jnp.zeros_like(dy)
    for i in range(size):
        # A cell is at place i of the window whose centre is size // 2 - i cells further.
        j = size - 1 - i
        total = total + jnp.where(seen[j] == i, slopes[j], 0)
    return total


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def largest(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """Maximum along an axis; its gradient goes to the first largest number, by place.

    XLA may compute `x` again inside another fusion with another rounding. The gradient of `max`
    compares values, and is NaN where none of them is equal any more.
    """
    return x.max(axis)


def _largest_forward(
    x: Float[Array, "..."], axis: int
) -> tuple[Float[Array, "..."], Bool[Array, "..."]]:
    place = jnp.argmax(x, axis, keepdims=True)
    return x.max(axis), lax.broadcasted_iota(place.dtype, x.shape, axis) == place


def _largest_backward(
    axis: int, first: Bool[Array, "..."], dy: Float[Array, "..."]
) -> tuple[Float[Array, "..."]]:
    return (jnp.where(first, jnp.expand_dims(dy, axis), 0),)


largest.defvjp(_largest_forward, _largest_backward)
