"""Rules of convolutions, products, pools and up-sampling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.emitter import Emitter
from flaxyolo.deploy.values import Value, known

CHANNELS_FIRST = (0, 3, 1, 2)


def dot(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """A product of matrices for every place of the batch axes."""
    left, right = map(emit.shaper.full, inputs)
    (sums_left, sums_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    free_left = [a for a in range(len(left.shape)) if a not in (*sums_left, *batch_left)]
    free_right = [a for a in range(len(right.shape)) if a not in (*sums_right, *batch_right)]

    def matrix(value: Value, batch: Sequence[int], rows: Sequence[int], columns: Sequence[int]):
        axes = (*batch, *rows, *columns)
        sizes = [value.shape[axis] for axis in batch]
        for part in (rows, columns):
            size: Any = 1
            for axis in part:
                size = size * value.shape[axis]
            sizes.append(size)
        shape = tuple(value.shape[axis] for axis in axes)
        if value.array is not None:
            moved = known(value.array.transpose(axes))
        else:
            name = emit.shaper.named(value, axes)
            moved = Value(shape, shape, tuple(range(len(shape))), name)
        return emit.shaper.named(emit.shaper.reshaped(moved, sizes), range(len(sizes)))

    name = emit.graph.add(
        "MatMul",
        matrix(left, batch_left, free_left, sums_left),
        matrix(right, batch_right, sums_right, free_right),
    )
    out = equation.outvars[0].aval
    sizes: list[Any] = [left.shape[axis] for axis in batch_left]
    for value, axes in ((left, free_left), (right, free_right)):
        size: Any = 1
        for axis in axes:
            size = size * value.shape[axis]
        sizes.append(size)
    product = Value(tuple(sizes), tuple(sizes), tuple(range(len(sizes))), name)
    return emit.shaper.reshaped(product, out.shape)


def convolution(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """A convolution with stride, padding, groups and dilation; its bias is added by `_add`."""
    value, kernel = map(emit.shaper.full, inputs)
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if (
        numbers.lhs_spec != (0, 3, 1, 2)
        or numbers.rhs_spec != (3, 2, 0, 1)
        or numbers.out_spec != (0, 3, 1, 2)
        or set(params["lhs_dilation"]) != {1}
        or params["batch_group_count"] != 1
    ):
        raise InputError("the network has a convolution of a kind that has no ONNX form yet")
    (top, bottom), (left, right) = params["padding"]
    name = emit.graph.add(
        "Conv",
        emit.shaper.named(value, CHANNELS_FIRST),
        emit.shaper.named(kernel, (3, 2, 0, 1)),
        kernel_shape=list(kernel.shape[:2]),
        strides=list(params["window_strides"]),
        pads=[top, left, bottom, right],
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    shape = equation.outvars[0].aval.shape
    return Value(shape, shape, CHANNELS_FIRST, name)


def max_pool(emit: Emitter, called: Any, inputs: list[Value]) -> list[Value]:
    """`nn.pooling.max_pool`: its program takes the maximum of shifted copies instead."""
    (value,) = inputs
    padded = called.jaxpr.eqns[0].outvars[0].aval.shape[2]
    size = padded - value.shape[2] + 1
    name = emit.graph.add(
        "MaxPool",
        emit.shaper.named(emit.shaper.full(value), CHANNELS_FIRST),
        kernel_shape=[size, size],
        strides=[1, 1],
        pads=[size // 2] * 4,
    )
    return [Value(value.shape, value.shape, CHANNELS_FIRST, name)]


def upsample(emit: Emitter, called: Any, inputs: list[Value]) -> list[Value]:
    """`nn.pooling.upsample`, to the nearest cell."""
    shape = called.jaxpr.outvars[0].aval.shape
    name = emit.graph.add(
        "Resize",
        emit.shaper.named(emit.shaper.full(inputs[0]), CHANNELS_FIRST),
        "",
        emit.graph.constant(np.array([1, 1, 2, 2], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return [Value(shape, shape, CHANNELS_FIRST, name)]
