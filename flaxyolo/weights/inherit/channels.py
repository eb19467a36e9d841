"""Channel maps: which channel of a parent each channel of a child carries."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.conv_forms import padding

Map = Int[np.ndarray, " _"]
"""For every channel of a feature of the child the parent's channel it carries, or one of these."""
SILENT = -1
"""A new channel that is zero everywhere at the start; in the map of a layer's output that is still
wanted, any new one."""
LIVE = -2
"""A new channel that already says something, which nothing of the parent may listen to."""

Rank = Float[np.ndarray, " _"]
"""How much each of a parent's channels matters."""


def choose(count: int, rank: Rank, *, ranked: bool = True) -> Map:
    """The parent's channels in their order and new ones behind, or the `count` that matter most.

    Without `ranked` the first ones.
    """
    old = len(rank)
    if count >= old:
        return np.concatenate([np.arange(old), np.full(count - old, SILENT)])
    return np.sort(np.argsort(-rank, kind="stable")[:count]) if ranked else np.arange(count)


def joined(maps: list[Map], widths: list[int]) -> Map:
    """The map of concatenated features; `widths` are those of the parent's parts."""
    starts = np.cumsum([0, *widths[:-1]])
    return np.concatenate(
        [np.where(part >= 0, part + start, part) for part, start in zip(maps, starts, strict=True)]
    )


def within(channels: Map, width: int) -> Map:
    """A map as one of a feature of another width: what is beyond it carries nothing of it."""
    return np.where(channels < width, channels, LIVE)


def unknown(width: int) -> Map:
    """The map of a feature that the parent does not have."""
    return np.full(width, LIVE)


def carried(channels: Map, width: int) -> Map:
    """The map of a feature of another width with as many of the same channels as fit."""
    known = channels[channels >= 0][:width]
    return np.concatenate([known, np.full(width - len(known), SILENT)])


def summed(maps: list[Map]) -> Map:
    """The map of a sum."""
    return np.where(np.max(maps, 0) < 0, np.min(maps, 0), np.max(maps, 0))


def heard(channels: Map) -> Map:
    """A map of a fresh module's output: what is new in it is not silent."""
    return np.where(channels >= 0, channels, LIVE)


def chosen_heads(
    heads: tuple[int, int], widths: tuple[int, int], rank: Rank, *, ranked: bool
) -> Map:
    """The parent's head in each of the child's heads; `rank` is of the values, head by head.

    `heads` and `widths` of a head are the child's and the parent's.
    """
    return choose(heads[0], rank.reshape(heads[1], widths[1]).sum(1), ranked=ranked)


def channels_of_heads(chosen: Map, widths: tuple[int, int], rank: Rank, *, ranked: bool) -> Map:
    """The map of features that lie head by head; `widths` of a head are child's and parent's."""
    width, old = widths
    parts = [np.full(width, SILENT)] * len(chosen)
    for place, head in enumerate(chosen):
        if head >= 0:
            inner = choose(width, rank[head * old :][:old], ranked=ranked)
            parts[place] = np.where(inner >= 0, inner + head * old, inner)
    return np.concatenate(parts)


class Gathered(NamedTuple):
    """An array with what it has of the parent's, and how many of its numbers those are."""

    array: np.ndarray
    taken: int


def gathered(fresh: np.ndarray, old: np.ndarray, channels: Map) -> Gathered:
    """A vector over channels: the parent's numbers where the map knows them, else the fresh."""
    known = channels >= 0
    return Gathered(
        np.where(known, old[np.maximum(channels, 0)], fresh).astype(np.float32), int(known.sum())
    )


def gathered_kernel(child: Conv, parent: Conv, inputs: Map, outputs: Map) -> Gathered:
    """The child's kernel with the parent's numbers; other groups and sizes are centred in it.

    Zero where channels that the parent has were not connected, or not so far apart, and from LIVE
    channels to those of the parent; drawn where a channel is new.
    """
    fresh, old = np.asarray(child.kernel[...]), np.asarray(parent.kernel[...])
    size, _, few, count = fresh.shape
    old_size, _, old_few, old_count = old.shape
    # The input channels that each output channel sees, as columns.
    group = np.arange(count) // (count // child.groups)
    source = inputs[group * few + np.arange(few)[:, None]]
    target = np.broadcast_to(outputs, source.shape)
    row = source - target // (old_count // parent.groups) * old_few
    inside = (source >= 0) & (target >= 0) & (row >= 0) & (row < old_few)
    apart = (target >= 0) & (source != SILENT)
    shift = padding(size, child.stride) - padding(old_size, parent.stride)
    ours = slice(max(shift, 0), min(size, old_size + shift))
    theirs = slice(ours.start - shift, ours.stop - shift)
    kernel = np.where(apart, 0, fresh)
    picked = old[theirs, theirs][:, :, np.clip(row, 0, old_few - 1), np.maximum(target, 0)]
    kernel[ours, ours] = np.where(inside, picked, kernel[ours, ours])
    taps = max(ours.stop - ours.start, 0) ** 2
    return Gathered(kernel.astype(np.float32), int(inside.sum()) * taps)
