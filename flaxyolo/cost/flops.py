"""Counting the products of a program."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from flaxyolo.nn.platform import traced_for

PLAIN = "gpu"
"""A platform for which a convolution has its plain form.

Others hold fewer products (sums of shifted slices) or more (with zeros between groups).
"""


def multiply_adds(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiply-adds of the convolutions and matrix products of a function of these arguments.

    They are the architecture's, whichever form a convolution takes here.
    """
    with traced_for(PLAIN):
        return _products(jax.make_jaxpr(function)(*inputs).jaxpr)


def _products(jaxpr: Jaxpr) -> int:
    """Those of a program and of all that it calls."""
    total = 0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        inner = [_products(body) for value in params.values() for body in _bodies(value)]
        if kind == "while" and sum(inner):
            raise ValueError("the products inside a while loop cannot be counted")
        if kind == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            kernel = _shape(equation.invars[1])
            outputs = prod(_shape(equation.outvars[0]))
            # The kernel's input axis already holds the channels of one group only.
            total += outputs * prod(kernel) // kernel[numbers.rhs_spec[0]]
        elif kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = _shape(equation.invars[0])
            total += prod(_shape(equation.outvars[0])) * prod(left[axis] for axis in contracted)
        elif kind == "cond":
            total += max(inner)
        else:
            total += sum(inner) * (params["length"] if kind == "scan" else 1)
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _bodies(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [body for part in value for body in _bodies(part)]
    return []
