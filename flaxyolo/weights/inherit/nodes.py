"""Nodes of a neck: a block with its attention, and what leads to a finer level."""

from typing import Any

import numpy as np

from flaxyolo.nn.neck import Fusion, Transpose
from flaxyolo.weights.inherit.blocks import inherit_chain, start_any
from flaxyolo.weights.inherit.channels import SILENT, Map, gathered
from flaxyolo.weights.inherit.gates import start_attention
from flaxyolo.weights.inherit.layers import PASSES, rank, width_of
from flaxyolo.weights.inherit.walk import Walk

Levels = dict[int, Map]
"""The map of the feature of each level."""


def inherit_fusion(
    walk: Walk, child: Fusion, parent: Fusion, inputs: Map, *, wanted: Map | None, tied: bool
) -> Map:
    """Block and attention of a node of the neck."""
    if wanted is None and tied:
        wanted = walk.choose(child, width_of(child), rank(parent), tied=True)
    mine, theirs = ([node.block, node.attention] for node in (child, parent))
    return inherit_chain(walk, mine, theirs, inputs, wanted)


def start_fusion(walk: Walk, child: Fusion, inputs: Map, wanted: Map) -> Map:
    """A fresh node that passes on the wanted channels."""
    outputs = start_any(walk, child.block, inputs, wanted)
    if not isinstance(child.attention, PASSES):
        start_attention(walk, child.attention, outputs)
    return outputs


def inherit_upsample(walk: Walk, child: Any, parent: Any, inputs: Map) -> Map:
    """The learned kernel, or one that repeats every cell as the other kind does."""
    if not isinstance(child, Transpose):
        if isinstance(parent, Transpose):
            walk.changed(child, "no learned up-sampling")
        return inputs
    if not isinstance(parent, Transpose):
        same = np.eye(len(inputs), dtype=np.float32)
        child.kernel[...] = np.tile(same, (2, 2, 1, 1))
        return inputs
    known, place = inputs >= 0, np.maximum(inputs, 0)
    kernel = np.where((inputs == SILENT)[:, None], np.asarray(child.kernel[...]), 0)
    old = np.asarray(parent.kernel[...])[:, :, place[:, None], place]
    child.kernel[...] = np.where(known[:, None] & known, old, kernel).astype(np.float32)
    bias = gathered(np.zeros(len(inputs)), np.asarray(parent.bias[...]), inputs)
    child.bias[...] = bias.array
    walk.took(child, parent, 4 * int(known.sum()) ** 2 + bias.taken)
    return np.where(known, inputs, SILENT)
