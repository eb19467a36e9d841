"""JSON without outlines, as columns: a value that is not what it should be becomes NaN or -1."""

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from itertools import chain, repeat
from operator import itemgetter
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask as mask_tools

OUTLINE = re.compile(rb'"segmentation"\s*:\s*\[[][0-9.,eE\s+-]*\]')
"""An outline and its key; in a text the quotes would be escaped."""


def load(content: bytes, doubled: list[dict[str, Any]]) -> Any:
    """The JSON without outlines, which are most of a file and are not needed.

    Objects that say a key twice are appended to `doubled`.
    """
    hook = partial(_as_dict, doubled)
    try:
        return json.loads(OUTLINE.sub(b'"segmentation": 0', content), object_pairs_hook=hook)
    except (ValueError, RecursionError):
        doubled.clear()
        # Again, so that the message tells the place in the file.
        return json.loads(content, object_pairs_hook=hook)


def _as_dict(doubled: list[dict[str, Any]], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        doubled.append(record)
    return record


def column(records: list[dict[str, Any]], key: str, default: object = None) -> list[Any]:
    """The value of a key in each of the records."""
    try:
        return list(map(itemgetter(key), records))
    except KeyError:
        return [record.get(key, default) for record in records]


def read_boxes(values: list[Any]) -> Float64[np.ndarray, "n 4"]:
    """xyxy of [x, y, width, height]; NaN where it is not four finite numbers."""
    try:
        # What is right can be read at once.
        exact = (
            set(map(type, values)) <= {list}
            and set(map(len, values)) <= {4}
            and set(map(type, chain.from_iterable(values))) <= {int, float}
        )
        table = np.array(values if exact else [_four(value) for value in values], np.float64)
    except OverflowError:  # an integer beyond float64
        table = np.array([_four(value) for value in values], np.float64)
    table = table.reshape(-1, 4)
    table[~np.isfinite(table).all(1)] = math.nan
    with np.errstate(over="ignore", invalid="ignore"):
        table[:, 2:] += table[:, :2]
    return table


def _four(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        return [math.nan] * 4
    return [_number(one) for one in value]


def _number(value: Any) -> float:
    """NaN for what is no finite number."""
    if type(value) not in (int, float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def look_up(values: list[Any], table: Mapping[Any, int]) -> Int64[np.ndarray, " n"]:
    """-1 for what is not in the table, whose keys are of one type; True and 1.0 are no integers."""
    kind = type(next(iter(table), 0))
    if not set(map(type, values)) <= {kind}:
        values = [value if type(value) is kind else None for value in values]
    return np.array(list(map(table.get, values, repeat(-1))), np.int64)


def outline_box(outline: Any) -> list[float] | None:
    """xyxy around polygons, or around a mask in COCO's run lengths; None where it is neither."""
    if isinstance(outline, dict):
        return _mask_box(outline)
    if not isinstance(outline, list):
        return None
    # Some write one polygon without the list around it.
    polygons = outline if all(isinstance(one, list) for one in outline) else [outline]
    sound = [
        one for one in polygons if isinstance(one, list) and len(one) >= 6 and not len(one) % 2
    ]
    points = np.array([_number(one) for polygon in sound for one in polygon]).reshape(-1, 2)
    if not len(points) or len(sound) < len(polygons) or not np.isfinite(points).all():
        return None
    return [*points.min(0).tolist(), *points.max(0).tolist()]


def _mask_box(mask: Any) -> list[float] | None:
    size, counts = mask.get("size"), mask.get("counts")
    match size:
        case [int(height), int(width)] if 0 < height < 2**15 and 0 < width < 2**15:
            pass
        case _:
            return None
    try:
        whole = mask_tools.frPyObjects(mask, height, width) if isinstance(counts, list) else mask
        x, y, *sides = mask_tools.toBbox(whole).tolist()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
    return [x, y, x + sides[0], y + sides[1]]


def read_areas(values: list[Any]) -> tuple[Float64[np.ndarray, " n"], list[int]]:
    """NaN where there is none, -1 where it is no number; and the rows without one."""
    missing: list[int] = []
    if set(map(type, values)) <= {float}:
        areas = np.array(values, np.float64)
    else:
        missing = [row for row, one in enumerate(values) if one is None]
        areas = np.array([_number_or(one) for one in values], np.float64)
    areas[np.isnan(areas)] = -1.0
    areas[missing] = math.nan
    return areas, missing


def _number_or(value: Any) -> float:
    number = _number(value)
    return -1.0 if math.isnan(number) else number


def read_crowd(values: list[Any]) -> tuple[Bool[np.ndarray, " n"], list[int]]:
    """Which are crowds, and the rows that do not say 0 or 1."""
    if set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}:
        return np.array(values, bool), []
    right = [type(one) in (int, bool, float) and one in (0, 1) for one in values]
    crowd = [fine and bool(one) for fine, one in zip(right, values, strict=True)]
    return np.array(crowd, bool), [row for row, fine in enumerate(right) if not fine]


def without_own_id(values: list[Any]) -> list[int]:
    """Rows whose id is no integer, or that of an earlier row."""
    if set(map(type, values)) <= {int} and len(set(values)) == len(values):
        return []
    seen: set[int] = set()
    rows = []
    for row, value in enumerate(values):
        if type(value) is not int or value in seen:
            rows.append(row)
        else:
            seen.add(value)
    return rows


def read_side(value: Any) -> int | None:
    """A height or width in pixels; None for what is none."""
    whole = type(value) is int or (type(value) is float and value.is_integer())
    return int(value) if whole and 0 < value < 2**31 else None
