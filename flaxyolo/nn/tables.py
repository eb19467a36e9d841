"""Looking up a name that a user wrote in one of the plain tables."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def entry(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name; ValueError names the choices and the nearest one."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}{hint}")
