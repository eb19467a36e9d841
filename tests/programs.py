"""Looking into traced programs."""

from collections.abc import Iterator

from jax.extend.core import Jaxpr, JaxprEqn


def equations(jaxpr: Jaxpr, kind: str | None = None) -> Iterator[JaxprEqn]:
    """All equations of a program and of those it calls, or those of one primitive."""
    for equation in jaxpr.eqns:
        if kind in (None, equation.primitive.name):
            yield equation
        for value in equation.params.values():
            for body in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(body, "jaxpr", body)
                if hasattr(inner, "eqns"):
                    yield from equations(inner, kind)
