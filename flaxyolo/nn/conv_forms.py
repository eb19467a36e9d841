"""Forms of a dense or grouped convolution and of its gradients, equal in value to XLA's own."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
BLOCK = 16
"""Channels from which a dense convolution is quick: narrower groups share a block."""
SQUARE = 16
"""Channels to which `squares_form` pads."""

Pads = tuple[tuple[int, int], tuple[int, int]]


def padding(kernel: int, stride: int, dilation: int = 1) -> int:
    """Cells added on every side so that n cells become n / stride, rounded up.

    An odd kernel is centred; an even one, as in YOLOv5's stem, needs an even stride.
    """
    if kernel % 2:
        return dilation * (kernel // 2)
    if (kernel - stride) % 2 or kernel < stride or dilation > 1:
        raise ValueError(f"a kernel of {kernel} cannot be centred at stride {stride}")
    return (kernel - stride) // 2


def dense(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    pads: Pads,
    strides: tuple[int, int] = (1, 1),
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
        feature_group_count=groups,
    )


def plain_form(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw i o"],
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """XLA's own convolution, padded as `padding` says."""
    side = padding(kernel.shape[0], stride, dilation)
    return dense(x, kernel, ((side, side), (side, side)), (stride, stride), dilation, groups)


def plain_input_gradient(
    dy: Float[Array, "b h2 w2 o"],
    kernel: Float[Array, "kh kw c o"],
    shape: tuple[int, ...],
    stride: int,
    dilation: int,
) -> Float[Array, "b h w c"]:
    """The input gradient of a dense convolution as XLA's own, with zeros between the cells."""
    size = len(kernel)
    reach = dilation * (size - 1)
    first = reach - padding(size, stride, dilation)
    pads = [
        (first, n - ((m - 1) * stride + 1) - first + reach)
        for n, m in zip(shape[1:3], dy.shape[1:3], strict=True)
    ]
    return lax.conv_general_dilated(
        dy,
        jnp.swapaxes(kernel[::-1, ::-1], 2, 3),
        (1, 1),
        pads,
        lhs_dilation=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS,
    )


def plain_kernel_gradient(
    x: Float[Array, "b h w c"],
    dy: Float[Array, "b h2 w2 o"],
    size: int,
    stride: int = 1,
    dilation: int = 1,
    side: int | None = None,
) -> Float[Array, "k k c o"]:
    """The kernel gradient of a dense convolution as XLA's own: `dy` slides over `x`.

    `side` is the cells added before the first; None is as `padding` says.
    """
    first = padding(size, stride, dilation) if side is None else side
    spans = [dilation * (size - 1) + stride * (n - 1) + 1 for n in dy.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        dy,
        (dilation, dilation),
        [(first, span - n - first) for n, span in zip(x.shape[1:3], spans, strict=True)],
        rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


def product(x: Float[Array, "b h w c"], matrix: Float[Array, "c o"]) -> Float[Array, "b h w o"]:
    """A 1x1 convolution as one matrix product over all pixels."""
    return lax.dot_general(x, matrix, (((3,), (0,)), ((), ())))


def product_kernel_gradient(
    x: Float[Array, "b h w c"], dy: Float[Array, "b h w o"]
) -> Float[Array, "1 1 c o"]:
    """The kernel gradient of a 1x1 convolution as one product of two matrices of pixels."""
    pixels, slopes = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return lax.dot_general(slopes, pixels, (((0,), (0,)), ((), ()))).T[None, None]


def patches(x: Float[Array, "b h w c"], n: int) -> Float[Array, "b h2 w2 p"]:
    """The n x n cells that tile the image, each as one vector."""
    b, h, w, c = x.shape
    cells = x.reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, h // n, w // n, n * n * c)


def patch_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "n n c o"]
) -> Float[Array, "b h2 w2 o"]:
    """A convolution whose windows tile the image, as one matrix product."""
    return product(patches(x, len(kernel)), kernel.reshape(-1, kernel.shape[-1]))


def squares_form(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c o"]
) -> Float[Array, "b h2 w2 o"]:
    """A convolution of stride 2 and few channels over an even image, on its 2x2 squares.

    The squares are padded with zeros to whole vectors of `SQUARE` numbers.
    """
    squares = _padded_squares(x)
    kernel, reach = square_kernel(kernel)
    spare = squares.shape[-1] - kernel.shape[2]
    return dense(squares, jnp.pad(kernel, ((0, 0), (0, 0), (0, spare), (0, 0))), (reach, reach))


def squares_kernel_gradient(
    x: Float[Array, "b h w c"], dy: Float[Array, "b h2 w2 o"], size: int
) -> Float[Array, "k k c o"]:
    """The kernel gradient of `squares_form`."""
    c, o = x.shape[-1], dy.shape[-1]
    n, back, before = _square_reach(size)
    gradient = plain_kernel_gradient(_padded_squares(x), dy, n, side=back)
    cells = gradient[:, :, : 4 * c].reshape(n, n, 2, 2, c, o).transpose(0, 2, 1, 3, 4, 5)
    cells = cells.reshape(2 * n, 2 * n, c, o)
    return cells[before : before + size, before : before + size]


def _padded_squares(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 p"]:
    squares = patches(x, 2)
    spare = max(SQUARE - squares.shape[-1], 0)
    return jnp.pad(squares, ((0, 0), (0, 0), (0, 0), (0, spare)))


def patch_input_gradient(
    dy: Float[Array, "b h2 w2 o"], kernel: Float[Array, "n n c o"]
) -> Float[Array, "b h w c"]:
    """The input gradient of a convolution whose windows tile the image."""
    n, _, c, o = kernel.shape
    b, h, w, _ = dy.shape
    cells = product(dy, kernel.reshape(-1, o).T).reshape(b, h, w, n, n, c)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, n * h, n * w, c)


def patch_kernel_gradient(
    x: Float[Array, "b h w c"], dy: Float[Array, "b h2 w2 o"], n: int
) -> Float[Array, "n n c o"]:
    """The kernel gradient of a convolution whose windows tile the image."""
    gradient = product_kernel_gradient(patches(x, n), dy)
    return gradient.reshape(n, n, x.shape[-1], dy.shape[-1])


def _square_reach(size: int) -> tuple[int, int, int]:
    """Squares that a kernel of stride 2 meets, those of them before its own, spare rows before."""
    side = padding(size, 2)
    back, ahead = (side + 1) // 2, (size - 1 - side) // 2
    return back + ahead + 1, back, 2 * back - side


def square_kernel(
    kernel: Float[Array, "kh kw c o"],
) -> tuple[Float[Array, "n n p o"], tuple[int, int]]:
    """The kernel over 2x2 squares, and how many squares it looks back and ahead.

    Row 2 m + p of the input meets row t of the kernel at output row m + (p + side - t) / 2.
    """
    size, _, c, o = kernel.shape
    n, back, before = _square_reach(size)
    ends = (before, 2 * n - size - before)
    squares = jnp.pad(kernel, (ends, ends, (0, 0), (0, 0))).reshape(n, 2, n, 2, c, o)
    return squares.transpose(0, 2, 1, 3, 4, 5).reshape(n, n, 4 * c, o), (back, n - 1 - back)


def from_squares(y: Float[Array, "b h2 w2 p"], shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Channels to the cells of 2x2 squares, cropped to this shape."""
    b, rows, columns, _ = y.shape
    y = y.reshape(b, rows, columns, 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * rows, 2 * columns, -1)[:, : shape[1], : shape[2]]


def reaching_half(pads: Pads, dy: Array, shape: tuple[int, ...]) -> Pads:
    """Pads that give half of `shape`, rounded up, also where the windows left a last cell out."""
    (top, bottom), (left, right) = pads
    return (
        (top, bottom + -(-shape[1] // 2) - dy.shape[1]),
        (left, right + -(-shape[2] // 2) - dy.shape[2]),
    )


def phases_form(
    dy: Float[Array, "b h2 w2 o"], kernel: Float[Array, "kh kw c o"], shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
    """The input gradient at stride 2: two convolutions, for the even rows and for the odd ones.

    XLA's own multiplies the zeros between the cells of `dy`, three of four. Here a pair of columns
    is one cell of twice the channels, which costs some zeros but no moving.
    """
    size, _, c, o = kernel.shape
    squares, (back, ahead) = square_kernel(kernel)
    n = len(squares)
    turned = squares.reshape(n, n, 2, 2 * c, o)[::-1, ::-1].transpose(2, 0, 1, 4, 3)
    side = padding(size, 2)
    (_, more_rows), columns = reaching_half(((0, 0), (ahead, back)), dy, shape)
    lines = []
    for row in (0, 1):
        taps = range((row + side) % 2, size, 2)
        # Tap t looks (row + side - t) / 2 rows ahead.
        top, bottom = (taps[-1] - row - side) // 2, (row + side - taps[0]) // 2
        own = turned[row, ahead - top : ahead + bottom + 1]
        lines.append(dense(dy, own, ((top, bottom + more_rows), columns)))
    b, rows, pairs, _ = lines[0].shape
    whole = jnp.stack(lines, 2).reshape(b, 2 * rows, 2 * pairs, c)
    return whole[:, : shape[1], : shape[2]]


def groups_in_a_block(groups: int, width: int) -> int:
    """How many groups of this input width make a dense convolution that is wide enough."""
    fitting = [m for m in range(1, groups + 1) if groups % m == 0 and m * width >= BLOCK]
    return min(fitting, default=groups)


def dense_blocks(kernel: Float[Array, "kh kw i o"], groups: int) -> list[Array]:
    """Dense kernels that together are the grouped one; zero between the groups that share one."""
    kh, kw, i, o = kernel.shape
    merged = groups_in_a_block(groups, i)
    count = groups // merged
    own = jnp.eye(merged, dtype=kernel.dtype).reshape(1, 1, merged, 1, 1, merged, 1)
    wide = kernel.reshape(kh, kw, 1, i, count, merged, o // groups) * own
    return jnp.split(wide.reshape(kh, kw, merged * i, o), count, axis=-1)


def own_channels(gradient: Float[Array, "kh kw c o"], merged: int) -> Float[Array, "kh kw i o"]:
    """What of a block's gradient belongs to the kernels of the groups that share it."""
    kh, kw, c, o = gradient.shape
    apart = gradient.reshape(kh, kw, merged, c // merged, merged, o // merged)
    parts = [apart[:, :, group, :, group] for group in range(merged)]
    return jnp.concatenate(parts, axis=-1)
