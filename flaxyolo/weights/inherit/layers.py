"""Single layers of blocks: `handler(walk, child, parent, inputs, outputs)`.

`inputs` is the map of the child's input and `outputs` the one that is wanted of its output, where
what is new is any negative number. The handler writes the child and says what map came of it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from flaxyolo.nn.attention import (
    ConvBlockAttention,
    Coordinate,
    EfficientChannel,
    NoAttention,
    SelfAttention,
    SqueezeExcite,
)
from flaxyolo.nn.blocks import Repeat
from flaxyolo.nn.bottlenecks import (
    Bottleneck,
    CompactInverted,
    ConvNeXt,
    DepthwisePointwise,
    InvertedResidual,
    Narrowing,
    Plain,
)
from flaxyolo.nn.context import (
    CSPSPPF,
    SPPF,
    NoContext,
    PartialAttention,
    PooledAttention,
    PositionedAttention,
)
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.csp import C3, C2f
from flaxyolo.nn.downsample import (
    ConvDown,
    PatchDown,
    PointwiseDepthwise,
    PoolDown,
    RepDown,
    SeparableDown,
)
from flaxyolo.nn.layers import ConvNormAct
from flaxyolo.nn.neck import Fusion, Same
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.nn.rep import RepConv
from flaxyolo.nn.stem import ConvStem, DeepStem, FocusStem, RepStem
from flaxyolo.weights.inherit.channels import (
    SILENT,
    Map,
    Rank,
    channels_of_heads,
    chosen_heads,
    heard,
    summed,
)
from flaxyolo.weights.inherit.forms import merged
from flaxyolo.weights.inherit.walk import (
    Walk,
    fold_to_layer,
    inherit_conv,
    inherit_layer,
    inherit_rep,
    inherit_vector,
    renew_norm,
    scales,
    silence_norm,
    widen_to_rep,
)

Handler = Callable[[Walk, Any, Any, Map, Map], Map]

PASSES = (NoAttention, NoContext, Same)
"""Modules that are the identity."""

GATES = (SqueezeExcite, EfficientChannel, ConvBlockAttention, Coordinate)
"""Attentions that scale what is there."""

LAST: dict[type, str] = {
    **dict.fromkeys((Plain, ConvDown, SeparableDown, PoolDown, PatchDown, RepDown), "conv"),
    **dict.fromkeys((ConvStem, FocusStem, RepStem), "conv"),
    **dict.fromkeys((C2f, C3, SPPF, CSPSPPF, PartialAttention), "merge"),
    **dict.fromkeys((SelfAttention, PositionedAttention, InvertedResidual), "project"),
    Bottleneck: "second",
    Narrowing: "expand",
    DepthwisePointwise: "pointwise",
    CompactInverted: "last",
    PooledAttention: "attend",
    PointwiseDepthwise: "depthwise",
    DeepStem: "third",
    Fusion: "block",
}
"""The part of a module that makes its output, or what is added to its input."""


def rank(module: Any) -> Rank:
    """How much each channel of a module's output matters: the scale of its norm.

    The length of the kernel where no norm follows.
    """
    if isinstance(module, ConvNormAct):
        return scales(module.norm)
    if isinstance(module, Conv):
        return np.sqrt((np.asarray(module.kernel[...]) ** 2).sum((0, 1, 2)))
    if isinstance(module, RepConv):
        total = rank(module.branches[0]) + rank(module.branches[1])
        same = module.identity
        return total if same is None else total + scales(same)
    if isinstance(module, ConvNeXt):
        branch = scales(module) * rank(module.project)
        return branch if module.enter is None else branch + rank(module.enter)
    if isinstance(module, Repeat):
        total = rank(module.layers[0])
        for layer in list(module.layers)[1:]:
            total = rank(layer) + (total if carries(layer) else 0)
        return total
    return rank(getattr(module, LAST[type(module)]))


def width_of(module: Any) -> int:
    """Channels that a module puts out."""
    return len(rank(module))


def carries(module: Any) -> bool:
    """Whether a module adds something to its input, or scales it: their channels are the same."""
    if isinstance(module, Repeat):
        return carries(module.layers[0])
    if isinstance(module, RepConv):
        return module.identity is not None
    if isinstance(module, ConvNeXt):
        return module.enter is None
    if isinstance(module, RepDown | Plain):
        return carries(module.conv)
    if isinstance(module, (*PASSES, *GATES, SelfAttention)):
        return True
    return getattr(module, "shortcut", None) is not None


def follow(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """Inherit a layer from one of its kind, or start it fresh."""
    handler = LAYERS.get((type(child), type(parent)))
    if handler is None:
        return begin(walk, child, parent, inputs, outputs)
    return handler(walk, child, parent, inputs, outputs)


def begin(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """A fresh module in the place of another, whose channels keep their numbers.

    Where the parent's added to its input, the fresh one begins by passing it on.
    """
    walk.changed(child, f"{type(child).__name__} instead of {type(parent).__name__}")
    return pass_on(walk, child, inputs, outputs) if carries(parent) else heard(outputs)


def added(walk: Walk, child: Any, parent: Any, inputs: Map, branch: Map) -> Map:
    """The map of a module's output, from that of its branch, with or without a shortcut."""
    mine, theirs = carries(child), carries(parent)
    if mine != theirs:
        walk.changed(child, f"{'a' if mine else 'no'} shortcut")
        return heard(branch) if mine else branch
    if not mine:
        return branch
    if (np.maximum(inputs, SILENT) != np.maximum(branch, SILENT)).any():
        walk.changed(child, "a shortcut between other channels")
        return heard(branch)
    return summed([inputs, branch])


def inherit_plain(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """A module that holds one layer."""
    return follow(walk, child.conv, parent.conv, inputs, outputs)


def inherit_bottleneck(
    walk: Walk, child: Bottleneck, parent: Bottleneck, inputs: Map, outputs: Map
) -> Map:
    """Two convolutions."""
    inner = walk.choose(child.first, width_of(child.first), rank(parent.first))
    inner = follow(walk, child.first, parent.first, inputs, inner)
    branch = follow(walk, child.second, parent.second, inner, outputs)
    return added(walk, child, parent, inputs, branch)


def inherit_narrowing(
    walk: Walk, child: Narrowing, parent: Narrowing, inputs: Map, outputs: Map
) -> Map:
    """ResNet's bottleneck; groups stay whole where they fit into the child's."""
    inner = walk.choose(child.reduce, width_of(child.reduce), rank(parent.reduce))
    if child.middle.conv.groups > 1 or parent.middle.conv.groups > 1:
        inner = grouped(walk, child.middle, parent.middle)
    inner = follow(walk, child.reduce, parent.reduce, inputs, inner)
    inner = follow(walk, child.middle, parent.middle, inner, inner)
    branch = follow(walk, child.expand, parent.expand, inner, outputs)
    return added(walk, child, parent, inputs, branch)


def grouped(walk: Walk, child: ConvNormAct, parent: ConvNormAct) -> Map:
    """The map of what goes into a grouped convolution and comes out of it.

    As many whole groups of the parent in each of the child's as fit; else a part of each.
    """
    size, old = (layer.conv.kernel[...].shape[2] for layer in (child, parent))
    groups, old_groups = child.conv.groups, parent.conv.groups
    fit = size // old
    if fit * groups < old_groups:
        walk.changed(child, f"groups of {size} channels instead of {old}")
        matters = rank(parent)
        heads, widths = (groups, old_groups), (size, old)
        chosen = chosen_heads(heads, widths, matters, ranked=walk.ranked)
        return channels_of_heads(chosen, widths, matters, ranked=walk.ranked)
    outputs = np.full((groups, size), SILENT)
    for group in range(old_groups):
        place = group % fit * old
        outputs[group // fit, place : place + old] = np.arange(old) + group * old
    return outputs.reshape(-1)


def inherit_separable(
    walk: Walk, child: DepthwisePointwise, parent: DepthwisePointwise, inputs: Map, outputs: Map
) -> Map:
    """Depthwise, then 1x1."""
    inner = follow(walk, child.depthwise, parent.depthwise, inputs, inputs)
    branch = follow(walk, child.pointwise, parent.pointwise, inner, outputs)
    return added(walk, child, parent, inputs, branch)


def merge_separable(
    walk: Walk, child: Any, parent: DepthwisePointwise, inputs: Map, outputs: Map
) -> Map:
    """One convolution from a depthwise and a 1x1 one, nearly; as drawn behind other norms."""
    first, second = parent.depthwise, parent.pointwise
    if not (isinstance(first.norm, BatchNorm) and isinstance(second.norm, BatchNorm)):
        return begin(walk, child, parent, inputs, outputs)
    walk.changed(child, "one convolution instead of two")
    pair = (first.conv, first.norm), first.activation, (second.conv, second.norm)
    return follow(walk, child, merged(walk, *pair), inputs, outputs)


def inherit_inverted(
    walk: Walk, child: InvertedResidual, parent: InvertedResidual, inputs: Map, outputs: Map
) -> Map:
    """1x1 that widens, depthwise, 1x1 back."""
    both = rank(parent.expand) * rank(parent.depthwise)
    inner = walk.choose(child.expand, width_of(child.expand), both)
    inner = follow(walk, child.expand, parent.expand, inputs, inner)
    inner = follow(walk, child.depthwise, parent.depthwise, inner, inner)
    branch = follow(walk, child.project, parent.project, inner, outputs)
    return added(walk, child, parent, inputs, branch)


def inherit_convnext(
    walk: Walk, child: ConvNeXt, parent: ConvNeXt, inputs: Map, outputs: Map
) -> Map:
    """Depthwise, two convolutions without norm, layer scale."""
    if child.enter is not None and parent.enter is not None:
        inputs = follow(walk, child.enter, parent.enter, inputs, outputs)
    elif child.enter is not None:
        walk.changed(child, "a fresh convolution before")
        inputs = heard(outputs)
    elif parent.enter is not None:
        walk.changed(child, "no convolution before")
        inputs = heard(outputs)
    inner = follow(walk, child.depthwise, parent.depthwise, inputs, inputs)
    wide = walk.choose(child.expand, width_of(child.expand), rank(parent.expand))
    silent = None if walk.relu else 0.0
    inherit_conv(walk, child.expand, parent.expand, inner, wide, new_bias=silent)
    inherit_conv(walk, child.project, parent.project, walk.renewed(wide), inputs)
    inherit_vector(walk, child, parent, "scale", inputs)
    child.scale[...] = np.where(inputs < 0, np.float32(0), np.asarray(child.scale[...]))
    return inputs


def inherit_compact(
    walk: Walk, child: CompactInverted, parent: CompactInverted, inputs: Map, outputs: Map
) -> Map:
    """Depthwise and 1x1 in turn, wide in the middle."""
    inner = follow(walk, child.first, parent.first, inputs, inputs)
    both = rank(parent.expand) * rank(parent.middle)
    wide = walk.choose(child.expand, width_of(child.expand), both)
    wide = follow(walk, child.expand, parent.expand, inner, wide)
    wide = follow(walk, child.middle, parent.middle, wide, wide)
    narrow = follow(walk, child.project, parent.project, wide, outputs)
    branch = follow(walk, child.last, parent.last, narrow, outputs)
    return added(walk, child, parent, inputs, branch)


def pass_on(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """Let a fresh module put out those of its input channels that are wanted, as they are.

    Exact where it has a shortcut; else, and under a shortcut with an activation behind, only
    with ReLU. A module for which there is no such start stays as it was drawn.
    """
    start = STARTS.get(type(module))
    return heard(outputs) if start is None else start(walk, module, inputs, outputs)


def copy_channels(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """A convolution whose centre copies channels; what it does not find is silent."""
    if module.activation != "none" and not walk.relu:
        walk.changed(module.conv, "an activation after what is passed on")
    conv = module.conv
    kernel = np.asarray(conv.kernel[...]).copy()
    middle, few, count = len(kernel) // 2, kernel.shape[2], kernel.shape[3]
    group = np.arange(count) // (count // conv.groups)
    source = inputs[group * few + np.arange(few)[:, None]]
    hit = (source == outputs) & (outputs >= 0)
    found = hit.any(0)
    kernel[..., found] = 0
    kernel[middle, middle] = np.where(found, hit, kernel[middle, middle])
    conv.kernel[...] = kernel
    norm: Any = module.norm
    norm.scale[...] = np.full(count, np.sqrt(1 + norm.epsilon), np.float32)
    kept = np.where(found, outputs, SILENT)
    renew_norm(walk, norm, kept)
    return walk.renewed(kept)


def start_rep(walk: Walk, module: RepConv, inputs: Map, outputs: Map) -> Map:
    """The input's norm, or the smaller kernel, passes on; the others are silent."""
    first, second = module.branches
    quiet = np.full(width_of(module), SILENT)
    silence_norm(walk, first.norm, quiet)
    if module.identity is None:
        return copy_channels(walk, second, inputs, outputs)
    silence_norm(walk, second.norm, quiet)
    norm: Any = module.identity
    norm.scale[...] = np.full(len(quiet), np.sqrt(1 + norm.epsilon), np.float32)
    if not walk.relu:
        walk.changed(module, "an activation after what is passed on")
    return inputs


def start_plain(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """A module that holds one layer."""
    return pass_on(walk, module.conv, inputs, outputs)


def start_pair(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """Two layers: the second silent beside a shortcut, else both pass on."""
    first, second = (
        (module.first, module.second)
        if isinstance(module, Bottleneck)
        else (module.depthwise, module.pointwise)
    )
    if module.shortcut is not None:
        silence(walk, second)
        return inputs
    inner = inputs
    if isinstance(module, Bottleneck):
        wanted = outputs[outputs >= 0][: width_of(first)]
        inner = np.concatenate([wanted, np.full(width_of(first) - len(wanted), SILENT)])
    return pass_on(walk, second, pass_on(walk, first, inputs, inner), outputs)


def start_branch(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """A branch beside a shortcut, silent; as drawn without one."""
    if module.shortcut is None:
        return heard(outputs)
    silence(walk, getattr(module, LAST[type(module)]))
    if isinstance(module, Narrowing) and not walk.relu:
        walk.changed(module, "an activation after what is passed on")
    return inputs


def start_convnext(walk: Walk, module: ConvNeXt, inputs: Map, outputs: Map) -> Map:
    """No layer scale; a convolution before passes on."""
    module.scale[...] = np.zeros(width_of(module), np.float32)
    return inputs if module.enter is None else copy_channels(walk, module.enter, inputs, outputs)


def silence(walk: Walk, module: Any) -> None:
    """Let a module of which the last is a layer put out zero."""
    if isinstance(module, ConvNormAct):
        silence_norm(walk, module.norm, np.full(width_of(module), SILENT))
    elif isinstance(module, RepConv):
        for branch in module.branches:
            silence(walk, branch)
        if module.identity is not None:
            silence_norm(walk, module.identity, np.full(width_of(module), SILENT))
    else:
        silence(walk, getattr(module, LAST[type(module)]))


STARTS: dict[type, Callable[[Walk, Any, Map, Map], Map]] = {
    ConvNormAct: copy_channels,
    RepConv: start_rep,
    **dict.fromkeys((Plain, ConvDown, SeparableDown, RepDown), start_plain),
    Bottleneck: start_pair,
    DepthwisePointwise: start_pair,
    Narrowing: start_branch,
    InvertedResidual: start_branch,
    CompactInverted: start_branch,
    ConvNeXt: start_convnext,
}

LAYERS: dict[tuple[type, type], Handler] = {
    (ConvNormAct, ConvNormAct): inherit_layer,
    (RepConv, RepConv): inherit_rep,
    (RepConv, ConvNormAct): widen_to_rep,
    (ConvNormAct, RepConv): fold_to_layer,
    (Plain, Plain): inherit_plain,
    (Bottleneck, Bottleneck): inherit_bottleneck,
    (Narrowing, Narrowing): inherit_narrowing,
    (DepthwisePointwise, DepthwisePointwise): inherit_separable,
    **{(one, DepthwisePointwise): merge_separable for one in (ConvNormAct, RepConv)},
    (InvertedResidual, InvertedResidual): inherit_inverted,
    (ConvNeXt, ConvNeXt): inherit_convnext,
    (CompactInverted, CompactInverted): inherit_compact,
}
