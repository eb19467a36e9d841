"""Stems and transitions between stages, with the contract of `layers`."""

from typing import Any

import numpy as np

from flaxyolo.nn.downsample import (
    PatchDown,
    PointwiseDepthwise,
    PoolDown,
)
from flaxyolo.nn.stem import ConvStem, FocusStem
from flaxyolo.weights.inherit.channels import (
    Map,
    heard,
    joined,
)
from flaxyolo.weights.inherit.forms import (
    FOCUS_STRIDE,
    pixels_of_squares,
    squares_of_pixels,
    with_kernel,
)
from flaxyolo.weights.inherit.layers import (
    follow,
    inherit_plain,
)
from flaxyolo.weights.inherit.walk import (
    Walk,
    inherit_layer,
)


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
