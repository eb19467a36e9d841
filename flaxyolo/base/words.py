"""Numbers and values, as a person is told them: short, on one line."""

from collections.abc import Iterable, Iterator
from typing import Any

DIGITS = 400
"""Bits of an integer that is shown by its digits."""


def many(count: int, thing: str) -> str:
    """`1 epoch`, `2 epochs`, `1,200 boxes`."""
    ending = "" if count == 1 else "es" if thing.endswith(("x", "s")) else "s"
    return f"{count:,} {thing}{ending}"


def percent(share: int | float) -> str:
    """`86%`; of hardly anything `under 1%`, of more than the whole `130%`."""
    return "under 1%" if 0 < share < 0.005 else f"{share:.0%}"


def one_line(text: str) -> str:
    """The text with everything escaped that would break a line or cannot be printed."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def shortened(text: str, most: int = 200) -> str:
    """The text, or its beginning and `...`, of `most` letters together."""
    return text if len(text) <= most else text[: most - 3] + "..."


def shown(value: object, most: int = 80) -> str:
    """A value as a message shows it: its `repr` on one line, cut after `most` letters.

    No more of a value is looked at than is shown: it may be as large as it likes, or hold itself.
    """
    text = ""
    for piece in _pieces(value, most):
        text += piece
        if len(text) > most:
            break
    return one_line(shortened(text, most))


def _pieces(value: Any, most: int) -> Iterator[str]:
    """The `repr` of plain data, piece by piece; every piece has a letter."""
    if isinstance(value, str | bytes):
        yield repr(value[: most + 1])
    elif isinstance(value, dict):
        yield "{"
        for number, (key, one) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key, most)
            yield ": "
            yield from _pieces(one, most)
        yield "}"
    elif isinstance(value, list):
        yield from _listed("[", value, "]", most)
    elif isinstance(value, tuple):
        yield from _listed("(", value, ",)" if len(value) == 1 else ")", most)
    elif isinstance(value, set | frozenset) and value:
        yield from _listed("{", value, "}", most)
    elif isinstance(value, int) and value.bit_length() > DIGITS:
        yield f"an integer of {value.bit_length():,} bits"
    else:
        yield repr(value)


def _listed(opening: str, values: Iterable[Any], closing: str, most: int) -> Iterator[str]:
    yield opening
    for number, one in enumerate(values):
        yield ", " if number else ""
        yield from _pieces(one, most)
    yield closing
