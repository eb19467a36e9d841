"""Convolutions trained as parallel branches and folded into one for use (arXiv 2101.03697)."""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.nn.layers import ACTIVATIONS, ConvAct, ConvNormAct, Layers, folded
from flaxyolo.nn.norm import NORMS, BatchNorm


class RepConv(nnx.Module):
    """Convolutions of several odd kernels side by side, each with its norm; sum, activation.

    With `identity` the input's own norm is one more branch where stride and widths allow it, which
    makes a RepVGG block.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        second_kernel: int = 1,
        groups: int = 1,
        identity: bool = False,
        conv: Layers,
        rng: np.random.Generator,
    ):
        self.branches = nnx.List(
            [
                conv(in_width, width, size, stride, groups=groups, activation="none", rng=rng)
                for size in (kernel, second_kernel)
            ]
        )
        same = identity and stride == 1 and in_width == width
        self.identity = NORMS[conv.norm](width) if same else None
        self.activation = conv.activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        first, second = self.branches
        y = first(x) + second(x)
        if self.identity is not None:
            y = y + self.identity(x).astype(y.dtype)
        return ACTIVATIONS[self.activation](y)

    def fused(self) -> nnx.Module:
        """One convolution with bias and activation; group norms cannot be folded and stay."""
        pairs = [
            (branch.conv, branch.norm)
            for branch in self.branches
            if isinstance(branch, ConvNormAct) and isinstance(branch.norm, BatchNorm)
        ]
        if len(pairs) < len(self.branches):
            return self
        like = pairs[0][0]
        parts = [folded(conv, norm) for conv, norm in pairs]
        size = max(len(kernel) for kernel, _ in parts)
        kernel = sum(centred(part, size) for part, _ in parts)
        bias = sum(part for _, part in parts)
        if isinstance(self.identity, BatchNorm):
            scale, shift = self.identity.running_scale_and_shift()
            one_tap = identity_kernel(len(scale), like.groups) * scale
            kernel, bias = kernel + centred(one_tap, size), bias + shift
        return ConvAct(np.asarray(kernel), np.asarray(bias), like=like, activation=self.activation)


def centred(kernel: np.ndarray, size: int) -> np.ndarray:
    """A smaller kernel with zeros around it."""
    side = (size - len(kernel)) // 2
    return np.pad(kernel, [(side, side), (side, side), (0, 0), (0, 0)])


def identity_kernel(width: int, groups: int) -> np.ndarray:
    """The 1x1 kernel that copies every channel."""
    channel = np.arange(width)
    kernel = np.zeros((1, 1, width // groups, width), np.float32)
    kernel[0, 0, channel % (width // groups), channel] = 1
    return kernel
