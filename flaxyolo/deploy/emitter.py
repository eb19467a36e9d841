"""Walks a JAX program, equation by equation, and writes it into an ONNX graph by rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend
import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.deploy.graph import Graph
from flaxyolo.deploy.values import Shaper, Value, known

Rule = Callable[..., Any]
"""`rule(emitter, equation, inputs)` gives the value of an equation, or those of its outputs."""


class Emitter:
    """Writes a program into a graph."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule], named: Mapping[str, Rule]):
        """`rules` are by the names of JAX's primitives; `named` by those of functions, for ones
        that have a better form than their parts."""
        self.graph = graph
        self.rules, self.named = rules, named
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
            rule = self.named.get(called.jaxpr.debug_info.func_name)
            made = None if rule is None else rule(self, called, inputs)
            return made or self.run(called.jaxpr, called.consts, inputs)
        if all(_is_whole(value) for value in inputs) and not equation.effects:
            arrays = [value.array for value in inputs]
            if all(isinstance(d, int) for out in equation.outvars for d in out.aval.shape):
                found = equation.primitive.bind(*map(jax.numpy.asarray, arrays), **equation.params)
                return list(map(known, found if equation.primitive.multiple_results else [found]))
        rule = self.rules.get(name)
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
