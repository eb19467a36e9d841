"""The head: stems, attention and branches, level by level."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flaxyolo.nn.conv import Conv
from flaxyolo.nn.head import Branch, Head, SharedBranch
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.spec import HeadSpec
from flaxyolo.weights.inherit.blocks import inherit_block, inherit_chain
from flaxyolo.weights.inherit.channels import (
    SILENT,
    Map,
    carried,
    heard,
    unknown,
    within,
)
from flaxyolo.weights.inherit.forms import merged
from flaxyolo.weights.inherit.layers import copy_channels, rank, width_of
from flaxyolo.weights.inherit.walk import Walk, inherit_conv, inherit_norm, scales

FAR_BIN = -16.0
"""Logit of a new bin of a box's distances: its share is a ten-millionth."""


class Step(NamedTuple):
    """A convolution of a branch with the norm that one level has."""

    conv: Conv
    norm: Any
    activation: str

    @property
    def depthwise(self) -> bool:
        """Whether it leaves every channel to itself."""
        return self.conv.groups > 1


class Outputs(NamedTuple):
    """What branches say: the map of their outputs, None where they say something else."""

    channels: Map | None
    new_bias: float | None
    """Of new outputs with no kernel, None where they stay as drawn."""


def box_outputs(child: HeadSpec, parent: HeadSpec) -> Outputs:
    """The bins of the four sides; of more than the parent has, the new ones are far away."""
    if child.box != parent.box:
        return Outputs(None, None)
    bins = np.arange(child.bins)
    bins = np.where(bins < parent.bins, bins, SILENT)
    sides = np.arange(4)[:, None] * parent.bins
    return Outputs(np.where(bins >= 0, bins + sides, SILENT).reshape(-1), FAR_BIN)


def inherit_head(
    walk: Walk,
    child: Head,
    parent: Head,
    features: dict[int, Map],
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    classes: Map,
) -> None:
    """Levels are those of the child and of the parent, `classes` the map of the class scores."""
    inputs = inherit_entry(walk, child, parent, features, levels)
    box = box_outputs(child.spec.head, parent.spec.head)
    if box.channels is None:
        walk.changed(child, "boxes of another form")
    elif child.spec.head.bins < parent.spec.head.bins:
        walk.changed(child, "fewer bins")
    if len(classes) != parent.spec.num_classes or (classes != np.arange(len(classes))).any():
        walk.changed(child, "other classes")
    pairs: list[tuple[Any, Any]] = [(child, parent)]
    if child.one_to_one is not None:
        # A parent without them: they begin as the others.
        pairs.append((child.one_to_one, parent.one_to_one or parent))
    for mine, theirs in pairs:
        inherit_branches(walk, mine.box, theirs.box, inputs, levels, box)
        inherit_branches(walk, mine.cls, theirs.cls, inputs, levels, Outputs(classes, None))


def inherit_entry(
    walk: Walk,
    child: Head,
    parent: Head,
    features: dict[int, Map],
    levels: tuple[tuple[int, ...], tuple[int, ...]],
) -> dict[int, Map]:
    """Stem and attention of each level; the maps of what the branches receive."""
    tied = isinstance(child.box, SharedBranch)
    inputs = {}
    for i, level in enumerate(levels[0]):
        x = features[level]
        stem = None if child.stem is None else child.stem[i]
        if level not in levels[1]:
            inputs[level] = x if stem is None else unknown(width_of(stem))
            continue
        place = levels[1].index(level)
        if stem is not None and parent.stem is not None:
            before = parent.stem[place]
            matters = np.sum([rank(other) for other in parent.stem], 0) if tied else rank(before)
            x = inherit_block(walk, stem, before, x, walk.choose(stem, width_of(stem), matters))
        elif stem is not None:
            walk.changed(stem, "a new convolution")
            x = copy_channels(walk, stem, x, carried(x, width_of(stem)))
        elif parent.stem is not None:
            walk.changed(child, "no convolution before the branches")
            x = within(x, width_of(parent.stem[place]))
        inputs[level] = inherit_chain(walk, [child.attention[i]], [parent.attention[place]], x)
    return inputs


def inherit_branches(
    walk: Walk,
    child: Any,
    parent: Any,
    inputs: dict[int, Map],
    levels: tuple[tuple[int, ...], tuple[int, ...]],
    outputs: Outputs,
) -> None:
    """One branch for every level, or one of all levels; either from either."""
    ours, theirs = levels
    common = [level for level in ours if level in theirs]
    shared = isinstance(child, SharedBranch)
    all_steps = [steps_of(parent, i) for i in range(len(theirs))]
    first = steps_of(child, 0)
    if first and not any(step.depthwise for step in first) and all(map(separable, all_steps)):
        walk.changed(first[0].conv, "one convolution instead of two")
        all_steps = [merged_steps(walk, steps) for steps in all_steps]
    if shared and not isinstance(parent, SharedBranch) and len(theirs) > 1 and all_steps[0]:
        walk.changed(child, "one branch for all levels")
    for level in common:
        place, i = theirs.index(level), ours.index(level)
        mine, before = steps_of(child, i), all_steps[place]
        # What levels share is inherited once, and its channels are chosen for all.
        tied = all_steps if shared else [before]
        x = inherit_steps(
            walk, mine, before, inputs[level], tied, kernels=not shared or level == common[0]
        )
        inherit_prediction(walk, predicting(child, i), predicting(parent, place), x, outputs)


def steps_of(branches: Any, place: int) -> list[Step]:
    """The convolutions of one level's branch."""
    if isinstance(branches, SharedBranch):
        norms = branches.norms[place]
        return [
            Step(conv, norm, branches.activation)
            for conv, norm in zip(branches.convs, norms, strict=True)
        ]
    return [Step(layer.conv, layer.norm, layer.activation) for layer in branches[place].layers]


def predicting(branches: Any, place: int) -> Branch:
    """The part of one level's branch that predicts."""
    return branches.predict[place] if isinstance(branches, SharedBranch) else branches[place]


def inherit_steps(
    walk: Walk,
    child: Sequence[Step],
    parent: Sequence[Step],
    inputs: Map,
    tied: Sequence[Sequence[Step]],
    *,
    kernels: bool,
) -> Map:
    """The convolutions of one level; more than the parent has pass on at the end.

    `kernels`: they are inherited as well, not only the norms.
    """
    pairs = list(zip(child, parent, strict=False))
    if any(mine.depthwise != before.depthwise for mine, before in pairs):
        walk.changed(child[0].conv, "convolutions of another form")
        return heard(carried(np.arange(scales(parent[-1].norm).size), scales(child[-1].norm).size))
    for number, (mine, before) in enumerate(pairs):
        wanted = inputs
        if not mine.depthwise:
            matters = np.sum([scales(steps[number].norm) for steps in tied], 0)
            wanted = walk.choose(mine.conv, scales(mine.norm).size, matters)
        if kernels:
            inherit_conv(walk, mine.conv, before.conv, inputs, wanted)
        inherit_norm(walk, mine.norm, before.norm, wanted)
        inputs = walk.renewed(wanted)
    if len(child) < len(parent):
        walk.changed(child[-1].conv, "fewer convolutions")
    for mine in child[len(parent) :]:
        inputs = copy_channels(walk, mine, inputs, carried(inputs, scales(mine.norm).size))
    return inputs


def separable(steps: Sequence[Step]) -> bool:
    """Whether the convolutions are depthwise and 1x1 in turn, with batch norms."""
    norms = all(isinstance(step.norm, BatchNorm) for step in steps)
    return bool(steps) and norms and all(step.depthwise for step in steps[::2])


def merged_steps(walk: Walk, steps: Sequence[Step]) -> list[Step]:
    """Each depthwise convolution and the 1x1 one behind it as one."""
    dense = []
    for first, second in zip(steps[::2], steps[1::2], strict=True):
        pair = (first.conv, first.norm), first.activation, (second.conv, second.norm)
        layer = merged(walk, *pair)
        dense.append(Step(layer.conv, layer.norm, second.activation))
    return dense


def inherit_prediction(
    walk: Walk, child: Branch, parent: Branch, inputs: Map, outputs: Outputs
) -> None:
    """The 1x1 convolutions with bias."""
    if outputs.channels is not None:
        inherit_conv(
            walk, child.predict, parent.predict, inputs, outputs.channels, new_bias=outputs.new_bias
        )
    if child.objectness is not None and parent.objectness is not None:
        inherit_conv(walk, child.objectness, parent.objectness, inputs, np.arange(1))
    elif (child.objectness is None) != (parent.objectness is None):
        walk.changed(child, f"{'no' if child.objectness is None else 'a new'} objectness")
