"""Folding for inference: norms into convolutions, parallel branches into one.

A module that has an equal, simpler form in use says so with a method `fused()`, which returns that
form as a new module. It works on NumPy arrays, so folding a network compiles nothing.
"""

from typing import TypeVar

from flax import nnx

from flaxyolo.nn.conv import Conv

M = TypeVar("M", bound=nnx.Module)


def fuse_network(network: M) -> M:
    """Replace every part of a network (in place) by its form for inference; returns the network."""
    fused = getattr(network, "fused", None)
    if fused is not None:
        return fused()
    for name, part in list(vars(network).items()):
        if isinstance(part, nnx.List):
            for index, item in enumerate(part):
                if isinstance(item, nnx.Module):
                    part[index] = fuse_network(item)
        elif isinstance(part, nnx.Module):
            setattr(network, name, fuse_network(part))
    return network


def narrow_network(network: M) -> M:
    """Hold what convolutions multiply by (in place) in the type in which they do; returns the
    network.

    They would turn it into that type at every call, which on an accelerator is a kernel for each.
    """
    for _, part in nnx.iter_modules(network):
        if isinstance(part, Conv):
            part.kernel = nnx.Param(part.kernel[...].astype(part.dtype))
            if part.bias is not None:
                part.bias = nnx.Param(part.bias[...].astype(part.dtype))
    return network
