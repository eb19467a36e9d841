"""A JAX program as ONNX operators: one rule for each primitive that networks are made of.

The program is walked as JAX traces it, so whatever a network is built from can leave the project,
blocks of a user's own among them. Rules are kept in `RULES`, and `NAMED` has those of functions
with a better form than their parts (a pool, an up-sampling).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.graph import Graph
from flaxyolo.deploy.values import Shaper, Value, known, same_size

CHANNELS_FIRST = (0, 3, 1, 2)


class Emitter:
    """Writes a program into a graph."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.shaper = Shaper(graph)

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """The outputs of a program for these inputs; InputError names a primitive without rule."""
        values: dict[Any, Value] = {}

        def read(variable: Any) -> Value:
            if isinstance(variable, jax.extend.core.Literal):
                return known(np.asarray(variable.val))
            return values[variable]

        values.update(zip(jaxpr.constvars, map(known, consts), strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        for equation in jaxpr.eqns:
            found = self.apply(equation, [read(variable) for variable in equation.invars])
            values.update(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    def apply(self, equation: Any, inputs: list[Value]) -> list[Value]:
        """The outputs of one equation."""
        name, called = equation.primitive.name, _called(equation)
        if called is not None:
            rule = NAMED.get(called.jaxpr.debug_info.func_name)
            made = None if rule is None else rule(self, called, inputs)
            return made or self.run(called.jaxpr, called.consts, inputs)
        if all(_is_whole(value) for value in inputs) and not equation.effects:
            arrays = [value.array for value in inputs]
            if all(isinstance(d, int) for out in equation.outvars for d in out.aval.shape):
                found = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
                return list(map(known, found if equation.primitive.multiple_results else [found]))
        rule = RULES.get(name)
        if rule is None:
            raise InputError(
                f"the network uses {name!r} of JAX, for which there is no ONNX form yet; "
                "export it as stablehlo, or build the block from other operations"
            )
        made = rule(self, equation, inputs)
        return [made] if isinstance(made, Value) else made

    def elementwise(self, operator: str, equation: Any, *inputs: Value) -> Value:
        """An operator of ONNX that works cell by cell and broadcasts."""
        shape = equation.outvars[0].aval.shape
        order = order_of(inputs, len(shape))
        names = [self.shaper.named(_with_axes(each, len(shape)), order) for each in inputs]
        return Value(shape, _held(inputs, shape), order, self.graph.add(operator, *names))

    def scalar(self, number: Any, like: Any) -> Value:
        """A number of the dtype of an equation's output."""
        return known(np.asarray(number, like.dtype))


def _called(equation: Any) -> Any:
    """The program that an equation only wraps."""
    return equation.params.get("jaxpr") or equation.params.get("call_jaxpr")


def _is_whole(value: Value) -> bool:
    return value.array is not None and value.held == value.shape


def _with_axes(value: Value, rank: int) -> Value:
    """Numbers without axes fit everything."""
    if value.shape or not rank:
        return value
    ones = (1,) * rank
    assert value.array is not None
    return Value(ones, ones, tuple(range(rank)), array=value.array.reshape(ones))


def _held(inputs: Sequence[Value], shape: Sequence[Any]) -> tuple[Any, ...]:
    """What is there of each axis after broadcasting."""
    wide = [value.held for value in inputs if len(value.shape) == len(shape)]
    return tuple(
        1 if all(isinstance(held[axis], int) and held[axis] == 1 for held in wide) else size
        for axis, size in enumerate(shape)
    )


def order_of(inputs: Sequence[Value], rank: int) -> tuple[int, ...]:
    """The order of the largest input that is computed, so that least moves."""
    computed = [each for each in inputs if each.array is None and len(each.shape) == rank]
    if not computed:
        return tuple(range(rank))
    return max(computed, key=lambda each: sum(size != 1 for size in each.held)).order


def _unary(operator: str) -> Callable[..., Value]:
    def rule(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
        return emit.elementwise(operator, equation, inputs[0])

    return rule


def _several(operator: str) -> Callable[..., Value]:
    def rule(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
        return emit.elementwise(operator, equation, *inputs)

    return rule


def _same(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    return inputs[0]


def _add(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """A sum; what is added to a convolution by channels is its bias."""
    for one, other in (inputs, inputs[::-1]):
        maker = emit.graph.maker(one.name) if one.name else None
        if maker is None or maker.operator != "Conv" or len(maker.inputs) > 2:
            continue
        channels = one.held[one.order[1]]
        if other.array is None or other.array.size != channels or other.held[-1:] != (channels,):
            continue
        bias = emit.graph.constant(other.array.ravel())
        name = emit.graph.add("Conv", *maker.inputs, bias, **maker.attributes)
        return Value(one.shape, one.held, one.order, name)
    return emit.elementwise("Add", equation, *inputs)


def _max(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    """The larger; of zero and something, Relu."""
    for one, other in (inputs, inputs[::-1]):
        if other.array is not None and other.array.size == 1 and not other.array.any():
            return emit.elementwise("Relu", equation, one)
        if other.array is not None and (other.array == -np.inf).all():
            return one
    return emit.elementwise("Max", equation, *inputs)


def _convert(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    from onnx import helper

    (value,), out = inputs, equation.outvars[0].aval
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(out.dtype))
    if value.array is not None:
        array = value.array.astype(out.dtype)
        return Value(value.shape, value.held, value.order, array=array)
    name = emit.graph.add("Cast", emit.shaper.named(value), to=kind)
    return Value(value.shape, value.held, value.order, name)


def _reciprocal_root(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    root = emit.elementwise("Sqrt", equation, inputs[0])
    return emit.elementwise("Reciprocal", equation, root)


def _integer_power(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    power = emit.scalar(equation.params["y"], equation.outvars[0].aval)
    return emit.elementwise("Pow", equation, inputs[0], power)


def _square(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    return emit.elementwise("Mul", equation, inputs[0], inputs[0])


def _clamp(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    low, value, high = inputs
    return emit.elementwise("Min", equation, emit.elementwise("Max", equation, value, low), high)


def _select(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    which, no, yes = inputs
    return emit.elementwise("Where", equation, which, yes, no)


def _different(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    return emit.elementwise("Not", equation, emit.elementwise("Equal", equation, *inputs))


def _broadcast(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    shape = equation.outvars[0].aval.shape
    return emit.shaper.spread(inputs[0], shape, equation.params["broadcast_dimensions"])


def _reshape(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    return emit.shaper.reshaped(inputs[0], equation.outvars[0].aval.shape)


def _transpose(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    (value,), axes = inputs, tuple(equation.params["permutation"])
    if value.array is not None:
        return known(emit.shaper.full(value).array.transpose(axes))  # type: ignore[union-attr]
    order = tuple(axes.index(axis) for axis in value.order)
    shape, held = (tuple(sizes[axis] for axis in axes) for sizes in (value.shape, value.held))
    return Value(shape, held, order, value.name)


def _slice(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
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


def _gather(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
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


def _split(emit: Emitter, equation: Any, inputs: list[Value]) -> list[Value]:
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


def _concatenate(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    return _joined(emit, inputs, equation.params["dimension"], equation.outvars[0].aval.shape)


def _stack(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
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


def _pad(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    value, config = emit.shaper.full(inputs[0]), equation.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise InputError("the network pads between cells, for which there is no ONNX form yet")
    ends = [config[axis][side] for side in (0, 1) for axis in value.order]
    sizes = emit.graph.constant(np.array(ends, np.int64))
    name = emit.graph.add("Pad", emit.shaper.named(value), sizes, emit.shaper.named(inputs[1]))
    shape = equation.outvars[0].aval.shape
    return Value(shape, shape, value.order, name)


def _reduce(operator: str) -> Callable[..., Value]:
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


def _arg_max(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
    from onnx import helper

    value, (axis,) = emit.shaper.full(inputs[0]), equation.params["axes"]
    name = emit.graph.add("ArgMax", emit.shaper.named(value), axis=value.place(axis), keepdims=0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["index_dtype"]))
    left = [each for each in range(len(value.shape)) if each != axis]
    order = tuple(left.index(each) for each in value.order if each != axis)
    shape = equation.outvars[0].aval.shape
    return Value(shape, shape, order, emit.graph.add("Cast", name, to=kind))


def _dot(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
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


def _convolution(emit: Emitter, equation: Any, inputs: list[Value]) -> Value:
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


def _max_pool(emit: Emitter, called: Any, inputs: list[Value]) -> list[Value]:
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


def _upsample(emit: Emitter, called: Any, inputs: list[Value]) -> list[Value]:
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


NAMED: dict[str, Callable[..., list[Value] | None]] = {
    "max_pool": _max_pool,
    "upsample": _upsample,
}

RULES: dict[str, Callable[..., Any]] = {
    "abs": _unary("Abs"),
    "add": _add,
    "add_any": _add,
    "and": _several("And"),
    "argmax": _arg_max,
    "broadcast_in_dim": _broadcast,
    "clamp": _clamp,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "cos": _unary("Cos"),
    "div": _several("Div"),
    "dot_general": _dot,
    "eq": _several("Equal"),
    "erf": _unary("Erf"),
    "exp": _unary("Exp"),
    "floor": _unary("Floor"),
    "gather": _gather,
    "ge": _several("GreaterOrEqual"),
    "gt": _several("Greater"),
    "integer_pow": _integer_power,
    "le": _several("LessOrEqual"),
    "log": _unary("Log"),
    "logistic": _unary("Sigmoid"),
    "lt": _several("Less"),
    "max": _max,
    "min": _several("Min"),
    "mul": _several("Mul"),
    "ne": _different,
    "neg": _unary("Neg"),
    "not": _unary("Not"),
    "optimization_barrier": _same,
    "or": _several("Or"),
    "pad": _pad,
    "pow": _several("Pow"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rsqrt": _reciprocal_root,
    "select_n": _select,
    "sign": _unary("Sign"),
    "sin": _unary("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _unary("Sqrt"),
    "square": _square,
    "squeeze": _reshape,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _several("Sub"),
    "tanh": _unary("Tanh"),
    "transpose": _transpose,
}
"""By the names of JAX's primitives."""
