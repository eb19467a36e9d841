"""Blocks, gates, context layers, stems and transitions, with the contract of `layers`."""

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
    PositionedAttention,
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
    LIVE,
    SILENT,
    Map,
    Rank,
    channels_of_heads,
    chosen_heads,
    heard,
    joined,
    unknown,
)
from flaxyolo.weights.inherit.forms import (
    FOCUS_STRIDE,
    beside,
    halves,
    pixels_of_squares,
    squares_of_pixels,
    with_kernel,
)
from flaxyolo.weights.inherit.layers import (
    GATES,
    LAYERS,
    PASSES,
    STARTS,
    Handler,
    added,
    begin,
    carries,
    copy_channels,
    follow,
    inherit_plain,
    pass_on,
    rank,
    silence,
    width_of,
)
from flaxyolo.weights.inherit.walk import (
    Walk,
    inherit_conv,
    inherit_layer,
)

OPEN = 4.0
"""What the sigmoid of a fresh gate is given: it lets 98 % pass and has a slope."""
HARD_OPEN = 2.999
"""The same of a hard sigmoid, which is 1 from 3 on, without a slope."""


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


def open_gate(conv: Any, bias: float) -> None:
    """Let a gate's last convolution say the same number everywhere."""
    conv.kernel[...] = np.zeros_like(np.asarray(conv.kernel[...]))
    conv.bias[...] = np.full_like(np.asarray(conv.bias[...]), bias)


def start_attention(walk: Walk, child: Any, inputs: Map) -> Map:
    """A fresh attention that changes little: gates nearly open, self-attention silent."""
    if isinstance(child, SelfAttention):
        silence(walk, child)
        return inputs
    walk.changed(child, "a fresh gate")
    if isinstance(child, EfficientChannel):
        # It has no bias: all its gates are a half, which norms further on may take back.
        child.kernel[...] = np.zeros_like(np.asarray(child.kernel[...]))
    elif isinstance(child, SqueezeExcite):
        open_gate(child.expand, OPEN)
    elif isinstance(child, ConvBlockAttention):
        # Twice: the same convolution sees the mean and the maximum.
        open_gate(child.expand, OPEN / 2)
        open_gate(child.spatial, OPEN)
    elif isinstance(child, Coordinate):
        open_gate(child.rows, OPEN)
        open_gate(child.columns, OPEN)
    return inputs


def inherit_squeeze(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """The two convolutions of a gate; ReLU is between, so what is new there is as drawn."""
    inner = walk.choose(child.reduce, width_of(child.reduce), rank(parent.reduce))
    inherit_conv(walk, child.reduce, parent.reduce, inputs, inner)
    inherit_conv(walk, child.expand, parent.expand, heard(inner), inputs)
    return inputs


def inherit_cbam(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """Gates of channels, then of cells, whose mean over channels is scaled to what it was."""
    inherit_squeeze(walk, child, parent, inputs, outputs)
    same = np.arange(2)
    inherit_conv(walk, child.spatial, parent.spatial, same, np.arange(1))
    new = inputs < 0
    if new.any():
        walk.changed(child, "the maximum over more channels")
        kernel = np.asarray(child.spatial.kernel[...]).copy()
        kernel[:, :, 0] *= len(inputs) / max((~new).sum(), 1)
        child.spatial.kernel[...] = kernel
    return inputs


def inherit_eca(
    walk: Walk, child: EfficientChannel, parent: EfficientChannel, inputs: Map, outputs: Map
) -> Map:
    """The gate's kernel over neighbouring channels, centred."""
    old = np.asarray(parent.kernel[...])
    kernel = np.zeros_like(np.asarray(child.kernel[...]))
    common = min(len(old), len(kernel))
    mine, theirs = ((len(part) - common) // 2 for part in (kernel, old))
    kernel[mine : mine + common] = old[theirs : theirs + common]
    child.kernel[...] = kernel
    known = inputs[inputs >= 0]
    moved = (inputs[: len(known)] != np.arange(len(known))).any()
    if moved or common < len(old) or (inputs == LIVE).any():
        walk.changed(child, "other neighbours")
    walk.took(child, parent, common)
    return inputs


def inherit_coordinate(
    walk: Walk, child: Coordinate, parent: Coordinate, inputs: Map, outputs: Map
) -> Map:
    """Gates by row and by column."""
    inner = walk.choose(child.reduce, width_of(child.reduce), rank(parent.reduce))
    inner = inherit_layer(walk, child.reduce, parent.reduce, inputs, inner)
    inherit_conv(walk, child.rows, parent.rows, inner, inputs)
    inherit_conv(walk, child.columns, parent.columns, inner, inputs)
    return inputs


def inherit_self(
    walk: Walk, child: SelfAttention, parent: SelfAttention, inputs: Map, outputs: Map
) -> Map:
    """Self-attention in tiles: heads stay whole where they fit into the child's."""
    if child.tile is not parent.tile:
        walk.changed(child, "another tile")
    width, old = len(inputs), width_of(parent)
    heads = child.heads, parent.heads
    widths = width // child.heads, old // parent.heads
    values = inherit_heads(walk, child, parent, inputs, heads, widths, widths, by_head=False)
    return inherit_attended(walk, child, parent, inputs, values, inputs)


def inherit_positioned(
    walk: Walk, child: PositionedAttention, parent: PositionedAttention, inputs: Map, outputs: Map
) -> Map:
    """YOLOv10's attention, whose keys are narrower than its values."""
    heads = child.heads, parent.heads
    keys = child.key_width, parent.key_width
    widths = len(inputs) // child.heads, width_of(parent) // parent.heads
    values = inherit_heads(walk, child, parent, inputs, heads, keys, widths, by_head=True)
    return inherit_attended(walk, child, parent, inputs, values, outputs)


def inherit_attended(
    walk: Walk, child: Any, parent: Any, inputs: Map, values: Map, outputs: Map
) -> Map:
    """What follows the attention proper: positions of the values, and the projection."""
    inherit_layer(walk, child.position, parent.position, values, values)
    branch = inherit_layer(walk, child.project, parent.project, values, outputs)
    return added(walk, child, parent, inputs, branch)


def inherit_heads(
    walk: Walk,
    child: Any,
    parent: Any,
    inputs: Map,
    heads: tuple[int, int],
    keys: tuple[int, int],
    values: tuple[int, int],
    *,
    by_head: bool,
) -> Map:
    """Queries, keys and values in one convolution; the map of the values.

    Counts of heads, widths of keys and of values are the child's and the parent's. The
    convolution's channels are all queries, keys and values, or `by_head` those of each head.
    """
    if heads[0] < heads[1] or keys[0] < keys[1] or values[0] < values[1]:
        walk.changed(
            child, f"{heads[0]} heads of {values[0]} channels instead of {heads[1]} of {values[1]}"
        )
    sizes = [(key, key, value) for key, value in zip(keys, values, strict=True)]
    matters = split_heads(rank(parent.qkv), heads[1], sizes[1], by_head=by_head)
    query, key, value = matters
    chosen = chosen_heads(heads, values, value, ranked=walk.ranked)
    common = channels_of_heads(chosen, keys, query * key, ranked=walk.ranked)
    kept = channels_of_heads(chosen, values, value, ranked=walk.ranked)
    places = split_heads(np.arange(len(rank(parent.qkv))), heads[1], sizes[1], by_head=by_head)
    maps = [
        np.where(part >= 0, place[np.maximum(part, 0)], SILENT)
        for part, place in zip((common, common, kept), places, strict=True)
    ]
    outputs = join_heads(maps, heads[0], by_head=by_head)
    inherit_layer(walk, child.qkv, parent.qkv, inputs, outputs)
    norm: Any = child.qkv.norm
    own = split_heads(np.arange(len(outputs)), heads[0], sizes[0], by_head=by_head)
    scale, bias = (np.asarray(array[...]).copy() for array in (norm.scale, norm.bias))
    # Scores are divided by the root of the keys' width.
    for array in (scale, bias):
        array[own[0]] *= np.sqrt(keys[0] / keys[1])
    # New queries are silent; were new keys so too, neither would ever learn.
    scale[own[0]] = np.where(common < 0, 0, scale[own[0]])
    scale[own[1]] = np.where(common < 0, 1, scale[own[1]])
    norm.scale[...], norm.bias[...] = scale, bias
    return walk.renewed(kept)


def split_heads(
    channels: np.ndarray, heads: int, sizes: tuple[int, int, int], *, by_head: bool
) -> list[np.ndarray]:
    """Queries, keys and values of an array over a convolution's channels, each head by head."""
    bounds = np.cumsum(sizes)[:2]
    if not by_head:
        return np.split(channels, bounds * heads)
    return [part.reshape(-1) for part in np.split(channels.reshape(heads, -1), bounds, axis=1)]


def join_heads(parts: list[np.ndarray], heads: int, *, by_head: bool) -> np.ndarray:
    """The inverse of `split_heads`."""
    if not by_head:
        return np.concatenate(parts)
    return np.concatenate([part.reshape(heads, -1) for part in parts], axis=1).reshape(-1)


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


def inherit_pointwise(
    walk: Walk, child: PointwiseDepthwise, parent: PointwiseDepthwise, inputs: Map, outputs: Map
) -> Map:
    """1x1, then depthwise with the stride."""
    inner = inherit_layer(walk, child.pointwise, parent.pointwise, inputs, outputs)
    return inherit_layer(walk, child.depthwise, parent.depthwise, inner, outputs)


def inherit_pool_down(
    walk: Walk, child: PoolDown, parent: PoolDown, inputs: Map, outputs: Map
) -> Map:
    """The convolution behind the pool."""
    if child.stride != parent.stride:
        walk.changed(child, "another stride")
    return inherit_layer(walk, child.conv, parent.conv, inputs, outputs)


def inherit_patch(
    walk: Walk, child: PatchDown, parent: PatchDown, inputs: Map, outputs: Map
) -> Map:
    """The convolution of every square's cells."""
    if child.stride != parent.stride:
        walk.changed(child, "another stride")
        return heard(outputs)
    cells = child.stride**2
    old = parent.conv.conv.kernel[...].shape[2] // cells
    inputs = joined([inputs] * cells, [old] * cells)
    return inherit_layer(walk, child.conv, parent.conv, inputs, outputs)


def inherit_stem(walk: Walk, child: Any, parent: Any, inputs: Map, outputs: Map) -> Map:
    """A stem of one layer; one of another stride is fresh."""
    if (strides(child.conv), strides(parent.conv)) in {(2, 4), (4, 2)}:
        walk.changed(child, "another stride")
        return heard(outputs)
    return inherit_plain(walk, child, parent, inputs, outputs)


def strides(layer: Any) -> int:
    """The stride of a layer or of its parallel branches."""
    return (layer.branches[0] if hasattr(layer, "branches") else layer).conv.stride


def inherit_focus(
    walk: Walk, child: FocusStem, parent: FocusStem, inputs: Map, outputs: Map
) -> Map:
    """The convolution of every square's pixels."""
    return inherit_layer(walk, child.conv, parent.conv, np.arange(12), outputs)


def focus_to_stem(walk: Walk, child: Any, parent: FocusStem, inputs: Map, outputs: Map) -> Map:
    """One convolution of pixels from that of their squares, which is the same with a 6x6 kernel."""
    if strides(child.conv) != FOCUS_STRIDE:
        walk.changed(child, "another stride")
        return heard(outputs)
    conv = parent.conv.conv
    kernel = pixels_of_squares(np.asarray(conv.kernel[...]))
    before = with_kernel(walk, conv, parent.conv.norm, kernel, FOCUS_STRIDE)
    return follow(walk, child.conv, before, inputs, outputs)


def stem_to_focus(walk: Walk, child: FocusStem, parent: ConvStem, inputs: Map, outputs: Map) -> Map:
    """The convolution of squares from one of pixels, where its kernel has room in theirs."""
    conv, size = parent.conv.conv, len(child.conv.conv.kernel[...])
    if conv.stride != FOCUS_STRIDE or len(conv.kernel[...]) > 2 * size:
        walk.changed(child, "another stride")
        return heard(outputs)
    kernel = squares_of_pixels(np.asarray(conv.kernel[...]), size)
    before = with_kernel(walk, conv, parent.conv.norm, kernel, 1)
    return inherit_layer(walk, child.conv, before, np.arange(12), outputs)


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
