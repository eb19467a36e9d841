"""The label audit: every record of a source is looked at, counted, and kept, mended or left out.

A box or an image leaves for one reason only, so what was listed is what is kept and what the
findings say has left.
"""

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from flaxyolo.base.exif import SIDEWAYS
from flaxyolo.base.words import one_line, shortened
from flaxyolo.data.images import MISSING, ImageFacts, name_of
from flaxyolo.data.labels.checked import LONGEST, Checked, Found, start_check
from flaxyolo.data.labels.findings import BORDER, KINDS, Audit, Finding, SplitCount
from flaxyolo.data.readers.fence import Outside
from flaxyolo.data.records import Aside, Listed, Source

NOISE = 0.01
"""Pixels that come from the digits of a file or from floats: clipped without a word."""
LARGEST = 1e15
"""What is larger is no coordinate."""
SHOWN = 3
"""Places that a finding names."""


def audit(
    source: Source, train_facts: ImageFacts, val_facts: ImageFacts | None
) -> tuple[Audit, Checked, Checked | None]:
    """Look at everything once: what was found, and both splits with all faults mended."""
    train = start_check("all" if source.val is None else "train", source.train)
    val = None if source.val is None else start_check("val", source.val)
    _check_images(train, train_facts)
    if val is not None and val_facts is not None:
        _check_images(val, val_facts)
        _check_both(train, train_facts, val, val_facts)
    splits = [train] if val is None else [train, val]
    for checked in splits:
        _check_boxes(checked, len(source.class_names))
    findings = [_finding(checked, found) for checked in splits for found in checked.found]
    findings += [
        _beside(checked.split, aside) for checked in splits for aside in checked.records.asides
    ]
    if val is not None:
        findings += _unlearnt(train, val, source.class_names)
    counts = [(checked.split, _count(checked)) for checked in splits]
    return Audit(tuple(findings), tuple(counts)), train, val


def _check_images(checked: Checked, facts: ImageFacts) -> None:
    images = checked.records.images
    missing = _where(problem == MISSING for problem in facts.problem)
    outside = [isinstance(listed.image, Outside) for listed in images]
    broken = _where(
        problem not in ("", MISSING) and not out
        for problem, out in zip(facts.problem, outside, strict=True)
    )
    checked.drop_images("missing", missing, lambda row: _named(images[row]))
    checked.drop_images("led_out", _where(outside), lambda row: _target(images[row]))
    checked.drop_images(
        "undecodable", broken, lambda row: f"{_named(images[row])}: {facts.problem[row]}"
    )
    _check_ids(checked)
    _check_files(checked)
    _check_sizes(checked, facts)
    complaints = _where(facts.complaint)
    checked.note(
        "complaint",
        complaints[checked.keep_image[complaints]],
        lambda row: f"{_named(images[row])}: {facts.complaint[row]}",
    )
    checked.note(
        "few_bits",
        np.flatnonzero((facts.bits > 0) & checked.keep_image),
        lambda row: f"{_named(images[row])}: {facts.bits[row]} bits",
    )
    for noted in checked.records.noted:
        kind = KINDS[noted.kind]
        if kind.of == "images":
            rows = noted.rows[checked.keep_image[noted.rows]]
            if kind.leaves:
                checked.drop_images(noted.kind, rows)
            else:
                checked.note(noted.kind, rows)


def _named(listed: Listed) -> str:
    """The file, where the record has not named it."""
    name = name_of(listed.image)
    return "" if listed.where == name else f": {name}"


def _target(listed: Listed) -> str:
    """Where an image lies that leads out."""
    name = name_of(listed.image)
    real = os.path.realpath(name)
    return _named(listed) + (f", which is {real}" if real != name else "")


def _check_ids(checked: Checked) -> None:
    """Of different images with the same id nothing tells whose the boxes are: none is used."""
    images, ids = checked.records.images, checked.image_ids
    first: dict[int, int] = {}
    again = [row for row, identity in enumerate(ids) if first.setdefault(identity, row) != row]
    if not again:
        return
    taken = {row: first[ids[row]] for row in again}
    unclear = {ids[row] for row, one in taken.items() if _file(images[row]) != _file(images[one])}
    out = sorted({*again, *(first[identity] for identity in unclear)})
    checked.drop_images(
        "image_id",
        np.array(again, np.int64),
        lambda row: f": {name_of(images[row].image)}, first {name_of(images[taken[row]].image)}",
        out=np.array(out, np.int64),
    )


def _check_files(checked: Checked) -> None:
    """The boxes of a file that is listed twice all go to the first."""
    images = checked.records.images
    first: dict[object, int] = {}
    again: dict[int, int] = {}
    for row in np.flatnonzero(checked.keep_image).tolist():
        one = first.setdefault(_file(images[row]), row)
        if one != row:
            again[row] = one
    if again:
        owner = np.arange(len(images) + 1)
        owner[-1] = -1
        owner[list(again)] = list(again.values())
        checked.image = owner[checked.image]
        rows = np.array(list(again), np.int64)
        checked.drop_images("file_twice", rows, lambda row: f", as {images[again[row]].where}")


def _check_sizes(checked: Checked, facts: ImageFacts) -> None:
    """The source's size, if the file agrees; a rotation noted in the file only if it is meant."""
    images = checked.records.images
    said = [(listed.height or 0, listed.width or 0) for listed in images]
    # Sizes beyond any image's would not fit into an integer of the table.
    height, width = np.minimum(np.array(said, object).reshape(-1, 2), 2**31).astype(np.int64).T
    stored_height, stored_width = facts.height.astype(np.int64), facts.width.astype(np.int64)
    sideways, rotated = facts.orientation >= SIDEWAYS, facts.orientation != 1
    silent = (height == 0) | (width == 0)
    same = (height == stored_height) & (width == stored_width)
    turned = sideways & (height == stored_width) & (width == stored_height) & ~same
    oriented = checked.keep_image & ((silent & rotated) | turned)
    lying = oriented & sideways
    checked.oriented = oriented
    checked.heights = np.where(lying, stored_width, stored_height)
    checked.widths = np.where(lying, stored_height, stored_width)
    wrong = checked.keep_image & ~(silent | same | turned)

    told = partial(_sizes, checked, said, stored_height, stored_width)
    checked.note("size", np.flatnonzero(wrong), told)
    orientation = partial(_turn, checked, facts)
    checked.note("exif_applied", np.flatnonzero(oriented), orientation)
    ignored = checked.keep_image & rotated & ~oriented
    checked.note("exif_ignored", np.flatnonzero(ignored), orientation)


def _check_both(
    train: Checked, train_facts: ImageFacts, val: Checked, val_facts: ImageFacts
) -> None:
    """An image in both splits leaves training, so that the score stays honest.

    Where that would leave none, the splits are the same on purpose, as in coco8 and coco128.
    """
    kept = np.flatnonzero(val.keep_image).tolist()
    held = {val_facts.digest[row]: row for row in reversed(kept)}
    rows = np.flatnonzero(train.keep_image).tolist()
    twice = np.array([row for row in rows if train_facts.digest[row] in held], np.int64)
    others = val.records.images

    def place(row: int) -> str:
        return f", as {others[held[train_facts.digest[row]]].where}"

    if len(twice) == len(rows):
        train.note("same_splits", twice, place)
    else:
        train.drop_images("both_splits", twice, place)


def _check_boxes(checked: Checked, classes: int) -> None:
    records = checked.records
    if records.relative:
        # Boxes without an image are dropped next, whatever they are multiplied with.
        sizes = np.stack([checked.widths, checked.heights] * 2, -1).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            checked.boxes = checked.boxes * np.concatenate([sizes, np.ones((1, 4))])[checked.image]
    boxes = checked.boxes
    checked.drop_boxes("unknown_image", checked.image < 0)
    checked.drop_boxes("not_numbers", ~np.all(np.abs(boxes) <= LARGEST, axis=1))
    checked.drop_boxes("negative", (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
    checked.drop_boxes("class", (records.labels < 0) | (records.labels >= classes))
    _check_border(checked)
    # What is left of a box once the network's float32 holds it.
    exact = checked.boxes.astype(np.float32)
    sides = exact[:, 2:] - exact[:, :2]
    checked.drop_boxes("zero_area", (sides <= 0).any(1) | (sides.prod(1) <= 0))
    _check_duplicates(checked)
    for noted in records.noted:
        if KINDS[noted.kind].of == "boxes":
            checked.note(noted.kind, noted.rows[checked.keep[noted.rows]])
    tiny = np.finfo(np.float32).tiny
    strange = ~(checked.areas >= tiny) | (checked.areas > LARGEST)
    checked.note("area", np.flatnonzero(checked.keep & strange & ~np.isnan(checked.areas)))
    whole = (checked.boxes[:, 2:] - checked.boxes[:, :2]).prod(1)
    checked.areas = np.where(strange, whole, checked.areas)
    checked.note("crowd", np.flatnonzero(checked.keep & records.crowd))
    has_boxes = np.zeros(len(checked.keep_image), bool)
    has_boxes[checked.image[checked.keep]] = True
    _check_stripped(checked, has_boxes)
    checked.note("empty", np.flatnonzero(checked.keep_image & ~has_boxes))


def _check_stripped(checked: Checked, has_boxes: Bool[np.ndarray, " i"]) -> None:
    """An image whose boxes have all left as faults is no background."""
    # One more for boxes of unknown images, which say -1.
    faulty = np.zeros(len(has_boxes) + 1, bool)
    for found in checked.found:
        if KINDS[found.kind].of == "boxes" and KINDS[found.kind].stops:
            faulty[checked.image[found.boxes_out]] = True
    rows = np.flatnonzero(checked.keep_image & faulty[:-1] & ~has_boxes)
    checked.drop_images("stripped", rows, lambda row: _named(checked.records.images[row]))


def _check_border(checked: Checked) -> None:
    """Clip all boxes to their images; those of which nothing is inside are left out."""
    sizes = np.stack([checked.widths, checked.heights], -1).astype(np.float64)
    size = np.concatenate([sizes, np.full((1, 2), np.inf)])[checked.image]
    boxes = checked.boxes = np.where(checked.keep[:, None], checked.boxes, 0.0)
    low, high = boxes[:, :2], boxes[:, 2:]
    beyond = np.maximum(-low, high - size).max(1, initial=-np.inf)
    # A float is not exact: a border of 1 pixel may be 1.0000000001.
    far = checked.keep & (beyond > BORDER + 1e-6)
    checked.drop_boxes("outside", far & ((low >= size) | (high <= 0)).any(1))

    by = partial(_excess, beyond, size)
    checked.note("beyond", np.flatnonzero(far & checked.keep), by)
    checked.boxes = np.clip(boxes, 0.0, np.concatenate([size, size], 1))
    left = (checked.boxes[:, 2:] > checked.boxes[:, :2]).all(1)
    near = checked.keep & ~far & (beyond > NOISE) & left
    checked.note("clipped", np.flatnonzero(near), by)


def _sizes(
    checked: Checked,
    said: list[tuple[int, int]],
    heights: Int64[np.ndarray, " i"],
    widths: Int64[np.ndarray, " i"],
    row: int,
) -> str:
    height, width = said[row]
    return (
        f"{_named(checked.records.images[row])}: {width} x {height} pixels (width x "
        f"height), the file has {widths[row]} x {heights[row]}"
    )


def _turn(checked: Checked, facts: ImageFacts, row: int) -> str:
    return f"{_named(checked.records.images[row])}: orientation {facts.orientation[row]}"


def _excess(beyond: Float64[np.ndarray, " n"], size: Float64[np.ndarray, "n 2"], row: int) -> str:
    width, height = size[row]
    return f", {beyond[row]:.4g} pixels beyond the border of {width:g} x {height:g}"


def _check_duplicates(checked: Checked) -> None:
    """Of equal boxes of the same class in the same image the first stays."""
    rows = np.flatnonzero(checked.keep)
    records = checked.records
    columns = [records.crowd[rows], records.labels[rows], checked.image[rows]]
    columns = [*checked.boxes[rows].T, *columns]
    order = np.lexsort([rows, *columns])
    same = np.ones(max(len(rows) - 1, 0), bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    again = np.zeros(len(checked.keep), bool)
    again[rows[order[1:][same]]] = True
    checked.drop_boxes("duplicate", again)


def _finding(checked: Checked, found: Found) -> Finding:
    kind = KINDS[found.kind]
    return Finding(
        kind=found.kind,
        split=checked.split,
        count=len(found.rows),
        first=tuple(checked.place(found, row) for row in found.rows[:SHOWN].tolist()),
        text=kind.text,
        done=kind.done,
        stops=kind.stops,
        images_out=len(found.images_out),
        boxes_out=len(found.boxes_out),
    )


def _beside(split: str, aside: Aside) -> Finding:
    kind = KINDS[aside.kind]
    first = tuple(
        shortened(one_line(shortened(place, LONGEST)), 2 * LONGEST)
        for place in aside.places[:SHOWN]
    )
    return Finding(
        aside.kind, split, len(aside.places), first, kind.text, kind.done, kind.stops, 0, 0
    )


def _unlearnt(train: Checked, val: Checked, names: tuple[str, ...]) -> list[Finding]:
    """The classes that training has no box of, although validation has."""
    learnt = set(train.records.labels[train.keep].tolist())
    labels, first = np.unique(val.records.labels[val.keep], return_index=True)
    rows = np.flatnonzero(val.keep)[first]
    only = tuple(
        f"{val.records.where(row)}: class {names[label]!r}"
        for label, row in zip(labels.tolist(), rows.tolist(), strict=True)
        if label not in learnt
    )
    return [_beside(val.split, Aside("val_only", only))] if only else []


def _count(checked: Checked) -> SplitCount:
    return SplitCount(
        len(checked.keep_image),
        int(checked.keep_image.sum()),
        len(checked.keep),
        int(checked.keep.sum()),
    )


def _where(flags: Iterable[object]) -> Int64[np.ndarray, " k"]:
    return np.flatnonzero(np.fromiter(map(bool, flags), bool)).astype(np.int64)


def _file(listed: Listed) -> object:
    """What is equal for two records of the same file only."""
    return os.path.abspath(listed.image) if isinstance(listed.image, Path) else id(listed.image)
