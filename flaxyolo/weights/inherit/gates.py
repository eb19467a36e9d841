"""Gates and attention, with the contract of `layers`."""

from typing import Any

import numpy as np

from flaxyolo.nn.attention import (
    ConvBlockAttention,
    Coordinate,
    EfficientChannel,
    SelfAttention,
    SqueezeExcite,
)
from flaxyolo.nn.context import (
    PositionedAttention,
)
from flaxyolo.weights.inherit.channels import (
    LIVE,
    SILENT,
    Map,
    channels_of_heads,
    chosen_heads,
    heard,
)
from flaxyolo.weights.inherit.layers import (
    added,
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
