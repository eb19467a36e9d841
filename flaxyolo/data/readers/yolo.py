"""Data sets in the layout of Ultralytics' YOLO: a data.yaml, images, and a text file for each.

The format is described at https://docs.ultralytics.com/datasets/detect: a line of a label file is
`class x y width height`, centre and size as shares of the image, or `class x1 y1 x2 y2 ...`, a
polygon. Shares are of the image as it is shown: rotated, where the file notes a rotation (EXIF).
"""

import errno
import hashlib
import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import (
    expanded,
    read_file,
)
from flaxyolo.data.images import file_state, image_facts
from flaxyolo.data.readers.fence import Fence
from flaxyolo.data.readers.left_over import left_asides, left_over
from flaxyolo.data.readers.listing import (
    MOST_BOXES,
    Row,
    files_below,
    is_image,
    named,
    namesakes,
    progress,
    records_of,
)
from flaxyolo.data.readers.paths import Listing, spelling
from flaxyolo.data.readers.yolo_layout import Layout, Split, layout_of_file, layout_of_folder
from flaxyolo.data.records import Fingerprint, Listed, Noted, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 2
"""Raised with every change that reads something else from the same files."""

LARGEST = 1e15
"""What is larger, or NaN, is no number of a label."""
NO_LABELS = {"classes", "readme", "notes", "labels", "predefined_classes"}
"""Text files that may lie among the labels: `classes.txt` is of labelImg."""


class Lines(NamedTuple):
    """The label files of a split: what they say, as shares of the image, and where."""

    files: tuple[Path, ...]
    """One per image, whether it is there or not."""
    rows: list[tuple[int, int, float, float, float, float, int, float]]
    """Position of the image, number of the line, x1, y1, x2, y2, label, area."""
    digest: bytes
    lacking: list[int]
    """Positions of the images without a file."""


def read_yolo(root: str) -> Source:
    """The data set of a data.yaml; without `val` in it, there is no validation split.

    A folder may have other signs instead: Darknet's `.data`, or a list of class names.
    """
    if not root:
        raise InputError("--data: yolo needs a data.yaml, as in yolo:path/to/data.yaml")
    listing = Listing()
    path = expanded(root)
    layout = layout_of_folder(listing, path) if path.is_dir() else layout_of_file(listing, path)
    category_ids = tuple(sorted(layout.names))
    fingerprint = Fingerprint("yolo", READER_VERSION, f" {layout.names}")
    found = {split: _label_files(listing, told.images) for split, told in layout.splits.items()}
    claimed = {file for files in found.values() for file in files}
    listed = {image for told in layout.splits.values() for image in told.images}
    fence = _fence(listing, layout)
    beside = _beside(listing, layout, found, listed | claimed)
    records, first_id = {}, 1
    for split, told in layout.splits.items():
        images = told.images
        lines = _read_labels(fence, layout, split, found[split], category_ids)
        unclaimed = _unclaimed(listing, told, listed, claimed)
        records[split] = replace(
            _records(fence, split, images, lines, first_id),
            noted=_noted(images, lines, unclaimed),
            asides=left_asides(
                beside.get(split, {}),
                unclaimed=unclaimed,
                same_name=namesakes(layout.path, layout.names) if split == "train" else (),
            ),
        )
        first_id += len(images)
        fingerprint.update(f"{split} {len(images)}".encode() + lines.digest)
        for image in images:
            fingerprint.update(file_state(image, layout.base).encode(errors="surrogatepass"))
    return Source(
        name=f"yolo:{root}",
        train=records["train"],
        val=records.get("val"),
        class_names=tuple(layout.names[category] for category in category_ids),
        category_ids=category_ids,
        fingerprint=fingerprint.now,
        formerly=fingerprint.formerly,
    )


def _fence(listing: Listing, layout: Layout) -> Fence:
    """The folders that the description names; files of a list may be anywhere by a whole path."""
    named_so = [folder for split in layout.splits.values() for folder in split.folders]
    lists = [path.parent for split in layout.splits.values() for path in split.lists]
    labels = [_labels_of(listing, folder) for folder in named_so]
    return Fence([layout.base, layout.path.parent, *named_so, *lists, *labels])


def _beside(
    listing: Listing, layout: Layout, labels: dict[str, tuple[Path, ...]], read: set[Path]
) -> dict[str, dict[str, list[Path]]]:
    """What lies in the folders of images and labels, and is not read."""
    owners: dict[Path, str] = {}
    folders: set[Path] = set()
    for split, told in layout.splits.items():
        places = dict.fromkeys([*told.folders, *(image.parent for image in told.images)])
        for place in places:
            inside = place in told.folders or place.is_relative_to(layout.base)
            for one in (place, _labels_of(listing, place)) if inside else ():
                owners.setdefault(one, split)
                folders.add(_root_of(one, layout.base))
        read = read.union(told.lists)
    return left_over(folders, {*read, layout.path}, owners, layout.test)


def _root_of(folder: Path, base: Path) -> Path:
    """The folder of all images or labels above, where there is one in the data set."""
    above = [place for place in (folder, *folder.parents) if place.is_relative_to(base)]
    roots = (place for place in above if place.name.casefold() in ("images", "labels"))
    return next(roots, folder)


def label_file(image: Path) -> Path:
    """`images/.../a.jpg` to `labels/.../a.txt`; beside the image where no folder is `images`."""
    above, below = _label_folder(image.parent)
    return Path(above, *below, f"{image.stem}.txt")


def _label_folder(images: Path) -> tuple[Path, list[str]]:
    """The folder above, and `labels` with what is below it; nothing below where it is the same."""
    parts = list(images.parts)
    for index in reversed(range(len(parts))):
        if parts[index].casefold() == "images":
            return Path(*parts[:index]), ["labels", *parts[index + 1 :]]
    return images, []


def _label_files(listing: Listing, images: Sequence[Path]) -> tuple[Path, ...]:
    """The label file of each image, whether it is there or not.

    One that is spelled in another way is taken where no image has exactly its name.
    """
    folders = {folder: _labels_of(listing, folder) for folder in {one.parent for one in images}}
    files = [folders[image.parent] / f"{image.stem}.txt" for image in images]
    exact = {file for file in files if listing.has(file)}
    for row, file in enumerate(files):
        if file not in exact:
            name = listing.alike(file.parent, file.name)
            if name is not None and file.parent / name not in exact:
                files[row] = file.parent / name
    return tuple(files)


def _labels_of(listing: Listing, images: Path) -> Path:
    """The folder of the labels of a folder of images; beside them where there is no other."""
    above, below = _label_folder(images)
    found = listing.below(above, below)
    if found is not None:
        return found
    beside = any(Path(name).suffix.lower() == ".txt" for name in listing.names(str(images)))
    return images if beside else Path(above, *below)


def _read_labels(
    fence: Fence,
    layout: Layout,
    split: str,
    files: tuple[Path, ...],
    category_ids: tuple[int, ...],
) -> Lines:
    """Every line of the label files of a split; an image without a file has no boxes."""
    labels = {category: label for label, category in enumerate(category_ids)}
    digest, rows, lacking = hashlib.sha256(), [], []
    for index, file in enumerate(progress(files, len(files), f"{layout.path} {split} labels")):
        try:
            content = _content(fence, file)
        except OSError as error:
            # A link that leads nowhere is a label that is lost, and not one that was never made.
            if isinstance(error, FileNotFoundError) and not file.is_symlink():
                lacking.append(index)
                continue
            rows.append((index, 0, *[math.nan] * 4, -1, math.nan))
            continue
        digest.update(f"{index} {len(content)} ".encode() + content)
        for number, line in enumerate(_lines(content), start=1):
            if line.strip():
                category, *shares = _parse(line, layout.keypoints)
                box, area = shares[:4], shares[4]
                rows.append((index, number, *box, labels.get(category, -1), area))
    if len(lacking) == len(files):
        raise InputError(
            f"{layout.path}: {split}: expected a label file for the images, found none for any of "
            f"{len(files)}; looked for {named([str(file) for file in files], 1)}"
        )
    return Lines(files, rows, digest.digest(), lacking)


def _content(fence: Fence, file: Path) -> bytes:
    """The bytes of a label file; OSError where it is none, or has far too many lines."""
    content = fence.read(file)
    lines = content.count(b"\n")
    if lines > MOST_BOXES:
        told = f"expected at most {MOST_BOXES:,} lines, found {lines:,}"
        raise OSError(errno.EFBIG, told, str(file))
    return content


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


def _records(fence: Fence, split: str, images: list[Path], lines: Lines, first_id: int) -> Records:
    listed = [
        Listed(
            where=str(image),
            image_id=first_id + index,
            image=fence.image(image, whole=".." not in image.parts),
        )
        for index, image in enumerate(images)
    ]
    rows: list[Row] = [
        (index, x1, y1, x2, y2, label, area, False)
        for index, _, x1, y1, x2, y2, label, area in lines.rows
    ]
    numbers = np.array([row[1] for row in lines.rows], np.int32)
    records = replace(records_of(listed, rows, str), relative=True)
    records = replace(records, where=partial(_where, fence, lines.files, records.image, numbers))
    if not np.isnan(records.areas).all():
        # Only polygons have an area of their own, and it has to be in pixels.
        facts = image_facts([one.image for one in listed], f"{split} images")
        pixels = facts.height.astype(np.float64) * facts.width
        pixels[pixels == 0] = np.nan
        records = replace(records, areas=records.areas * pixels[records.image])
    return records


def _where(
    fence: Fence,
    files: Sequence[Path],
    positions: Int64[np.ndarray, " n"],
    numbers: Int32[np.ndarray, " n"],
    index: int,
) -> str:
    """File, line and text of a box; the file is read again, because few are ever asked for."""
    file, number = files[positions[index]], int(numbers[index])
    try:
        lines = _lines(_content(fence, file))
    except OSError as error:
        return f"{file}: cannot read the labels: {error.strerror}"
    text = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return f"{file}: line {number}: {text[:80]!r}"


def _noted(images: Sequence[Path], lines: Lines, unclaimed: Sequence[Path]) -> tuple[Noted, ...]:
    """Images whose labels are nobody's to tell."""
    lacking = set(lines.lacking)
    # An image that is listed twice shares with itself.
    owners = dict(zip(images, lines.files, strict=True))
    count = Counter(owners.values())
    shared = [row for row, file in enumerate(lines.files) if count[file] > 1]
    rows = {
        "shared_label": [row for row in shared if row not in lacking],
        "lost_label": lines.lacking if unclaimed else [],
    }
    return tuple(Noted(kind, np.array(row, np.int64)) for kind, row in rows.items() if row)


def _unclaimed(listing: Listing, split: Split, listed: set[Path], claimed: set[Path]) -> list[Path]:
    """The label files that no image belongs to, as after an image was lost or renamed.

    Those of images that are there and in no split are not among them.
    """
    owners: dict[Path, set[str]] = {}
    for folder in {image.parent for image in split.images}:
        free = (folder / name for name in listing.names(str(folder)))
        stems = {
            spelling(image.stem) for image in free
            if is_image(image) and image not in listed
        }  # fmt: skip
        owners.setdefault(_labels_of(listing, folder), set()).update(stems)
    roots = {root for folder in split.folders if (root := _labels_of(listing, folder)).is_dir()}
    files = {file for root in roots for file in files_below(root).texts}
    files |= {folder / name for folder in owners for name in listing.names(str(folder))}
    return sorted(
        file for file in files
        if file.suffix.lower() == ".txt" and file not in claimed
        and file.stem.casefold() not in NO_LABELS
        and spelling(file.stem) not in owners.get(file.parent, ())
        and _says_labels(file)
    )  # fmt: skip


def _says_labels(file: Path) -> bool:
    """Whether the first line of a text is one of a label file."""
    try:
        lines: Iterable[str] = _lines(read_file(file))
    except OSError:
        return False
    first = next((line for line in lines if line.strip()), "")
    return not math.isnan(_parse(first, 0)[1])
