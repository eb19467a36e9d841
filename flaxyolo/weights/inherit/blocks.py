"""Blocks and context layers, and which module inherits how, with the contract of `layers`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxyolo.nn.attention import (
    ConvBlockAttention,
    Coordinate,
    EfficientChannel,
    SelfAttention,
    SqueezeExcite,
)
from flaxyolo.nn.blocks import Repeat
from flaxyolo.nn.context import (
    CSPSPPF,
    SPPF,
    PartialAttention,
    PooledAttention,
)
from flaxyolo.nn.csp import C3, C2f
from flaxyolo.nn.downsample import (
    ConvDown,
    PatchDown,
    PointwiseDepthwise,
    PoolDown,
    RepDown,
    SeparableDown,
)
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.nn.stem import ConvStem, DeepStem, FocusStem, RepStem
from flaxyolo.weights.inherit.channels import (
    SILENT,
    Map,
    Rank,
    joined,
    unknown,
)
from flaxyolo.weights.inherit.forms import (
    beside,
    halves,
)
from flaxyolo.weights.inherit.gates import (
    HARD_OPEN,
    inherit_cbam,
    inherit_coordinate,
    inherit_eca,
    inherit_positioned,
    inherit_self,
    inherit_squeeze,
    open_gate,
    start_attention,
)
from flaxyolo.weights.inherit.layers import (
    GATES,
    LAYERS,
    PASSES,
    STARTS,
    Handler,
    begin,
    carries,
    copy_channels,
    inherit_plain,
    pass_on,
    rank,
    silence,
    width_of,
)
from flaxyolo.weights.inherit.transitions import (
    focus_to_stem,
    inherit_focus,
    inherit_patch,
    inherit_pointwise,
    inherit_pool_down,
    inherit_stem,
    stem_to_focus,
)
from flaxyolo.weights.inherit.walk import (
    Walk,
    inherit_conv,
    inherit_layer,
)


def inherit_block(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """Inherit a module from one of its kind; a fresh one in the place of another."""
    if isinstance(child, PASSES):
        if not isinstance(parent, PASSES):
            walk.changed(child, f"no {type(parent).__name__}")
        return inputs
    handler = HANDLERS.get((type(child), type(parent)))
    if handler is not None:
        return handler(walk, child, parent, inputs, outputs)
    if isinstance(child, (*GATES, SelfAttention)):
        return start_attention(walk, child, inputs)
    if isinstance(child, C2f | C3) and carries(parent):
        walk.changed(child, f"{type(child).__name__} instead of {type(parent).__name__}")
        return start_csp(walk, child, inputs, outputs)
    if isinstance(child, Repeat) and carries(parent):
        walk.changed(child, f"Repeat instead of {type(parent).__name__}")
        return start_chain(walk, list(child.layers), inputs, outputs)
    return begin(walk, child, parent, inputs, outputs)


def inherit_chain(
    walk: Walk,
    children: Sequence[Any],
    parents: Sequence[Any],
    inputs: Map,
    outputs: Map | None = None,
) -> Map:
    """Modules one after another; `outputs` is wanted of the last that changes the channels.

    Those that only add to their input keep its channels, which are ranked by all of them together.
    New modules at the end pass on.
    """
    pairs = list(zip(children, parents, strict=False))
    both = [carries(child) and carries(parent) for child, parent in pairs]
    for number, (child, parent) in enumerate(pairs):
        if both[number]:
            wanted = inputs
        elif outputs is not None and all(both[number + 1 :]):
            wanted = outputs
        elif isinstance(parent, PASSES) or isinstance(child, PASSES):
            wanted = inputs
        else:
            matters = rank(parent)
            for after in range(number + 1, len(pairs)):
                if not both[after]:
                    break
                if not isinstance(parents[after], (*GATES, *PASSES)):
                    matters = matters + rank(parents[after])
            wanted = walk.choose(child, width_of(child), matters)
        inputs = inherit_block(walk, child, parent, inputs, wanted)
    if len(children) < len(parents):
        walk.changed(children[-1], f"{len(children)} layers of {len(parents)}")
    return start_chain(walk, children[len(pairs) :], inputs, inputs)


def start_chain(walk: Walk, layers: Sequence[Any], inputs: Map, outputs: Map) -> Map:
    """Fresh layers one after another that pass on."""
    for layer in layers:
        inputs = start_any(walk, layer, inputs, outputs)
    return inputs


def start_any(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """A fresh layer or block that passes on, or as drawn where it cannot."""
    if isinstance(module, C2f | C3):
        return start_csp(walk, module, inputs, outputs)
    if isinstance(module, Repeat):
        return start_chain(walk, list(module.layers), inputs, outputs)
    if type(module) not in STARTS:
        walk.changed(module, "fresh")
    return pass_on(walk, module, inputs, outputs)


def start_csp(walk: Walk, module: Any, inputs: Map, outputs: Map) -> Map:
    """A fresh C2f or C3 that leads the wanted channels through its parts that change nothing."""
    two = isinstance(module, C2f)
    inner = width_of(module.split) // 2 if two else width_of(module.main)
    wanted = outputs[outputs >= 0][: 2 * inner]
    wanted = np.concatenate([wanted, np.full(2 * inner - len(wanted), SILENT)])
    if two:
        parts = [copy_channels(walk, module.split, inputs, wanted)]
        parts += [unknown(inner)] * len(module.layers)
    else:
        first, second = np.split(wanted, 2)
        inside = copy_channels(walk, module.main, inputs, first)
        parts = [
            start_chain(walk, list(module.layers), inside, inside),
            copy_channels(walk, module.bypass, inputs, second),
        ]
        if module.gate is not None:
            open_gate(module.gate.gate, HARD_OPEN)
    return copy_channels(walk, module.merge, np.concatenate(parts), outputs)


def inherit_repeat(walk: Walk, child: Repeat, parent: Repeat, inputs: Map, outputs: Map) -> Map:
    """Layers of one kind."""
    return inherit_chain(walk, list(child.layers), list(parent.layers), inputs, outputs)


def inherit_c2f(walk: Walk, child: C2f, parent: C2f, inputs: Map, outputs: Map) -> Map:
    """Split, layers, and the merge of everything; nothing listens yet to new layers."""
    inner, old = width_of(child.split) // 2, width_of(parent.split) // 2
    past, through = np.split(rank(parent.split), 2)
    parts = inherit_split(walk, child, parent, parent.split, (past, through), inputs)
    if len(child.layers) < len(parent.layers):
        walk.changed(child, f"{len(child.layers)} layers of {len(parent.layers)}")
    parts += [unknown(inner)] * (len(child.layers) + 2 - len(parts))
    merged = joined(parts, [old] * len(parts))
    return inherit_layer(walk, child.merge, parent.merge, merged, outputs)


def inherit_split(
    walk: Walk, child: C2f, parent: C2f | C3, split: Any, matters: tuple[Rank, Rank], inputs: Map
) -> list[Map]:
    """The split and the layers that both have; the maps of its halves and of every layer.

    `matters` is of the halves of the parent's `split`.
    """
    inner, (past, through) = width_of(child.split) // 2, matters
    pairs = list(zip(child.layers, parent.layers, strict=False))
    for layer, before in pairs:
        if not (carries(layer) and carries(before)):
            break
        through = through + rank(before)
    parts = [walk.choose(child.split, inner, half) for half in (past, through)]
    old = [len(past), len(through)]
    inherit_layer(walk, child.split, split, inputs, joined(parts, old))
    parts = [walk.renewed(part) for part in parts]
    for layer, before in pairs:
        both = carries(layer) and carries(before)
        wanted = parts[-1] if both else walk.choose(layer, inner, rank(before))
        parts.append(inherit_block(walk, layer, before, parts[-1], wanted))
    return parts


def c3_to_c2f(walk: Walk, child: C2f, parent: C3, inputs: Map, outputs: Map) -> Map:
    """Bypass and main path as the halves of the split; nothing listens to what is between."""
    if not isinstance(parent.main.norm, BatchNorm):
        return begin(walk, child, parent, inputs, outputs)
    inner, old = width_of(child.split) // 2, width_of(parent.main)
    split = beside(walk, parent.bypass, parent.main)
    matters = rank(parent.bypass), rank(parent.main)
    past, *layers = inherit_split(walk, child, parent, split, matters, inputs)
    if len(child.layers) < len(parent.layers):
        walk.changed(child, f"{len(child.layers)} layers of {len(parent.layers)}")
    if parent.gate is not None:
        walk.changed(child, "no gate")
    past = np.where(past >= 0, past + old, past)
    between = [unknown(inner)] * (len(layers) - 1)
    new = [unknown(inner)] * (len(child.layers) + 1 - len(layers))
    merged = np.concatenate([past, *between, layers[-1], *new])
    return inherit_layer(walk, child.merge, parent.merge, merged, outputs)


def c2f_to_c3(walk: Walk, child: C3, parent: C2f, inputs: Map, outputs: Map) -> Map:
    """The halves of the split as bypass and main path, whose last layer alone is listened to."""
    if not isinstance(parent.split.norm, BatchNorm):
        return begin(walk, child, parent, inputs, outputs)
    walk.changed(child, "C3 instead of C2f")
    past, through = halves(walk, parent.split)
    old, count = width_of(past), min(len(child.layers), len(parent.layers))
    layers = [through, *parent.layers]
    main = inherit_chain(walk, [child.main, *child.layers], layers, inputs)
    bypass = walk.choose(child.bypass, width_of(child.bypass), rank(past))
    bypass = inherit_layer(walk, child.bypass, past, inputs, bypass)
    if child.gate is not None:
        open_gate(child.gate.gate, HARD_OPEN)
    main = np.where(main >= 0, main + (1 + count) * old, main)
    return inherit_layer(walk, child.merge, parent.merge, np.concatenate([main, bypass]), outputs)


def inherit_c3(walk: Walk, child: C3, parent: C3, inputs: Map, outputs: Map) -> Map:
    """Layers on one half, a bypass beside, a gate, the merge."""
    old = width_of(parent.main)
    main = inherit_chain(walk, [child.main, *child.layers], [parent.main, *parent.layers], inputs)
    past = walk.choose(child.bypass, width_of(child.bypass), rank(parent.bypass))
    past = inherit_layer(walk, child.bypass, parent.bypass, inputs, past)
    both = joined([main, past], [old, old])
    if child.gate is not None and parent.gate is not None:
        inherit_conv(walk, child.gate.gate, parent.gate.gate, both, both)
    elif child.gate is not None:
        open_gate(child.gate.gate, HARD_OPEN)
        walk.changed(child.gate, "a fresh gate")
    elif parent.gate is not None:
        walk.changed(child, "no gate")
    return inherit_layer(walk, child.merge, parent.merge, both, outputs)


def inherit_pool(walk: Walk, child: SPPF, parent: SPPF, inputs: Map, outputs: Map) -> Map:
    """Maxima of wider and wider windows between two convolutions."""
    old = width_of(parent.reduce)
    inner = walk.choose(child.reduce, width_of(child.reduce), rank(parent.reduce))
    inner = inherit_layer(walk, child.reduce, parent.reduce, inputs, inner)
    return inherit_layer(walk, child.merge, parent.merge, joined([inner] * 4, [old] * 4), outputs)


def inherit_csp_pool(walk: Walk, child: CSPSPPF, parent: CSPSPPF, inputs: Map, outputs: Map) -> Map:
    """Pooling between convolutions on one half, a bypass beside."""
    old = width_of(parent.bypass)
    inner = inherit_chain(walk, list(child.before), list(parent.before), inputs)
    first, second = child.after
    maps = joined([inner] * 4, [old] * 4)
    inner = inherit_chain(walk, [first, second], list(parent.after), maps)
    past = walk.choose(child.bypass, width_of(child.bypass), rank(parent.bypass))
    past = inherit_layer(walk, child.bypass, parent.bypass, inputs, past)
    merged = joined([inner, past], [old, old])
    return inherit_layer(walk, child.merge, parent.merge, merged, outputs)


def inherit_partial(
    walk: Walk, child: PartialAttention, parent: PartialAttention, inputs: Map, outputs: Map
) -> Map:
    """Attention and a feed-forward part on half the channels."""
    inner, old = width_of(child.split) // 2, width_of(parent.split) // 2
    past, through = np.split(rank(parent.split), 2)
    through = through + rank(parent.attention) + rank(parent.narrow)
    kept, mixed = (walk.choose(child.split, inner, matters) for matters in (past, through))
    inherit_layer(walk, child.split, parent.split, inputs, joined([kept, mixed], [old, old]))
    kept, mixed = walk.renewed(kept), walk.renewed(mixed)
    inherit_positioned(walk, child.attention, parent.attention, mixed, mixed)
    wide = walk.choose(child.widen, width_of(child.widen), rank(parent.widen))
    wide = inherit_layer(walk, child.widen, parent.widen, mixed, wide)
    inherit_layer(walk, child.narrow, parent.narrow, wide, mixed)
    merged = joined([kept, mixed], [old, old])
    return inherit_layer(walk, child.merge, parent.merge, merged, outputs)


def inherit_pooled(
    walk: Walk, child: PooledAttention, parent: PooledAttention, inputs: Map, outputs: Map
) -> Map:
    """SPPF, then partial self-attention."""
    inner = walk.choose(child.pool, width_of(child.pool), rank(parent.pool))
    inner = inherit_pool(walk, child.pool, parent.pool, inputs, inner)
    return inherit_partial(walk, child.attend, parent.attend, inner, outputs)


def attend_to_pool(
    walk: Walk, child: PooledAttention, parent: SPPF, inputs: Map, outputs: Map
) -> Map:
    """SPPF with a fresh self-attention behind it, which passes on what it can."""
    pooled = inherit_pool(walk, child.pool, parent, inputs, outputs)
    walk.changed(child.attend, "a fresh self-attention")
    return start_partial(walk, child.attend, pooled)


def start_partial(walk: Walk, module: PartialAttention, inputs: Map) -> Map:
    """Silent attention and feed-forward between convolutions that copy."""
    inner = width_of(module.split)
    wanted = np.concatenate([inputs[:inner], np.full(max(inner - len(inputs), 0), SILENT)])
    inside = copy_channels(walk, module.split, inputs, wanted)
    silence(walk, module.attention)
    silence(walk, module.narrow)
    return copy_channels(walk, module.merge, inside, inputs)


def pool_alone(walk: Walk, child: SPPF, parent: PooledAttention, inputs: Map, outputs: Map) -> Map:
    """The SPPF of one with a self-attention behind it."""
    walk.changed(child, "no self-attention")
    return inherit_pool(walk, child, parent.pool, inputs, outputs)


def inherit_deep(walk: Walk, child: DeepStem, parent: DeepStem, inputs: Map, outputs: Map) -> Map:
    """Three convolutions."""
    old = [parent.first, parent.second, parent.third]
    return inherit_chain(walk, [child.first, child.second, child.third], old, inputs, outputs)


HANDLERS: dict[tuple[type, type], Handler] = {
    **LAYERS,
    (Repeat, Repeat): inherit_repeat,
    (C2f, C2f): inherit_c2f,
    (C3, C3): inherit_c3,
    (C2f, C3): c3_to_c2f,
    (C3, C2f): c2f_to_c3,
    (SqueezeExcite, SqueezeExcite): inherit_squeeze,
    (ConvBlockAttention, ConvBlockAttention): inherit_cbam,
    (EfficientChannel, EfficientChannel): inherit_eca,
    (Coordinate, Coordinate): inherit_coordinate,
    (SelfAttention, SelfAttention): inherit_self,
    (PartialAttention, PartialAttention): inherit_partial,
    (SPPF, SPPF): inherit_pool,
    (CSPSPPF, CSPSPPF): inherit_csp_pool,
    (PooledAttention, PooledAttention): inherit_pooled,
    (PooledAttention, SPPF): attend_to_pool,
    (SPPF, PooledAttention): pool_alone,
    **{(one, other): inherit_plain for one in (ConvDown, RepDown) for other in (ConvDown, RepDown)},
    **{(one, SeparableDown): inherit_plain for one in (ConvDown, RepDown, SeparableDown)},
    (PointwiseDepthwise, PointwiseDepthwise): inherit_pointwise,
    (PoolDown, PoolDown): inherit_pool_down,
    (PatchDown, PatchDown): inherit_patch,
    **{(one, other): inherit_stem for one in (ConvStem, RepStem) for other in (ConvStem, RepStem)},
    (FocusStem, FocusStem): inherit_focus,
    **{(one, FocusStem): focus_to_stem for one in (ConvStem, RepStem)},
    (FocusStem, ConvStem): stem_to_focus,
    (DeepStem, DeepStem): inherit_deep,
}
