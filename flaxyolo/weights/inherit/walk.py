"""What every step of an inheritance writes to, and the layers that hold arrays."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.layers import ConvNormAct
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.nn.rep import RepConv
from flaxyolo.weights.inherit.channels import (
    LIVE,
    SILENT,
    Map,
    Rank,
    choose,
    gathered,
    gathered_kernel,
)

Kind = Literal["copied", "sliced", "grown", "fresh"]

RELU_SLOPE = 1e-6
"""Bias of a silent layer before ReLU, which has no slope at zero."""


class Part(NamedTuple):
    """Where the parameters of one layer came from."""

    path: str
    kind: Kind
    """All of a layer of the parent, a part of one, one and new numbers around, nothing."""
    params: int
    taken: int
    """Those that are the parent's."""
    source: str | None
    """The layer of the parent."""


class Change(NamedTuple):
    """Where a child does something else than its parent from the start, and why."""

    path: str
    why: str


class Walk:
    """Child and parent side by side; the child's arrays are written in place.

    `ranked`: of too many channels those that matter most are kept, else the first.
    """

    def __init__(self, child: nnx.Module, parent: nnx.Module, *, ranked: bool, relu: bool):
        self.paths = {id(module): path for path, module in modules(child)}
        self.sources = {id(module): path for path, module in modules(parent)}
        self.ranked = ranked
        self.relu = relu
        self.parts: dict[str, Part] = {}
        self.changes: list[Change] = []

    def changed(self, module: nnx.Module, why: str) -> None:
        """The module (or one inside it) does something else than the parent."""
        self.changes.append(Change(self.paths[id(module)], why))

    def choose(self, module: nnx.Module, count: int, rank: Rank, *, tied: bool = False) -> Map:
        """The map of the module's output, of `count` channels; the first where it is `tied`.

        Tied are features of several levels that are added, or seen by the same kernels.
        """
        if count < len(rank):
            self.changed(module, f"{count} of {len(rank)} channels")
        return choose(count, rank, ranked=self.ranked and not tied)

    def renewed(self, outputs: Map) -> Map:
        """The map of a layer's output whose new channels are as `renew_norm` leaves them."""
        return np.where(outputs < 0, LIVE if self.relu else SILENT, outputs)

    def took(self, module: Any, parent: Any, taken: int) -> None:
        """Tell that so many of a layer's own parameters are the parent's."""
        path, params, old = self.paths[id(module)], own_params(module), own_params(parent)
        kind: Kind = "grown" if taken else "fresh"
        if taken == params:
            kind = "copied" if params == old else "sliced"
        source = self.sources.get(id(parent)) if taken else None
        self.parts[path] = Part(path, kind, params, taken, source)


def modules(module: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and module of everything inside, the module itself first."""
    yield path, module
    parts = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for name, part in parts:
        if isinstance(part, nnx.Module):
            yield from modules(part, f"{path}.{name}".lstrip("."))


def path_text(path: Any) -> str:
    """Where an array is in a tree, such as `backbone.stem.conv.conv.kernel`: layer and name."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def own_params(module: Any) -> int:
    """Parameters of the layer itself, without those of what is inside."""
    return sum(part[...].size for part in vars(module).values() if isinstance(part, nnx.Param))


def inherit_conv(
    walk: Walk,
    child: Conv,
    parent: Conv,
    inputs: Map,
    outputs: Map,
    *,
    new_bias: float | None = None,
) -> None:
    """Kernel and bias; with `new_bias` new outputs, which no norm silences, are that everywhere."""
    kernel, taken = gathered_kernel(child, parent, inputs, outputs)
    new = outputs < 0
    if new_bias is not None:
        kernel[..., new] = 0
    child.kernel[...] = kernel
    if child.bias is not None:
        bias = np.asarray(child.bias[...])
        if parent.bias is not None:
            bias, count = gathered(bias, np.asarray(parent.bias[...]), outputs)
            taken += count
        child.bias[...] = bias if new_bias is None else np.where(new, np.float32(new_bias), bias)
    walk.took(child, parent, taken)


def inherit_norm(walk: Walk, child: Any, parent: Any, outputs: Map) -> None:
    """Scale, bias and, between batch norms, statistics."""
    taken = 0
    names = ["scale", "bias"]
    same = isinstance(child, BatchNorm) and isinstance(parent, BatchNorm)
    if same:
        names += ["mean", "var"]
    elif type(child) is not type(parent):
        walk.changed(child, "another norm")
    elif not groups_kept(child, parent, outputs):
        walk.changed(child, "other groups of channels")
    for name in names:
        fresh, old = (np.asarray(getattr(norm, name)[...]) for norm in (child, parent))
        array, count = gathered(fresh, old, outputs)
        getattr(child, name)[...] = array
        taken += count if name in ("scale", "bias") else 0
    renew_norm(walk, child, outputs)
    walk.took(child, parent, taken)


def scales(norm: Any) -> Rank:
    """How much a norm lets each channel vary."""
    return np.abs(np.asarray(norm.scale[...]))


def renew_norm(walk: Walk, norm: Any, outputs: Map) -> None:
    """Let the channels that carry nothing of the parent's be zero.

    ReLU has no slope there: in its networks they are as drawn, and what follows does not listen.
    """
    if not walk.relu:
        silence_norm(walk, norm, outputs)


def silence_norm(walk: Walk, norm: Any, outputs: Map) -> None:
    """Let the channels that carry nothing of the parent's be zero (all but zero before ReLU)."""
    new, bias = outputs < 0, np.float32(RELU_SLOPE if walk.relu else 0)
    norm.scale[...] = np.where(new, np.float32(0), np.asarray(norm.scale[...]))
    norm.bias[...] = np.where(new, bias, np.asarray(norm.bias[...]))


def groups_kept(child: Any, parent: Any, outputs: Map) -> bool:
    """Whether every group of channels of the parent is a group of the child, without others."""
    members = outputs.reshape(child.groups, -1)
    size = len(np.asarray(parent.scale[...])) // parent.groups
    return all(
        (group < 0).all() or (len(group) == size and len(set(group // size)) == 1)
        for group in members
    )


def inherit_layer(
    walk: Walk, child: ConvNormAct, parent: ConvNormAct, inputs: Map, outputs: Map
) -> Map:
    """A convolution with its norm and activation."""
    geometry = child.conv.dilation, child.conv.stride
    if geometry != (parent.conv.dilation, parent.conv.stride):
        walk.changed(child, "another dilation or stride")
    elif len(child.conv.kernel[...]) < len(parent.conv.kernel[...]):
        walk.changed(child, "a smaller kernel")
    inherit_conv(walk, child.conv, parent.conv, inputs, outputs)
    inherit_norm(walk, child.norm, parent.norm, outputs)
    return walk.renewed(outputs)


def inherit_rep(walk: Walk, child: RepConv, parent: RepConv, inputs: Map, outputs: Map) -> Map:
    """Parallel convolutions, and the norm of the input where both have it."""
    for branch, old in zip(child.branches, parent.branches, strict=True):
        inherit_layer(walk, branch, old, inputs, outputs)
    if child.identity is not None and parent.identity is not None:
        inherit_norm(walk, child.identity, parent.identity, outputs)
    elif child.identity is not None:
        silence_norm(walk, child.identity, np.full(len(outputs), SILENT))
    elif parent.identity is not None:
        walk.changed(child, "no identity branch")
    return walk.renewed(outputs)


def widen_to_rep(walk: Walk, child: RepConv, parent: ConvNormAct, inputs: Map, outputs: Map) -> Map:
    """One convolution as the branch of its size, the other branches silent."""
    sizes = [len(branch.conv.kernel[...]) for branch in child.branches]
    wanted = len(parent.conv.kernel[...])
    place = sizes.index(wanted) if wanted in sizes else 0
    inherit_layer(walk, child.branches[place], parent, inputs, outputs)
    quiet = np.full(len(outputs), SILENT)
    silence_norm(walk, child.branches[1 - place].norm, quiet)
    if child.identity is not None:
        silence_norm(walk, child.identity, quiet)
    return walk.renewed(outputs)


def fold_to_layer(
    walk: Walk, child: ConvNormAct, parent: RepConv, inputs: Map, outputs: Map
) -> Map:
    """Parallel branches folded into one convolution, with the statistics of their sum.

    Of group norms, which cannot be folded, the branch of the child's size.
    """
    norms: list[Any] = [branch.norm for branch in parent.branches]
    if parent.identity is not None:
        norms.append(parent.identity)
    one = parent.fused()
    if one is parent or not isinstance(child.norm, BatchNorm):
        walk.changed(child, "one of the parallel branches")
        sizes = [len(branch.conv.kernel[...]) for branch in parent.branches]
        wanted = len(child.conv.kernel[...])
        branch = parent.branches[sizes.index(wanted) if wanted in sizes else 0]
        return inherit_layer(walk, child, branch, inputs, outputs)
    conv: Any = vars(one)["conv"]
    if len(child.conv.kernel[...]) < len(conv.kernel[...]):
        walk.changed(child, "a smaller kernel")
    walk.sources[id(conv)] = walk.sources[id(parent)]
    kernel, taken = gathered_kernel(child.conv, conv, inputs, outputs)
    child.conv.kernel[...] = kernel
    walk.took(child.conv, conv, taken)
    bias = sum(np.asarray(norm.bias[...]) for norm in norms)
    var = sum(np.asarray(norm.scale[...]) ** 2 for norm in norms)
    sums = {
        "scale": np.sqrt(var + child.norm.epsilon),
        "bias": bias,
        "mean": bias - np.asarray(conv.bias[...]),
        "var": var,
    }
    for name, old in sums.items():
        array = getattr(child.norm, name)
        array[...] = gathered(np.asarray(array[...]), old, outputs).array
    renew_norm(walk, child.norm, outputs)
    walk.took(child.norm, norms[0], 2 * int((outputs >= 0).sum()))
    return walk.renewed(outputs)


def inherit_vector(walk: Walk, child: Any, parent: Any, name: str, channels: Map) -> None:
    """One array over channels of a module that has no other parameters of its own."""
    variable = getattr(child, name)
    old = np.asarray(getattr(parent, name)[...])
    array, taken = gathered(np.asarray(variable[...]), old, channels)
    variable[...] = array
    walk.took(child, parent, taken)
