"""A repaired copy of the annotations in COCO form, and a list of what it says otherwise."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int64

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.data.images import decode, name_of
from flaxyolo.data.labels.checked import Checked, Found
from flaxyolo.data.labels.findings import KINDS
from flaxyolo.data.readers.fence import vouch_for
from flaxyolo.data.records import Image, Source

log = logging.getLogger(__name__)

CHANGES = "changes.jsonl"


def write_repaired(
    source: Source, parts: dict[str, tuple[Checked, Int64[np.ndarray, " k"]]], folder: Path
) -> None:
    """Write the images of each part, and the boxes that the audit keeps, as a COCO folder.

    The folder gets `annotations/instances_{train,val}.json`, whose file names are whole paths of
    the original images, and `changes.jsonl`. Images that are no upright files are written too.
    """
    folder = folder.expanduser().resolve()
    _check_folder(source, folder)
    changes = list(_changes(parts))
    try:
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        _write(folder / CHANGES, "".join(f"{json.dumps(change)}\n" for change in changes))
        for split, (checked, images) in parts.items():
            content = _coco(source, split, checked, images, folder)
            text = json.dumps(content)
            vouch_for(text.encode())
            _write(folder / "annotations" / f"instances_{split}.json", text)
    except OSError as error:
        raise InputError(
            f"--repair: cannot write into {folder}: {error.strerror or error}"
        ) from None
    log.warning(
        "%s: a repaired copy is in %s; %d changes, listed in %s",
        source.name,
        folder,
        len(changes),
        CHANGES,
    )


def _check_folder(source: Source, folder: Path) -> None:
    """Never write where the originals may be."""
    root = Path(source.name.partition(":")[2] or "/").expanduser().resolve()
    if folder in (root, root.parent) or folder == root / "annotations":
        raise InputError(f"--repair: expected another folder than that of the data, got {folder}")
    if (folder / "annotations").exists() and not (folder / CHANGES).is_file():
        raise InputError(
            f"--repair: expected an empty folder, or one of an earlier repair, but {folder} has "
            f"annotations and no {CHANGES}"
        )


def _coco(
    source: Source,
    split: str,
    checked: Checked,
    images: Int64[np.ndarray, " k"],
    folder: Path,
) -> dict[str, list[dict[str, Any]]]:
    chosen = np.zeros(len(checked.keep_image) + 1, bool)
    chosen[images] = True
    rows = np.flatnonzero(checked.keep & chosen[checked.image])
    sizes = checked.boxes[rows, 2:] - checked.boxes[rows, :2]
    columns = (
        np.concatenate([checked.boxes[rows, :2], sizes], 1).tolist(),
        checked.image[rows].tolist(),
        checked.records.labels[rows].tolist(),
        checked.areas[rows].tolist(),
        checked.records.crowd[rows].tolist(),
    )
    return {
        "images": [
            {
                "id": checked.image_ids[image],
                "file_name": str(_file_of(checked, image, folder / "images" / split)),
                "height": int(checked.heights[image]),
                "width": int(checked.widths[image]),
            }
            for image in images.tolist()
        ],
        "annotations": [
            {
                "id": number,
                "image_id": checked.image_ids[image],
                "category_id": source.category_ids[label],
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for number, (box, image, label, area, crowd) in enumerate(
                zip(*columns, strict=True), start=1
            )
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(source.category_ids, source.class_names, strict=True)
        ],
    }


def _file_of(checked: Checked, image: int, folder: Path) -> Path:
    """The image's own file; a copy where it has none, or where a reader could not tell its turn."""
    listed, oriented = checked.records.images[image], bool(checked.oriented[image])
    if isinstance(listed.image, Path) and not (oriented and _ambiguous(checked, image)):
        return Path(os.path.abspath(listed.image))
    path = folder / f"{checked.image_ids[image]}.png"
    _write(path, _png(listed.image, oriented))
    return path


def _ambiguous(checked: Checked, image: int) -> bool:
    """Whether an image that is turned has the size that it has as stored."""
    height, width = decode(checked.records.images[image].image).shape[:2]
    return (height, width) == (checked.heights[image], checked.widths[image])


def _png(image: Image, oriented: bool) -> bytes:
    pixels = decode(image, oriented=oriented)
    return cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()


def _changes(parts: dict[str, tuple[Checked, np.ndarray]]) -> Iterator[dict[str, Any]]:
    """One entry for each record that the copy says otherwise."""
    seen: list[Checked] = []
    for checked, _ in parts.values():
        if any(checked is one for one in seen):  # both parts come from one list
            continue
        seen.append(checked)
        for found in checked.found:
            kind = KINDS[found.kind]
            if not kind.changes:
                continue
            if kind.of == "boxes":
                yield from _of_boxes(checked, found, found.rows.tolist(), found.kind)
                continue
            for row in found.rows.tolist():
                listed = checked.records.images[row]
                before = {
                    "id": listed.image_id,
                    "image": name_of(listed.image),
                    "height": listed.height,
                    "width": listed.width,
                }
                after = {
                    "id": checked.image_ids[row],
                    "image": name_of(listed.image),
                    "height": int(checked.heights[row]),
                    "width": int(checked.widths[row]),
                }
                stays = bool(checked.keep_image[row])
                yield _change(
                    checked.place(found, row), found.kind, before, after if stays else None
                )
            gone = found.boxes_out.tolist()
            yield from _of_boxes(
                checked,
                found._replace(kind="unknown_image", more=_nothing),
                gone,
                f"{found.kind}: left out with its image",
            )


def _of_boxes(
    checked: Checked, found: Found, rows: Iterable[int], kind: str
) -> Iterator[dict[str, Any]]:
    for row in rows:
        after = {
            "bbox": [*checked.boxes[row, :2].tolist(),
                     *(checked.boxes[row, 2:] - checked.boxes[row, :2]).tolist()],
            "area": float(checked.areas[row]),
            "iscrowd": int(checked.records.crowd[row]),
        }  # fmt: skip
        place = checked.place(found, row)
        yield _change(place, kind, place.split(": ", 2)[-1], after if checked.keep[row] else None)


def _change(place: str, kind: str, before: object, after: object) -> dict[str, Any]:
    file, _, rest = place.partition(": ")
    record = rest.partition(": ")[0]
    return {"file": file, "record": record, "kind": kind, "before": before, "after": after}


def _nothing(row: int) -> str:
    return ""


def _write(path: Path, content: str | bytes) -> None:
    """All of it or nothing; a file that says so already stays, with its time."""
    content = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
