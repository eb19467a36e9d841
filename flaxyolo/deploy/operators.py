"""A JAX program as ONNX operators: one rule for each primitive that networks are made of.

The program is walked as JAX traces it, so whatever a network is built from can leave the project,
blocks of a user's own among them. Rules are kept in `RULES`, and `NAMED` has those of functions
with a better form than their parts (a pool, an up-sampling).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from flaxyolo.deploy import layers, moves
from flaxyolo.deploy.emitter import Emitter, Rule
from flaxyolo.deploy.values import Value


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


NAMED: dict[str, Rule] = {
    "max_pool": layers.max_pool,
    "upsample": layers.upsample,
}

RULES: dict[str, Rule] = {
    "abs": _unary("Abs"),
    "add": _add,
    "add_any": _add,
    "and": _several("And"),
    "argmax": moves.arg_max,
    "broadcast_in_dim": moves.broadcast,
    "clamp": _clamp,
    "concatenate": moves.concatenate,
    "conv_general_dilated": layers.convolution,
    "convert_element_type": _convert,
    "copy": _same,
    "cos": _unary("Cos"),
    "div": _several("Div"),
    "dot_general": layers.dot,
    "eq": _several("Equal"),
    "erf": _unary("Erf"),
    "exp": _unary("Exp"),
    "floor": _unary("Floor"),
    "gather": moves.gather,
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
    "pad": moves.pad,
    "pow": _several("Pow"),
    "reduce_max": moves.reduce("ReduceMax"),
    "reduce_min": moves.reduce("ReduceMin"),
    "reduce_sum": moves.reduce("ReduceSum"),
    "reshape": moves.reshape,
    "rsqrt": _reciprocal_root,
    "select_n": _select,
    "sign": _unary("Sign"),
    "sin": _unary("Sin"),
    "slice": moves.cut_out,
    "split": moves.split,
    "sqrt": _unary("Sqrt"),
    "square": _square,
    "squeeze": moves.reshape,
    "stack": moves.stack,
    "stop_gradient": _same,
    "sub": _several("Sub"),
    "tanh": _unary("Tanh"),
    "transpose": moves.transpose,
}
"""By the names of JAX's primitives."""
