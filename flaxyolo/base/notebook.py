"""Detections as a notebook shows them."""

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = 10
WIDEST = 640
"""Pixels of the longer side of the picture."""


def cell(
    line: str, rows: Sequence[tuple[str, float, Sequence[float]]], picture: "Image | None"
) -> str:
    """HTML of a line, the picture, and the first rows: class, score and xyxy box."""
    parts = [f"<div>{html.escape(line)}</div>"]
    if picture is not None:
        small = picture.copy()
        small.thumbnail((WIDEST, WIDEST))
        written = io.BytesIO()
        small.save(written, "PNG")
        data = base64.b64encode(written.getvalue()).decode()
        parts.append(f'<img alt="the image with its boxes" src="data:image/png;base64,{data}">')
    if rows:
        heads = ("class", "score", "left", "top", "right", "bottom")
        parts.append(f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>")
        for name, score, box in rows[:ROWS]:
            numbers = "".join(f"<td>{side:.1f}</td>" for side in box)
            parts.append(f"<tr><td>{html.escape(name)}</td><td>{score:.2f}</td>{numbers}</tr>")
        parts.append("</table>")
    if len(rows) > ROWS:
        parts.append(f"<div>and {len(rows) - ROWS} more</div>")
    return "".join(parts)
