"""BiFPN: projections, then runs down and up whose nodes add features of one map."""

from typing import Any

import numpy as np

from flaxyolo.nn.neck import BiFPN, BiFPNLayer, Same, WeightedFusion
from flaxyolo.weights.inherit.blocks import inherit_block
from flaxyolo.weights.inherit.channels import Map, Rank, heard, summed, unknown, within
from flaxyolo.weights.inherit.layers import copy_channels, rank, width_of
from flaxyolo.weights.inherit.nodes import Levels, inherit_fusion, inherit_upsample, start_fusion
from flaxyolo.weights.inherit.walk import Walk


def inherit_bifpn(
    walk: Walk,
    child: BiFPN,
    parent: BiFPN,
    features: Levels,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    tied: bool,
) -> Levels:
    """Projections, then the runs down and up; all features are added, so they have one map."""
    ours, theirs = levels
    width, matters = bifpn_map(child, parent, tied=tied)
    common = walk.choose(child, width, matters, tied=tied or not matters.any())
    inputs: Levels = {}
    for level, mine in zip(ours, child.project, strict=True):
        feature = features[level]
        if level not in theirs:
            inputs[level] = unknown(width)
            continue
        before = parent.project[theirs.index(level)]
        if isinstance(mine, Same):
            if not isinstance(before, Same):
                walk.changed(mine, "no projection")
            inputs[level] = within(feature, len(matters))
        elif isinstance(before, Same):
            inputs[level] = copy_channels(walk, mine, feature, common)
        else:
            inputs[level] = inherit_block(walk, mine, before, feature, common)
    pairs = zip(child.layers, parent.layers, strict=False)
    outputs = inputs
    for mine, before in pairs:
        outputs = inherit_run(walk, mine, before, outputs, common, levels)
    for mine in list(child.layers)[len(parent.layers) :]:
        walk.changed(mine, "one more run")
        outputs = start_run(walk, mine, outputs, common, ours)
    if len(child.layers) < len(parent.layers):
        walk.changed(child, "fewer runs")
    return outputs


def bifpn_map(child: BiFPN, parent: BiFPN, *, tied: bool) -> tuple[int, Rank]:
    """Width of the child, and how much the parent's channels matter at all levels together.

    Zeros where some level is not projected: its channels are the backbone's.
    """
    width = width_of(run_nodes(child.layers[0])[0])
    total = np.sum([rank(node) for node in run_nodes(parent.layers[0])], 0)
    for layer in [*child.project, *parent.project]:
        if isinstance(layer, Same) or tied:
            return width, np.zeros_like(total)
    return width, total + np.sum([rank(layer) for layer in parent.project], 0)


def run_nodes(layer: BiFPNLayer) -> list[Any]:
    """The nodes of a run."""
    if layer.alone is not None:
        return [layer.alone]
    return [node.node for node in [*layer.down, *layer.up]]


def inherit_run(
    walk: Walk,
    child: BiFPNLayer,
    parent: BiFPNLayer,
    inputs: Levels,
    common: Map,
    levels: tuple[tuple[int, ...], tuple[int, ...]],
) -> Levels:
    """One run down and up, node by node."""
    ours, theirs = levels
    if child.alone is not None or parent.alone is not None:
        if child.alone is not None and parent.alone is not None and ours == theirs:
            alone = inherit_fusion(
                walk, child.alone, parent.alone, inputs[ours[0]], wanted=common, tied=True
            )
            return {ours[0]: alone}
        walk.changed(child, "another number of levels")
        return {level: heard(common) if level in theirs else inputs[level] for level in ours}
    middle = {ours[-1]: inputs[ours[-1]]}
    for i, level in enumerate(reversed(ours[:-1])):
        if level in theirs[:-1]:
            place = theirs[::-1].index(level) - 1
            above = inherit_upsample(
                walk, child.upsample[i], parent.upsample[place], middle[level + 1]
            )
            parts = [inputs[level], above]
            middle[level] = inherit_weighted(walk, child.down[i], parent.down[place], parts, common)
        else:
            walk.changed(child.down[i], "a new node")
            middle[level] = start_weighted(walk, child.down[i], inputs[level], common)
    outputs = {ours[0]: middle[ours[0]]}
    if ours[0] in theirs[1:]:
        walk.changed(child, "no finer level")
    for i, level in enumerate(ours[1:]):
        own = [inputs[level]] if level == ours[-1] else [inputs[level], middle[level]]
        if level in theirs[1:]:
            place = theirs.index(level) - 1
            below = inherit_block(
                walk, child.downsample[i], parent.downsample[place], outputs[level - 1], common
            )
            outputs[level] = inherit_weighted(
                walk, child.up[i], parent.up[place], [*own, below], common
            )
        else:
            walk.changed(child.up[i], "a new node")
            outputs[level] = start_weighted(walk, child.up[i], own[0], common)
    return outputs


def inherit_weighted(
    walk: Walk, child: WeightedFusion, parent: WeightedFusion, parts: list[Map], common: Map
) -> Map:
    """The weights of the inputs, of which the middle one may be new or gone, and the node."""
    weights, old = (np.asarray(node.weights[...]).copy() for node in (child, parent))
    if len(weights) == len(old):
        weights = old
    else:
        walk.changed(child, "another number of inputs")
        weights[0], weights[-1] = old[0], old[-1]
    child.weights[...] = weights
    walk.took(child, parent, min(len(weights), len(old)))
    return inherit_fusion(walk, child.node, parent.node, summed(parts), wanted=common, tied=True)


def start_run(
    walk: Walk, child: BiFPNLayer, inputs: Levels, common: Map, levels: tuple[int, ...]
) -> Levels:
    """A fresh run of which every node passes its own level on."""
    if child.alone is not None:
        return {levels[0]: start_fusion(walk, child.alone, inputs[levels[0]], common)}
    for node, level in zip(child.down, reversed(levels[:-1]), strict=True):
        start_weighted(walk, node, inputs[level], common)
    outputs = {levels[0]: inputs[levels[0]]}
    for node, level in zip(child.up, levels[1:], strict=True):
        outputs[level] = start_weighted(walk, node, inputs[level], common)
    return outputs


def start_weighted(walk: Walk, child: WeightedFusion, inputs: Map, common: Map) -> Map:
    """A fresh node that listens to its own level alone at first."""
    weights = np.zeros_like(np.asarray(child.weights[...]))
    weights[0] = 1
    child.weights[...] = weights
    return start_fusion(walk, child.node, inputs, common)
