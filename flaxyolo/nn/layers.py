"""ConvNormAct, and `Layers`, the network's own maker of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.norm import NORMS, BatchNorm
from flaxyolo.nn.regularize import Shortcut

_see: ContextVar[Callable[[Array], None] | None] = ContextVar("see", default=None)


@contextmanager
def activations_seen(see: Callable[[Array], None]) -> Iterator[None]:
    """Inside, `see` is given the input of every activation, while a network is traced."""
    token = _see.set(see)
    try:
        yield
    finally:
        _see.reset(token)


def _shown(activation: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def show_and_apply(x: Array) -> Array:
        see = _see.get()
        if see is not None:
            see(x)
        return activation(x)

    return show_and_apply


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": _shown(nnx.silu),
    "relu": _shown(nnx.relu),
    "hard_swish": _shown(nnx.hard_swish),
    "gelu": _shown(nnx.gelu),
    "none": lambda x: x,
}


class ConvNormAct(nnx.Module):
    """Convolution without bias, norm, activation."""

    def __init__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        norm: str = "batch",
        activation: str = "silu",
        dtype: DTypeLike = jnp.float32,
        rng: np.random.Generator,
    ):
        self.conv = Conv(
            in_width,
            width,
            kernel,
            stride,
            groups=groups,
            dilation=dilation,
            dtype=dtype,
            rng=rng,
        )
        self.norm = NORMS[norm](width)
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return ACTIVATIONS[self.activation](self.norm(self.conv(x)))

    def fused(self) -> nnx.Module:
        """The same for inference: batch norm folded into the kernel and a bias."""
        if not isinstance(self.norm, BatchNorm):
            return self
        return ConvAct(*folded(self.conv, self.norm), like=self.conv, activation=self.activation)


class ConvAct(nnx.Module):
    """Convolution with bias and activation: what is left of a ConvNormAct for inference."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, *, like: Conv, activation: str):
        self.conv = Conv.holding(kernel, bias, like=like)
        self.activation = activation

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 o"]:
        return ACTIVATIONS[self.activation](self.conv(x))


def folded(conv: Conv, norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the convolution that equals `norm(conv(x))` with running statistics."""
    scale, shift = norm.running_scale_and_shift()
    kernel = np.asarray(conv.kernel[...])
    bias = 0 if conv.bias is None else np.asarray(conv.bias[...])
    return kernel * scale, bias * scale + shift


@dataclass(frozen=True)
class Layers:
    """Makes a network's layers with its norm, activation and dtype; what blocks take as `conv`."""

    norm: str = "batch"
    activation: str = "silu"
    dtype: DTypeLike = jnp.float32
    drop_rates: tuple[float, ...] = ()
    """Drop path of each layer of the block this is handed to; none where it is empty."""

    def __call__(
        self,
        in_width: int,
        width: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        activation: str | None = None,
        rng: np.random.Generator,
    ) -> ConvNormAct:
        return ConvNormAct(
            in_width,
            width,
            kernel,
            stride,
            groups=groups,
            dilation=dilation,
            norm=self.norm,
            activation=self.activation if activation is None else activation,
            dtype=self.dtype,
            rng=rng,
        )

    def at(self, index: int) -> "Layers":
        """The maker for layer `index` of a block: its shortcuts have that layer's drop path."""
        if not self.drop_rates:
            return self
        rate = self.drop_rates[min(index, len(self.drop_rates) - 1)]
        return replace(self, drop_rates=(rate,))

    def shortcut(self) -> Shortcut:
        """Input plus branch, with the drop path of the layer that `at` chose."""
        if len(self.drop_rates) > 1:
            raise ValueError("choose a layer with `at` before making its shortcut")
        return Shortcut(*self.drop_rates)

    def dropping(self, rates: tuple[float, ...]) -> "Layers":
        """The same with these drop path rates, one for each layer of a block."""
        return replace(self, drop_rates=rates if any(rates) else ())

    def plain(self) -> "Layers":
        """The same without drop path."""
        return replace(self, drop_rates=())
