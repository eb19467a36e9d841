"""Stage bodies, all with one contract.

`Block(in_width, width, depth, *, conv, rng)` maps `b h w in_width` to `b h w width`. `conv` makes
the network's layers with norm, activation and dtype already chosen, so no block asks which; layer
`i` of a block is made with `conv.at(i)`, which knows its drop path.
Downsampling belongs to the stage. A variant is a `partial` in `BLOCKS`.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.layers import Layers


class Plain(nnx.Module):
    """One 3x3 convolution."""

    def __init__(self, in_width: int, width: int, *, conv: Layers, rng: np.random.Generator):
        self.conv = conv(in_width, width, 3, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        return self.conv(x)


class Bottleneck(nnx.Module):
    """Two convolutions with an optional shortcut (arXiv 1512.03385)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernels: tuple[int, int] = (3, 3),
        expansion: float = 1.0,
        shortcut: bool = True,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = max(8, int(width * expansion))
        self.first = conv(in_width, inner, kernels[0], rng=rng)
        self.second = conv(inner, width, kernels[1], rng=rng)
        self.shortcut = conv.shortcut() if shortcut and in_width == width else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.second(self.first(x))
        return y if self.shortcut is None else self.shortcut(x, y)


class DepthwisePointwise(nnx.Module):
    """Depthwise, then 1x1, with a shortcut where the widths agree (arXiv 1704.04861)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernel: int = 3,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.depthwise = conv(in_width, in_width, kernel, groups=in_width, rng=rng)
        self.pointwise = conv(in_width, width, 1, rng=rng)
        self.shortcut = conv.shortcut() if in_width == width else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.pointwise(self.depthwise(x))
        return y if self.shortcut is None else self.shortcut(x, y)


class Repeat(nnx.Module):
    """`depth` layers of one kind; the first changes the width."""

    def __init__(
        self,
        layer: Callable[..., nnx.Module],
        in_width: int,
        width: int,
        depth: int,
        *,
        conv: Layers,
        rng: np.random.Generator,
    ):
        widths = [in_width] + [width] * (depth - 1)
        self.layers = nnx.List(
            [layer(w, width, conv=conv.at(i), rng=rng) for i, w in enumerate(widths)]
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        for layer in self.layers:
            x = layer(x)
        return x


class C2f(nnx.Module):
    """CSP in YOLOv8's form: split, and concatenate what every bottleneck puts out."""

    def __init__(
        self,
        in_width: int,
        width: int,
        depth: int,
        *,
        shortcut: bool = True,
        conv: Layers,
        rng: np.random.Generator,
    ):
        half = width // 2
        self.split = conv(in_width, 2 * half, 1, rng=rng)
        self.layers = nnx.List(
            [
                Bottleneck(half, half, shortcut=shortcut, conv=conv.at(i), rng=rng)
                for i in range(depth)
            ]
        )
        self.merge = conv((2 + depth) * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        parts = jnp.split(self.split(x), 2, axis=-1)
        for layer in self.layers:
            parts.append(layer(parts[-1]))
        return self.merge(jnp.concatenate(parts, axis=-1))


class C3(nnx.Module):
    """CSP in YOLOv5's form: bottlenecks on one half, a 1x1 bypass beside (arXiv 1911.11929)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        depth: int,
        *,
        shortcut: bool = True,
        conv: Layers,
        rng: np.random.Generator,
    ):
        half = width // 2
        self.main = conv(in_width, half, 1, rng=rng)
        self.bypass = conv(in_width, half, 1, rng=rng)
        self.layers = nnx.List(
            [
                Bottleneck(half, half, kernels=(1, 3), shortcut=shortcut, conv=conv.at(i), rng=rng)
                for i in range(depth)
            ]
        )
        self.merge = conv(2 * half, width, 1, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.main(x)
        for layer in self.layers:
            y = layer(y)
        return self.merge(jnp.concatenate([y, self.bypass(x)], axis=-1))


BLOCKS: dict[str, Callable[..., nnx.Module]] = {
    "plain": partial(Repeat, Plain),
    "residual": partial(Repeat, Bottleneck),
    "c3": C3,
    "c3_plain": partial(C3, shortcut=False),
    "c2f": C2f,
    "c2f_plain": partial(C2f, shortcut=False),
    "depthwise": partial(Repeat, DepthwisePointwise),
    "depthwise_k5": partial(Repeat, partial(DepthwisePointwise, kernel=5)),
}
