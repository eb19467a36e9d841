"""A command as a Python function: its flags are the keywords."""

import inspect
import logging
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from pydantic import TypeAdapter, ValidationError

from flaxyolo.base.cli import log_to_stderr
from flaxyolo.base.errors import InputError

P = ParamSpec("P")
F = TypeVar("F")
R = TypeVar("R")


def as_function(
    flags: Callable[P, F], body: Callable[[F], R], name: str, returns: str
) -> Callable[P, R]:
    """The command `name` as a function of the fields of its dataclass, which are its flags.

    A path may be given as text, and one word where several are taken. A keyword that is no flag is
    a TypeError, a wrong value an InputError. What the command prints is printed, and its log is
    shown where the program has set up no logging of its own.
    """
    signature = inspect.signature(flags)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        read = _read(flags, name, given)
        if not _has_own_log():
            log_to_stderr()
        return body(read)

    call.__name__ = call.__qualname__ = f"run_{name}"
    call.__module__ = "flaxyolo"
    call.__doc__ = (
        f"What `python -m flaxyolo.{name}` does, with its flags as keywords; returns {returns}.\n\n"
        f"`python -m flaxyolo.{name} --help` tells each. Bad input is a flaxyolo.InputError."
    )
    call.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return call


def _has_own_log() -> bool:
    """Whether the program has set up logging.

    A bare `logging.basicConfig()` does not count: absl, by which Orbax logs, calls it in a program
    that has not, and of that nothing below a warning is shown.
    """
    root = logging.getLogger()
    return root.level != logging.WARNING or not all(map(_is_bare, root.handlers))


def _is_bare(handler: logging.Handler) -> bool:
    form = None if handler.formatter is None else handler.formatter._fmt
    return type(handler) is logging.StreamHandler and form == logging.BASIC_FORMAT


def _read(flags: Callable[..., F], name: str, given: Mapping[str, Any]) -> F:
    """The flags of these values, each checked against its type."""
    kind: Any = flags
    kinds = typing.get_type_hints(kind)
    values = {key: _several(kinds[key], value) for key, value in given.items()}
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}, got {one['input']!r:.80}"
            for one in error.errors()
        )
        raise InputError(f"run_{name}: {told}") from None


def _several(kind: Any, value: Any) -> Any:
    """Words as a tuple of text, where several may be given."""
    if typing.get_origin(kind) is not tuple:
        return value
    listed = [value] if isinstance(value, str | os.PathLike) else value
    return tuple(os.fspath(one) if isinstance(one, os.PathLike) else one for one in listed)
