"""Single layers that blocks are made of: `Layer(in_width, width, *, conv, rng)`.

They keep height and width. A shortcut is there where the widths agree, with the drop path that
`conv` knows.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import ACTIVATIONS, ConvNormAct, Layers
from flaxyolo.nn.rep import RepConv

MIN_WIDTH = 8
"""Of the layers inside a block."""

LAYER_SCALE = 0.1
"""Where a layer scale starts: the value for networks of up to 18 layers (arXiv 2103.17239)."""


def inner_width(width: int, share: float) -> int:
    """A share of the width for a block's inner layers, at least 8."""
    return max(MIN_WIDTH, int(width * share))


def group_count(width: int) -> int:
    """Groups of a grouped convolution: 8, from 256 channels on 32 as in ResNeXt-50 32x4d.

    Where those do not divide the width, or would leave less than four channels each (as many as
    ResNeXt has), the next smaller number that does.
    """
    most = min(32 if width >= 256 else 8, width // 4)
    return max(groups for groups in range(1, most + 1) if width % groups == 0)


def dense(
    in_width: int,
    width: int,
    kernel: int,
    *,
    dilation: int = 1,
    conv: Layers,
    rng: np.random.Generator,
) -> ConvNormAct:
    """An ordinary convolution with norm and activation, as one of the forms of `Bottleneck`."""
    return conv(in_width, width, kernel, dilation=dilation, rng=rng)


class Plain(nnx.Module):
    """One 3x3 convolution."""

    def __init__(self, in_width: int, width: int, *, conv: Layers, rng: np.random.Generator):
        self.conv = conv(in_width, width, 3, rng=rng)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        return self.conv(x)


class Bottleneck(nnx.Module):
    """Two convolutions with an optional shortcut (arXiv 1512.03385).

    `forms` makes each of the two: `form(in_width, width, kernel, *, conv, rng)`.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernels: tuple[int, int] = (3, 3),
        forms: tuple[Callable[..., nnx.Module], Callable[..., nnx.Module]] = (dense, dense),
        expansion: float = 1.0,
        shortcut: bool = True,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = inner_width(width, expansion)
        self.first = forms[0](in_width, inner, kernels[0], conv=conv, rng=rng)
        self.second = forms[1](inner, width, kernels[1], conv=conv, rng=rng)
        self.shortcut = conv.shortcut() if shortcut and in_width == width else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.second(self.first(x))
        return y if self.shortcut is None else self.shortcut(x, y)


class Narrowing(nnx.Module):
    """ResNet's bottleneck: 1x1, 3x3 at a share of the width, 1x1; activation after the sum.

    In groups it is a ResNeXt block, with `group_count` (arXiv 1512.03385, 1611.05431).
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        share: float = 0.25,
        grouped: bool = False,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = inner_width(width, share)
        groups = group_count(inner) if grouped else 1
        self.reduce = conv(in_width, inner, 1, rng=rng)
        self.middle = conv(inner, inner, 3, groups=groups, rng=rng)
        self.expand = conv(inner, width, 1, activation="none", rng=rng)
        self.shortcut = conv.shortcut() if in_width == width else None
        self.activation = conv.activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.expand(self.middle(self.reduce(x)))
        return ACTIVATIONS[self.activation](y if self.shortcut is None else self.shortcut(x, y))


class DepthwisePointwise(nnx.Module):
    """Depthwise with the stride, then 1x1, each with norm and activation (arXiv 1704.04861)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        shortcut: bool = True,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.depthwise = conv(in_width, in_width, kernel, stride, groups=in_width, rng=rng)
        self.pointwise = conv(in_width, width, 1, rng=rng)
        same = shortcut and stride == 1 and in_width == width
        self.shortcut = conv.shortcut() if same else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        y = self.pointwise(self.depthwise(x))
        return y if self.shortcut is None else self.shortcut(x, y)


separable = partial(DepthwisePointwise, shortcut=False)


class InvertedResidual(nnx.Module):
    """1x1 that widens, depthwise, 1x1 back without activation (arXiv 1801.04381)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        kernel: int = 3,
        expansion: int = 4,
        conv: Layers,
        rng: np.random.Generator,
    ):
        inner = in_width * expansion
        self.expand = conv(in_width, inner, 1, rng=rng)
        self.depthwise = conv(inner, inner, kernel, groups=inner, rng=rng)
        self.project = conv(inner, width, 1, activation="none", rng=rng)
        self.shortcut = conv.shortcut() if in_width == width else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.project(self.depthwise(self.expand(x)))
        return y if self.shortcut is None else self.shortcut(x, y)


class ConvNeXt(nnx.Module):
    """7x7 depthwise and norm, 1x1 to 4 times the width, 1x1 back, layer scale (arXiv 2201.03545).

    The norm is the network's own; a 1x1 convolution leads to the width where it changes.
    """

    def __init__(self, in_width: int, width: int, *, conv: Layers, rng: np.random.Generator):
        self.enter = None if in_width == width else conv(in_width, width, 1, rng=rng)
        self.depthwise = conv(width, width, 7, groups=width, activation="none", rng=rng)
        self.expand = Conv(width, 4 * width, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.project = Conv(4 * width, width, 1, bias=0.0, dtype=conv.dtype, rng=rng)
        self.scale = nnx.Param(np.full(width, LAYER_SCALE, np.float32))
        self.shortcut = conv.shortcut()
        self.activation = conv.activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        if self.enter is not None:
            x = self.enter(x)
        y = self.project(ACTIVATIONS[self.activation](self.expand(self.depthwise(x))))
        return self.shortcut(x, y * self.scale[...].astype(y.dtype)[None, None, None])


class CompactInverted(nnx.Module):
    """YOLOv10's compact inverted block: depthwise and 1x1 in turn, wide in the middle.

    3x3 depthwise, 1x1 to twice the width, 3x3 depthwise, 1x1 back, 3x3 depthwise (arXiv
    2405.14458); with `large` the middle one is 7x7 and 3x3 side by side.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        *,
        large: bool = False,
        conv: Layers,
        rng: np.random.Generator,
    ):
        wide = 2 * width
        self.first = conv(in_width, in_width, 3, groups=in_width, rng=rng)
        self.expand = conv(in_width, wide, 1, rng=rng)
        if large:
            self.middle = RepConv(wide, wide, 7, second_kernel=3, groups=wide, conv=conv, rng=rng)
        else:
            self.middle = conv(wide, wide, 3, groups=wide, rng=rng)
        self.project = conv(wide, width, 1, rng=rng)
        self.last = conv(width, width, 3, groups=width, rng=rng)
        self.shortcut = conv.shortcut() if in_width == width else None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w o"]:
        y = self.last(self.project(self.middle(self.expand(self.first(x)))))
        return y if self.shortcut is None else self.shortcut(x, y)
