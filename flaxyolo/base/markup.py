"""HTML and SVG from Python: whatever text is put inside is escaped."""

import html
from typing import Any

VOID = ("meta", "img", "br", "link", "input")
"""Elements without an end."""


class Markup(str):
    """HTML that is written as it stands."""

    __slots__ = ()


def element(name: str, /, *inside: Any, **attributes: Any) -> Markup:
    """An element; strings inside are escaped, Markup is not, None is nothing, lists are opened.

    Of the attributes those that are None or False are left out; `class_` is class, `data_told` is
    data-told, and numbers have two decimals at most.
    """
    told = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{told}>")
    return Markup(f"<{name}{told}>{joined(*inside)}</{name}>")


def joined(*parts: Any) -> Markup:
    """Parts one after the other, as `element` takes them."""
    return Markup("".join(map(_text, parts)))


def _text(part: Any) -> str:
    if part is None:
        return ""
    if isinstance(part, Markup):
        return str(part)
    if isinstance(part, list | tuple):
        return "".join(map(_text, part))
    # A NUL is no character of HTML.
    return html.escape(str(part)).replace("\0", "\N{REPLACEMENT CHARACTER}")


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{_text(text)}"'
