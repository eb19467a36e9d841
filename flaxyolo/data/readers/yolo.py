"""Data sets in the layout of Ultralytics' YOLO: a data.yaml, images, and a text file for each.

The format is described at https://docs.ultralytics.com/datasets/detect: a line of a label file is
`class x y width height`, centre and size as shares of the image, or `class x1 y1 x2 y2 ...`, a
polygon. Shares are of the image as it is shown: rotated, where the file notes a rotation (EXIF).
"""

import hashlib
import logging
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from jaxtyping import Int32, Int64

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import file_state, image_facts
from flaxyolo.data.readers.listing import Row, find_images, named, progress, records_of
from flaxyolo.data.records import Listed, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 1
"""Raised with every change that reads something else from the same files."""

LARGEST = 1e15
"""What is larger, or NaN, is no number of a label."""
VALIDATION = ("val", "valid", "validation")
"""Keys under which a data.yaml names its validation images."""
NO_LABELS = {"classes", "readme", "README"}
"""Text files that may lie among the labels: `classes.txt` is of labelImg."""


class Layout(NamedTuple):
    """What a data.yaml says."""

    path: Path
    base: Path
    """Folder that the splits are relative to."""
    names: dict[int, str]
    """By class number."""
    splits: dict[str, list[Path]]
    """Image files of `train` and, where there is one, `val`."""
    keypoints: int
    """Numbers that follow a box in every line; 0 but for pose data sets."""


class Lines(NamedTuple):
    """The label files of a split: what they say, as shares of the image, and where."""

    files: tuple[Path, ...]
    """One per image."""
    rows: list[tuple[int, int, float, float, float, float, int, float]]
    """Position of the image, number of the line, x1, y1, x2, y2, label, area."""
    digest: bytes


def read_yolo(root: str) -> Source:
    """The data set of a data.yaml; without `val` in it, there is no validation split."""
    if not root:
        raise InputError("--data: yolo needs a data.yaml, as in yolo:path/to/data.yaml")
    path = Path(root).expanduser()
    path = path / "data.yaml" if path.is_dir() else path
    layout = _layout(path)
    category_ids = tuple(sorted(layout.names))
    digest = hashlib.sha256(f"yolo {READER_VERSION} {layout.names}".encode())
    records, first_id = {}, 1
    for split, images in layout.splits.items():
        lines = _read_labels(layout, split, images, category_ids)
        records[split] = _records(split, images, lines, first_id)
        first_id += len(images)
        digest.update(f"{split} {len(images)}".encode() + lines.digest)
        for image in images:
            digest.update(file_state(image, layout.base).encode(errors="surrogatepass"))
    return Source(
        name=f"yolo:{root}",
        train=records["train"],
        val=records.get("val"),
        class_names=tuple(layout.names[category] for category in category_ids),
        category_ids=category_ids,
        fingerprint=digest.hexdigest(),
    )


def label_file(image: Path) -> Path:
    """`images/.../a.jpg` to `labels/.../a.txt`; beside the image where no folder is `images`."""
    parts = list(image.parent.parts)
    for index in reversed(range(len(parts))):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts, image.stem + ".txt")


def _layout(path: Path) -> Layout:
    try:
        data = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot read the data.yaml: {error.strerror}") from None
    except Exception as error:  # PyYAML raises nearly anything for a wrong date, number or tag
        text = " ".join(str(error).split())
        raise InputError(f"{path}: not valid YAML: {text:.200}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys such as train, val, names; got {data!r:.60}")
    base = _base(path, data.get("path"))
    validation = next((key for key in VALIDATION if data.get(key)), None)
    keys = {"train": "train"} | ({} if validation is None else {"val": validation})
    splits = {split: _images(path, base, key, data.get(key)) for split, key in keys.items()}
    return Layout(path, base, _names(path, data), splits, _keypoints(path, data))


def _base(path: Path, said: Any) -> Path:
    """The folder that `path` in the file names; the file's own where that does not exist."""
    if said is None:
        return path.parent
    if not isinstance(said, str):
        raise InputError(f"{path}: path: expected a folder, got {said!r:.60}")
    base = path.parent / Path(said).expanduser()
    if base.is_dir():
        return base
    log.warning("%s: path: there is no folder %s; %s is taken", path, base, path.parent)
    return path.parent


def _names(path: Path, data: dict[Any, Any]) -> dict[int, str]:
    names = data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(f"{path}: names: expected a list or numbered names, got {names!r:.60}")
    for number, name in names.items():
        if type(number) is not int or not 0 <= number < 2**31:
            raise InputError(f"{path}: names: expected numbers from 0 as keys, got {number!r:.40}")
        # YAML reads a bare `no` as False and `1` as a number.
        known = not isinstance(name, bool) and isinstance(name, str | int | float)
        if not known or not str(name).strip() or not str(name).isprintable():
            raise InputError(
                f"{path}: names: class {number}: expected a text, got {name!r:.40}; "
                "put it in quotes"
            )
    count = data.get("nc", len(names))
    if count != len(names):
        raise InputError(
            f"{path}: nc: expected the number of names, {len(names)}, got {count!r:.40}"
        )
    return {number: str(name) for number, name in names.items()}


def _keypoints(path: Path, data: dict[Any, Any]) -> int:
    """Numbers that pose data sets write behind each box, from `kpt_shape: [points, 2 or 3]`."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(points), int(values)] if 0 < points < 10_000 and values in (2, 3):
            return points * values
    raise InputError(f"{path}: kpt_shape: expected [points, 2 or 3], got {shape!r:.60}")


def _images(path: Path, base: Path, key: str, said: Any) -> list[Path]:
    """The image files of a split: of a folder, of a text file that lists them, or of several."""
    places = said if isinstance(said, list) else [said]
    images: list[Path] = []
    for place in places:
        if not isinstance(place, str) or not place.strip():
            raise InputError(
                f"{path}: {key}: expected a folder, a .txt file or a list of them, got {said!r:.60}"
            )
        images += _images_at(path, base, key, _existing(path, base, place.strip()))
    if not images:
        raise InputError(f"{path}: {key}: expected image files in {said!r:.120}, found none")
    return images


def _images_at(path: Path, base: Path, key: str, place: Path) -> list[Path]:
    if place.is_dir():
        return find_images(place)
    if not place.is_file():
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, found nothing: {place}")
    if place.suffix.lower() != ".txt":
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, got {place}")
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{place}: cannot read the list: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{place}: expected a list of images in UTF-8, got other bytes") from None
    return [_existing(path, base, line.strip(), place.parent) for line in lines if line.strip()]


def _existing(path: Path, base: Path, place: str, *others: Path) -> Path:
    """`place` relative to the first folder where it exists, otherwise to the first folder.

    Roboflow writes `../train/images` for `train/images`.
    """
    names = (Path(place).expanduser(), Path(place.removeprefix("../")))
    candidates = [folder / name for folder in (base, *others) for name in names]
    for candidate in candidates:
        try:
            os.stat(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # too long, a zero byte, no permission
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path}: cannot look for {place!r:.80}: {reason}") from None
        return candidate
    return candidates[0]


def _read_labels(
    layout: Layout, split: str, images: list[Path], category_ids: tuple[int, ...]
) -> Lines:
    """Every line of the label files of a split; an image without a file has no boxes."""
    files = tuple(label_file(image) for image in images)
    labels = {category: label for label, category in enumerate(category_ids)}
    digest, rows, missing = hashlib.sha256(), [], []
    for index, file in enumerate(progress(files, len(files), f"{layout.path} {split} labels")):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            missing.append(file)
            continue
        except OSError:
            rows.append((index, 0, *[math.nan] * 4, -1, math.nan))
            continue
        digest.update(f"{index} {len(content)} ".encode() + content)
        for number, line in enumerate(_lines(content), start=1):
            if line.strip():
                category, *shares = _parse(line, layout.keypoints)
                box, area = shares[:4], shares[4]
                rows.append((index, number, *box, labels.get(category, -1), area))
    if len(missing) == len(files):
        raise InputError(
            f"{layout.path}: {split}: expected a label file for the images, found none for any of "
            f"{len(files)}; looked for {named([str(file) for file in missing], 1)}"
        )
    _warn_of_labels_without_image(layout.path, split, images)
    return Lines(files, rows, digest.digest())


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8-sig", errors="replace").split("\n")


def _parse(line: str, keypoints: int) -> tuple[int, float, float, float, float, float]:
    """Class (-1 where it is none), x1, y1, x2, y2 and area as shares of the image.

    NaN for a line that cannot be read; the area is NaN too where the line is a box.
    """
    unreadable = (-1, math.nan, math.nan, math.nan, math.nan, math.nan)
    try:
        category, *numbers = (float(field) for field in line.split())
    except ValueError:
        return unreadable
    if not all(abs(value) <= LARGEST for value in (category, *numbers)):
        return unreadable
    number = int(category) if category == int(category) else -1
    if len(numbers) == 4 + keypoints:
        x, y, width, height = numbers[:4]
        half_width, half_height = width / 2, height / 2
        return number, x - half_width, y - half_height, x + half_width, y + half_height, math.nan
    if keypoints or len(numbers) < 6 or len(numbers) % 2:
        return unreadable
    x, y = np.array(numbers).reshape(-1, 2).T
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    low_x, low_y, high_x, high_y = (float(v) for v in (x.min(), y.min(), x.max(), y.max()))
    # Without a surface (a bow tie, a line) the area of the box is the better one.
    return number, low_x, low_y, high_x, high_y, area or math.nan


def _records(split: str, images: list[Path], lines: Lines, first_id: int) -> Records:
    listed = [
        Listed(where=str(image), image_id=first_id + index, image=image)
        for index, image in enumerate(images)
    ]
    rows: list[Row] = [
        (index, x1, y1, x2, y2, label, area, False)
        for index, _, x1, y1, x2, y2, label, area in lines.rows
    ]
    numbers = np.array([row[1] for row in lines.rows], np.int32)
    records = replace(records_of(listed, rows, str), relative=True)
    records = replace(records, where=partial(_where, lines.files, records.image, numbers))
    if not np.isnan(records.areas).all():
        # Only polygons have an area of their own, and it has to be in pixels.
        facts = image_facts(images, f"{split} images")
        pixels = facts.height.astype(np.float64) * facts.width
        pixels[pixels == 0] = np.nan
        records = replace(records, areas=records.areas * pixels[records.image])
    return records


def _where(
    files: Sequence[Path],
    positions: Int64[np.ndarray, " n"],
    numbers: Int32[np.ndarray, " n"],
    index: int,
) -> str:
    """File, line and text of a box; the file is read again, because few are ever asked for."""
    file, number = files[positions[index]], int(numbers[index])
    try:
        lines = _lines(file.read_bytes())
    except OSError as error:
        return f"{file}: cannot read the labels: {error.strerror}"
    text = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"{file}: line {number}: {text[:80]!r}"


def _warn_of_labels_without_image(path: Path, split: str, images: list[Path]) -> None:
    """Name the label files that no image belongs to, as after an image was lost or renamed."""
    stems, lonely = defaultdict(set), []
    for folder in sorted({image.parent for image in images}):
        labels = label_file(folder / "image").parent
        if labels != folder and folder.is_dir():
            stems[labels] |= {entry.stem for entry in folder.iterdir()}
    for folder, known in stems.items():
        files = sorted(folder.glob("*.txt"))
        lonely += [str(file) for file in files if file.stem not in known | NO_LABELS]
    if lonely:
        log.warning(
            "%s: %s: %d label files belong to no image and are left out: %s",
            path,
            split,
            len(lonely),
            named(lonely),
        )
