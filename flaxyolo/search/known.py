"""Tables of known results: networks with their latency, and their scores in cheap and full runs."""

import csv
import io
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import LIST, read_file
from flaxyolo.search.spending import LONG_ENOUGH, REDUCTION, rungs

log = logging.getLogger(__name__)


class Known(NamedTuple):
    """A table of known results."""

    features: Float[np.ndarray, "n f"]
    """Architecture and log latency, as the surrogate sees them."""
    codes: Int[np.ndarray, "n a"]
    """Place of each value among its column's own, for a sampler that draws column by column."""
    ordered: tuple[bool, ...]
    """Whether a column of codes is of numbers."""
    latency_ms: Float[np.ndarray, " n"]
    rungs: tuple[int, ...]
    """Epochs of the short schedule after which its scores are known; the last is whole."""
    curves: Float[np.ndarray, "n r"]
    """Scores of cheap runs at the rungs."""
    full: Float[np.ndarray, " n"]
    """In points of 100."""
    seeds: Float[np.ndarray, "n s"] | None = None
    """What runs of several seeds show at the end of the schedule, the first that of `curves`; None
    where a table has one score for a full run, which is another training than a cheap one."""
    boxes: Float[np.ndarray, "n r"] | None = None
    """Box losses at the rungs, if they are known."""
    first_boxes: Float[np.ndarray, " n"] | None = None
    """Those of the first epoch."""
    errors: Float[np.ndarray, "n r"] | None = None
    """Standard errors of the scores over images, if they are known."""

    @property
    def cheap(self) -> Float[np.ndarray, " n"]:
        """Scores of whole cheap runs."""
        return self.curves[:, -1]


SHORT_EPOCHS = (1, LONG_ENOUGH // REDUCTION, LONG_ENOUGH)
"""Epochs of a short schedule that has none, one or two rungs before its end."""


def read_table(
    path: Path,
    *,
    cheap: str,
    full: str,
    latency: str,
    early: Sequence[str] = (),
    ignore: Collection[str] = (),
) -> Known:
    """Read a table; a cell that cannot be used is named with its line.

    `early` are the scores of cheap runs at the rungs before their end: after a third of the
    schedule, or after a ninth and a third. Columns that are not named describe the architecture,
    save those that start with `latency`.
    """
    if len(early) >= len(SHORT_EPOCHS):
        raise InputError(
            f"expected at most {len(SHORT_EPOCHS) - 1} columns of earlier scores, after a ninth "
            f"and a third of a cheap run, got {len(early)}: {', '.join(early)}"
        )
    header, rows = _cells(path)
    named = (*early, cheap, full, latency)
    for name in (*named, *ignore):
        if name not in header:
            raise InputError(f"{path}: no column {name}; there are {', '.join(header)}")
    if len(set(named)) < len(named):
        raise InputError(f"expected {len(named)} different columns, got {', '.join(named)}")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    *curves, full_scores, times = (_numbers(path, name, columns[name]) for name in named)
    if times.min() <= 0:
        line = int(times.argmin()) + 2
        raise InputError(
            f"{path}, line {line}: expected {latency} above 0, got {columns[latency][line - 2]}"
        )
    ignored = [
        name
        for name in header
        if name not in named and (name in ignore or name.startswith("latency"))
    ]
    if ignored:
        log.info("not part of the architecture: %s", ", ".join(ignored))
    architecture = {
        name: cells for name, cells in columns.items() if name not in (*named, *ignored)
    }
    if not architecture:
        raise InputError(f"{path}: no column is left to describe the architecture")
    _check_duplicates(path, architecture)
    features, codes, ordered = _describe(path, architecture)
    return Known(
        features=np.concatenate([features, np.log(times)[:, None]], axis=1),
        codes=codes,
        ordered=ordered,
        latency_ms=times,
        rungs=rungs(SHORT_EPOCHS[len(early)]),
        curves=np.stack(curves, axis=1),
        full=full_scores * (100 if np.abs(full_scores).max() <= 1 else 1),
    )


def _cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the lines of a CSV file, each of as many cells."""
    try:
        text = io.StringIO(read_file(path, LIST).decode("utf-8-sig"), newline="")
        lines = [[cell.strip() for cell in line] for line in csv.reader(text) if line]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file in UTF-8: {error}") from None
    if len(lines) < 2:
        raise InputError(f"{path}: expected a header and at least one line, got {len(lines)} lines")
    header, *rows = lines
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise InputError(f"{path}: two columns are named {twice!r}")
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: expected {len(header)} cells as in the header, "
                f"got {len(row)}"
            )
    return header, rows


def _numbers(path: Path, name: str, cells: Sequence[str]) -> Float[np.ndarray, " n"]:
    values = np.array([_number(cell) for cell in cells])
    for line, (cell, value) in enumerate(zip(cells, values, strict=True), 2):
        if not np.isfinite(value):
            raise InputError(f"{path}, line {line}: expected a number for {name}, got {cell!r}")
    return values


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _check_duplicates(path: Path, architecture: dict[str, list[str]]) -> None:
    first: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(zip(*architecture.values(), strict=True), 2):
        if row in first:
            raise InputError(
                f"{path}, lines {first[row]} and {line}: the same architecture twice: "
                + ", ".join(f"{name} {cell}" for name, cell in zip(architecture, row, strict=True))
            )
        first[row] = line


def _describe(
    path: Path, architecture: dict[str, list[str]]
) -> tuple[Float[np.ndarray, "n f"], Int[np.ndarray, "n a"], tuple[bool, ...]]:
    """Features, codes, and which codes are ordered.

    Sizes act by their ratios, so numbers above 0 count as logarithms; words are one of several. A
    cell of a column of numbers that is empty or `nan` is unknown.
    """
    features, codes, ordered = [], [], []
    for name, cells in architecture.items():
        unknown = [cell.lower() in ("", "nan") for cell in cells]
        values = np.array([_number(cell) for cell in cells])
        numeric = bool((np.isfinite(values) | unknown).all())
        distinct, places = np.unique(values if numeric else np.array(cells), return_inverse=True)
        if not numeric and len(distinct) == len(cells) > 1:
            log.info("column %s names each line, so it tells nothing and is left out", name)
            continue
        if numeric:
            if any(unknown):
                log.info("%s: %d cells of %s are unknown", path, sum(unknown), name)
            positive = bool((values[np.isfinite(values)] > 0).all())
            features.append((np.log(values) if positive else values)[:, None])
        else:
            features.append((np.array(cells)[:, None] == distinct[None]).astype(float))
        codes.append(places)
        ordered.append(numeric)
    if not features:
        raise InputError(f"{path}: no column is left to describe the architecture")
    return np.concatenate(features, axis=1), np.stack(codes, axis=1), tuple(ordered)
