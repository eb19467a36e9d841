"""Stages and necks: matched by the stride that they produce, not by their number."""

from typing import Any

import numpy as np

from flaxyolo.nn.backbone import Backbone
from flaxyolo.nn.neck import FPN, PAN, BiFPN, Fusion
from flaxyolo.spec import LEVEL_STRIDES
from flaxyolo.weights.inherit.bifpn import inherit_bifpn, run_nodes
from flaxyolo.weights.inherit.blocks import inherit_block, inherit_chain, start_any
from flaxyolo.weights.inherit.channels import Map, carried, heard, joined, unknown, within
from flaxyolo.weights.inherit.layers import copy_channels, rank, width_of
from flaxyolo.weights.inherit.nodes import Levels, inherit_fusion, inherit_upsample, start_fusion
from flaxyolo.weights.inherit.walk import Walk

Widths = dict[int, int]
"""The parent's width at each level."""


def inherit_backbone(walk: Walk, child: Backbone, parent: Backbone, *, tied: bool) -> Levels:
    """Stem and stages; the maps of the C levels."""
    first = walk.choose(child.stem, width_of(child.stem), rank(parent.stem))
    inputs = inherit_block(walk, child.stem, parent.stem, np.arange(3), first)
    free = {
        stride: [number for number, other in enumerate(parent.strides) if other == stride]
        for stride in parent.strides
    }
    levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
    at, features = -1, {}
    for stage, stride in zip(child.stages, child.strides, strict=True):
        rest = free.get(stride, [])
        if rest:
            number = rest.pop(0)
            before = parent.stages[number - 1].block if number else parent.stem
            if at != number - 1:
                walk.changed(stage, "other stages before")
                inputs = within(inputs, width_of(before))
            inputs = inherit_stage(walk, stage, parent.stages[number], inputs, tied=tied)
            at = number
        elif stride in parent.strides:
            walk.changed(stage, "one more stage")
            for module in (stage.downsample, stage.block):
                wanted = carried(inputs, width_of(module))
                inputs = start_any(walk, module, inputs, wanted)
        else:
            walk.changed(stage, "a new level")
            inputs = unknown(width_of(stage.block))
        if stride in levels:
            features[levels[stride]] = inputs
    for stride, rest in free.items():
        if rest and stride in levels and levels[stride] in features:
            walk.changed(child, f"fewer stages of stride {stride}")
            last = width_of(parent.stages[rest[-1]].block)
            features[levels[stride]] = within(features[levels[stride]], last)
    return features


def inherit_stage(walk: Walk, child: Any, parent: Any, inputs: Map, *, tied: bool) -> Map:
    """Transition, context, block, attention, context."""
    mine, theirs = (
        [stage.downsample, stage.before, stage.block, stage.attention, stage.after]
        for stage in (child, parent)
    )
    outputs = None
    if tied:
        outputs = walk.choose(child, width_of(child.block), rank(parent.block), tied=True)
    return inherit_chain(walk, mine, theirs, inputs, outputs)


def inherit_neck(
    walk: Walk,
    child: Any,
    parent: Any,
    features: Levels,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    old: tuple[Widths, Widths],
    *,
    tied: bool,
) -> Levels:
    """The maps of the P levels before the last convolutions.

    `levels` are the child's and the parent's, `old` the parent's widths of its C levels and of
    what its neck puts out before its last convolutions.
    """
    features = {level: features[level] for level in levels[0]}
    if isinstance(child, BiFPN) and isinstance(parent, BiFPN):
        return inherit_bifpn(walk, child, parent, features, levels, tied=tied)
    if isinstance(child, BiFPN) or isinstance(parent, BiFPN):
        walk.changed(child, f"{type(child).__name__} instead of {type(parent).__name__}")
        return {
            level: heard(carried(np.arange(old[1].get(level, 0)), width))
            for level, width in zip(levels[0], neck_widths(child, features), strict=True)
        }
    return inherit_pan(walk, child, parent, features, levels, old, tied=tied)


def neck_widths(child: Any, features: Levels) -> list[int]:
    """Widths at which a neck puts out its levels, finest first."""
    if isinstance(child, BiFPN):
        return [width_of(run_nodes(child.layers[0])[0])] * len(features)
    fpn = child.fpn if isinstance(child, PAN) else child
    top = len(features[max(features)]) if fpn.project is None else width_of(fpn.project)
    widths = [*reversed([width_of(node) for node in fpn.down]), top]
    if isinstance(child, PAN):
        widths[1:] = [width_of(node) for node in child.up]
    return widths


def inherit_pan(
    walk: Walk,
    child: Any,
    parent: Any,
    features: Levels,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    old: tuple[Widths, Widths],
    *,
    tied: bool,
) -> Levels:
    """FPN and PAN from one another: the way down is the same, and then the way up or none."""
    mine, theirs = (neck.fpn if isinstance(neck, PAN) else neck for neck in (child, parent))
    own_up, their_up = (neck if isinstance(neck, PAN) else None for neck in (child, parent))
    outputs, taken = inherit_top_down(walk, mine, theirs, features, levels, old[0], tied=tied)
    if own_up is None:
        if their_up is not None and len(levels[1]) > 1:
            walk.changed(child, "no way up")
        return {level: within(outputs[level], old[1].get(level, 0)) for level in levels[0]}
    finest = levels[0][0]
    if finest in levels[1][1:] and their_up is not None:
        walk.changed(child, "no finer level")
    results = {finest: within(outputs[finest], old[1].get(finest, 0))}
    for i, level in enumerate(levels[0][1:]):
        fuse, downsample, below = own_up.up[i], own_up.downsample[i], results[level - 1]
        place = levels[1].index(level) - 1 if level in levels[1] else -1
        if their_up is not None and place >= 0:
            theirs_down, theirs_fuse = their_up.downsample[place], their_up.up[place]
            wanted = walk.choose(downsample, width_of(downsample), rank(theirs_down))
            below = inherit_block(walk, downsample, theirs_down, below, wanted)
            own = taken_width(their_up, levels[1], level, old)
            inputs = joined([below, within(taken[level], own)], [width_of(theirs_down), own])
            results[level] = inherit_fusion(walk, fuse, theirs_fuse, inputs, wanted=None, tied=tied)
            continue
        walk.changed(fuse, "a new node")
        if level not in levels[1]:
            results[level] = unknown(width_of(fuse))
            continue
        inputs = np.concatenate([unknown(width_of(downsample)), taken[level]])
        wanted = within(carried(taken[level], width_of(fuse)), old[1][level])
        results[level] = start_fusion(walk, fuse, inputs, wanted)
    return results


def taken_width(parent: PAN, levels: tuple[int, ...], level: int, old: Any) -> int:
    """Width of what the parent's way up takes of a level."""
    fpn = parent.fpn
    place = levels[::-1].index(level)
    if fpn.reduce is not None and level != levels[0]:
        return width_of(fpn.reduce[place])
    if place:
        return width_of(fpn.down[place - 1])
    return old[0][level] if fpn.project is None else width_of(fpn.project)


def inherit_top_down(
    walk: Walk,
    child: FPN,
    parent: FPN,
    features: Levels,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    old: Widths,
    *,
    tied: bool,
) -> tuple[Levels, Levels]:
    """The maps of the P levels, and of what a way up takes of each."""
    ours, theirs = levels
    top = ours[-1]
    outputs: Levels = {top: inherit_top(walk, child, parent, features[top], levels, old, tied=tied)}
    taken: Levels = {}
    for i, level in enumerate(reversed(ours[:-1])):
        above, fuse = outputs[level + 1], child.down[i]
        known = level in theirs[:-1]
        place = theirs[::-1].index(level) - 1 if known else 0
        if child.reduce is not None:
            reduce = child.reduce[i]
            if known and parent.reduce is not None:
                before = parent.reduce[place]
                wanted = walk.choose(reduce, width_of(reduce), rank(before))
                above = inherit_block(walk, reduce, before, above, wanted)
            else:
                walk.changed(reduce, "a new convolution")
                above = copy_channels(walk, reduce, above, carried(above, width_of(reduce)))
        elif known and parent.reduce is not None:
            walk.changed(fuse, "no convolution before up-sampling")
            above = within(above, width_of(parent.reduce[place]))
        taken[level + 1] = above
        if known:
            before = parent.down[place]
            width = upper_width(parent, theirs, level, old)
            above = within(above, width)
            above = inherit_upsample(walk, child.upsample[i], parent.upsample[place], above)
            own = within(features[level], old[level])
            inputs = joined([above, own], [width, old[level]])
            outputs[level] = inherit_fusion(walk, fuse, before, inputs, wanted=None, tied=tied)
            continue
        walk.changed(fuse, "a new node")
        if level not in theirs:
            outputs[level] = unknown(width_of(fuse))
            continue
        # It was the parent's coarsest level, which passes through.
        inputs = np.concatenate([unknown(len(above)), features[level]])
        outputs[level] = start_fusion(walk, fuse, inputs, carried(features[level], width_of(fuse)))
    return outputs, {**taken, ours[0]: outputs[ours[0]]}


def upper_width(parent: FPN, levels: tuple[int, ...], level: int, old: Widths) -> int:
    """Width of what the parent's node at a level takes from the next coarser one."""
    place = levels[::-1].index(level) - 1
    if parent.reduce is not None:
        return width_of(parent.reduce[place])
    if place:
        return width_of(parent.down[place - 1])
    return old[level + 1] if parent.project is None else width_of(parent.project)


def inherit_top(
    walk: Walk,
    child: FPN,
    parent: FPN,
    feature: Map,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    old: Widths,
    *,
    tied: bool,
) -> Map:
    """The coarsest level: through a projection, a node where it is the only one, or as it is."""
    top = levels[0][-1]
    mine, theirs = child.project, parent.project
    if top not in levels[1]:
        return unknown(len(feature) if mine is None else width_of(mine))
    if top != levels[1][-1]:
        walk.changed(child, "no coarser level")
        width = width_of(parent.down[levels[1][::-1].index(top) - 1])
        own = feature if mine is None else carried(feature, width_of(mine))
        return heard(within(own, width))
    if mine is None:
        if theirs is None:
            return feature
        walk.changed(child, "no projection")
        return within(feature, width_of(theirs))
    if isinstance(mine, Fusion) and isinstance(theirs, Fusion):
        return inherit_fusion(walk, mine, theirs, feature, wanted=None, tied=tied)
    if isinstance(mine, Fusion) or isinstance(theirs, Fusion):
        walk.changed(child, "another number of levels")
        width = old[top] if theirs is None else width_of(theirs)
        wanted = within(carried(feature, width_of(mine)), width)
        if isinstance(mine, Fusion):
            return start_fusion(walk, mine, feature, wanted)
        return copy_channels(walk, mine, feature, wanted)
    if theirs is None:
        walk.changed(mine, "a new projection")
        return copy_channels(walk, mine, feature, carried(feature, width_of(mine)))
    wanted = walk.choose(mine, width_of(mine), rank(theirs), tied=tied)
    return inherit_block(walk, mine, theirs, feature, wanted)


def inherit_out(
    walk: Walk,
    child: Any,
    parent: Any,
    outputs: Levels,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    tied: bool,
) -> Levels:
    """The last convolution of every level, where the spec has it."""
    if child.out is None:
        if parent.out is not None:
            walk.changed(child, "no last convolutions")
            width = width_of(parent.out[0])
            return {level: within(channels, width) for level, channels in outputs.items()}
        return outputs
    results: Levels = {}
    for layer, level in zip(child.out, levels[0], strict=True):
        if level not in levels[1]:
            results[level] = unknown(width_of(layer))
        elif parent.out is None:
            walk.changed(layer, "a new convolution")
            wanted = carried(outputs[level], width_of(layer))
            results[level] = copy_channels(walk, layer, outputs[level], wanted)
        else:
            before = parent.out[levels[1].index(level)]
            matters = np.sum([rank(other) for other in parent.out], 0) if tied else rank(before)
            wanted = walk.choose(layer, width_of(layer), matters)
            results[level] = inherit_block(walk, layer, before, outputs[level], wanted)
    return results
