"""Rules of what moves, cuts, joins or reduces arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.emitter import Emitter, order_of
from flaxyolo.deploy.values import Value, known, same_size


def broadcast(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Axes at their places of a larger shape; nothing is copied until it must be."""
    shape = equation.outvars[0].aval.shape
    return emit.shaper.spread(inputs[0], shape, equation.params["broadcast_dimensions"])


def reshape(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Axes cut, joined, added or taken away; also squeeze."""
    return emit.shaper.reshaped(inputs[0], equation.outvars[0].aval.shape)


def transpose(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Axes in another order: only known, as nothing moves until it must."""
    (value,), axes = inputs, tuple(equation.params["permutation"])
    if value.array is not None:
        return known(emit.shaper.full(value).array.transpose(axes))  # type: ignore[union-attr]
    order = tuple(axes.index(axis) for axis in value.order)
    shape, held = (tuple(sizes[axis] for axis in axes) for sizes in (value.shape, value.held))
    return Value(shape, held, order, value.name)


def cut_out(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """The part from starts to ends, in steps."""
    params, shape = equation.params, equation.outvars[0].aval.shape
    steps = params["strides"] or (1,) * len(shape)
    return _cut(emit, inputs[0], shape, params["start_indices"], params["limit_indices"], steps)


def _cut(
    emit: Emitter,
    value: Value,
    shape: Sequence[Any],
    starts: Sequence[Any],
    ends: Sequence[Any],
    steps: Sequence[int],
) -> Value:
    """The part of a value from starts to ends, which has this shape."""
    value, shape = emit.shaper.full(value), tuple(shape)
    cut = [axis for axis in range(len(shape)) if not same_size(value.shape[axis], shape[axis])]
    if not cut:
        return value
    columns = (
        [starts[axis] for axis in cut],
        [ends[axis] for axis in cut],
        [value.place(axis) for axis in cut],
        [steps[axis] for axis in cut],
    )
    rows = (emit.graph.constant(np.array(column, np.int64)) for column in columns)
    name = emit.graph.add("Slice", emit.shaper.named(value), *rows)
    return Value(shape, shape, value.order, name)


def gather(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Plain indexing at known places, as JAX traces it where the batch is not known."""
    value, places = inputs
    params, numbers = equation.params, equation.params["dimension_numbers"]
    starts = [0] * len(value.shape)
    if places.array is None or places.array.ndim != 1 or numbers.operand_batching_dims:
        raise InputError("the network picks cells by a computed index: no ONNX form for that yet")
    for axis, start in zip(numbers.start_index_map, places.array, strict=True):
        starts[axis] = int(start)
    sizes = params["slice_sizes"]
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    part = _cut(emit, value, sizes, starts, ends, [1] * len(starts))
    left = [a for a in range(len(value.shape)) if a not in numbers.collapsed_slice_dims]
    return emit.shaper.reshaped(part, [sizes[axis] for axis in left])


def split(emit: Emitter, equation: Any, inputs: list[Value]) -> list[Value]:
    """Parts side by side along an axis."""
    value, sizes = emit.shaper.full(inputs[0]), equation.params["sizes"]
    first = emit.graph.add(
        "Split",
        emit.shaper.named(value),
        emit.graph.constant(np.array(sizes, np.int64)),
        outputs=len(sizes),
        axis=value.place(equation.params["axis"]),
    )
    shapes = [out.aval.shape for out in equation.outvars]
    names = emit.graph.outputs_of(first)
    return [Value(s, s, value.order, name) for s, name in zip(shapes, names, strict=True)]


def concatenate(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Arrays side by side along an axis."""
    return _joined(emit, inputs, equation.params["dimension"], equation.outvars[0].aval.shape)


def stack(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Arrays side by side along a new axis."""
    shape, axis = equation.outvars[0].aval.shape, equation.params["axis"]
    thin = (*shape[:axis], 1, *shape[axis + 1 :])
    others = [place for place in range(len(shape)) if place != axis]
    inputs = [emit.shaper.spread(emit.shaper.full(each), thin, others) for each in inputs]
    return _joined(emit, inputs, axis, shape)


def _joined(emit: Emitter, inputs: list[Value], axis: int, shape: tuple[Any, ...]) -> Value:
    """Values side by side along an axis."""
    inputs = [emit.shaper.full(value) for value in inputs]
    order = order_of(inputs, len(shape))
    names = [emit.shaper.named(value, order) for value in inputs]
    return Value(shape, shape, order, emit.graph.add("Concat", *names, axis=order.index(axis)))


def pad(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """A border of one number; a negative one cuts."""
    value, config = emit.shaper.full(inputs[0]), equation.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise InputError("the network pads between cells, for which there is no ONNX form yet")
    ends = [config[axis][side] for side in (0, 1) for axis in value.order]
    sizes = emit.graph.constant(np.array(ends, np.int64))
    name = emit.graph.add("Pad", emit.shaper.named(value), sizes, emit.shaper.named(inputs[1]))
    shape = equation.outvars[0].aval.shape
    return Value(shape, shape, value.order, name)


def reduce(operator: str) -> Callable[..., Value]:
    """The rule that takes this operator over some axes."""

    def rule(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
        value, axes = emit.shaper.full(inputs[0]), equation.params["axes"]
        places = [value.place(axis) for axis in axes]
        name = emit.shaper.named(value)
        if operator == "ReduceSum":
            # Since opset 13 its axes are an input, those of the others an attribute until 18.
            axis = emit.graph.constant(np.array(places, np.int64))
            name = emit.graph.add(operator, name, axis, keepdims=0)
        else:
            name = emit.graph.add(operator, name, axes=places, keepdims=0)
        left = [axis for axis in range(len(value.shape)) if axis not in axes]
        order = tuple(left.index(axis) for axis in value.order if axis in left)
        shape = equation.outvars[0].aval.shape
        return Value(shape, shape, order, name)

    return rule


def arg_max(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """Where the largest number of an axis is."""
    from onnx import helper

    value, (axis,) = emit.shaper.full(inputs[0]), equation.params["axes"]
    name = emit.graph.add("ArgMax", emit.shaper.named(value), axis=value.place(axis), keepdims=0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["index_dtype"]))
    left = [each for each in range(len(value.shape)) if each != axis]
    order = tuple(left.index(each) for each in value.order if each != axis)
    shape = equation.outvars[0].aval.shape
    return Value(shape, shape, order, emit.graph.add("Cast", name, to=kind))
