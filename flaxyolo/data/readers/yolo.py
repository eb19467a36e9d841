"""Data sets in the layout of Ultralytics' YOLO: a data.yaml, images, and a text file for each.

The format is described at https://docs.ultralytics.com/datasets/detect: a line of a label file is
`class x y width height`, centre and size as shares of the image, or `class x1 y1 x2 y2 ...`, a
polygon. Shares are of the image as it is shown: rotated, where the file notes a rotation (EXIF).
"""

import errno
import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import (
    YAML,
    expanded,
    load_yaml,
    read_file,
    read_lines,
    reason,
)
from flaxyolo.base.words import one_line, shortened, shown
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
    read_names,
    records_of,
)
from flaxyolo.data.readers.paths import SPLIT_WORDS, Listing, spelling
from flaxyolo.data.records import Fingerprint, Listed, Noted, Records, Source

log = logging.getLogger(__name__)

READER_VERSION = 2
"""Raised with every change that reads something else from the same files."""

LARGEST = 1e15
"""What is larger, or NaN, is no number of a label."""
VALIDATION = ("val", "valid", "validation")
"""Keys under which a data.yaml names its validation images."""
NO_LABELS = {"classes", "readme", "notes", "labels", "predefined_classes"}
"""Text files that may lie among the labels: `classes.txt` is of labelImg."""
NAME_FILES = ("classes.txt", "labels/classes.txt")
"""Where Label Studio and labelImg write the names of the classes; Darknet's end in `.names`."""
MOST_CLASSES = 10_000
"""Names that are made where there is only their number."""
LONGEST_NAME = 1000
"""Letters of the name of a class."""
MOST_PLACES = 1000
"""Folders and lists of a split."""


class Split(NamedTuple):
    """Where the images of a split are."""

    images: list[Path]
    folders: list[Path]
    """Those that are taken as a whole."""
    lists: list[Path]
    """Texts that list images."""


class Layout(NamedTuple):
    """What a data.yaml says."""

    path: Path
    base: Path
    """Folder that the splits are relative to."""
    names: dict[int, str]
    """By class number."""
    splits: dict[str, Split]
    """`train` and, where there is one, `val`."""
    keypoints: int
    """Numbers that follow a box in every line; 0 but for pose data sets."""
    test: list[Path]
    """The folder of the images to test on, which have no use."""


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
    layout = _layout_of_folder(listing, path) if path.is_dir() else _layout(listing, path)
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


def _layout_of_folder(listing: Listing, folder: Path) -> Layout:
    """Of a folder with a data.yaml or another file like it, or as Darknet's users have it."""
    there = sorted(folder / name for name in listing.names(str(folder)))
    files = [path for path in there if path.suffix.lower() in (".yaml", ".yml")]
    path = folder / "data.yaml"
    if path in files or len(files) == 1:
        return _layout(listing, path if path in files else files[0])
    lists = [path for path in there if path.suffix == ".data"]
    if len(lists) == 1:
        return _darknet(listing, lists[0])
    named_so = [path for path in there if path.suffix == ".names"]
    named_so += [folder / name for name in NAME_FILES]
    names = next((path for path in named_so if path.is_file()), None)
    if names is None:
        raise InputError(
            f"{folder}: expected a data.yaml, or class names one a line in classes.txt; found "
            "neither; write a data.yaml with two lines, as `train: .` and `names: [cat, dog]`"
        )
    return _bare(listing, folder, names)


def _darknet(listing: Listing, path: Path) -> Layout:
    """Of Darknet's own file, as CVAT writes it: lines `train = data/train.txt`, `names = ...`."""
    pairs = [line.split("=", 1) for line in _lines_of(path) if "=" in line]
    said = {key.strip(): value.strip() for key, value in pairs}
    names = listing.find(said.get("names", ""), [path.parent])
    if names is None:
        told = one_line(shortened(str(said.get("names"))))
        raise InputError(f"{path}: names: expected a file of class names, got {told}")
    data = {key: said[key] for key in ("train", *VALIDATION) if said.get(key)}
    return _splits_of(listing, path, path.parent, data | {"names": _names_in(names)})


def _bare(listing: Listing, folder: Path, names: Path) -> Layout:
    """Of a folder of images and labels, with lists or folders of the splits or without any."""
    data: dict[str, Any] = {"names": _names_in(names)}
    for key, words in zip(("train", "val"), SPLIT_WORDS[:2], strict=True):
        places = [
            place for word in words
            for place in (f"{word}.txt", f"images/{word}", f"{word}/images", word)
        ]  # fmt: skip
        place = next((place for place in places if listing.exact(place, [folder])), None)
        data |= {} if place is None else {key: place}
    whole = "images" if listing.exact("images", [folder]) else "."
    return _splits_of(listing, names, folder, {"train": whole} | data)


def _names_in(path: Path) -> list[str]:
    """A name a line: an empty line between others is a class without a name."""
    lines = _lines_of(path)
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _lines_of(path: Path) -> list[str]:
    return read_lines(path, "the list")


def _layout(listing: Listing, path: Path) -> Layout:
    try:
        data = load_yaml(read_file(path, YAML))
    except OSError as error:
        raise InputError(f"{path}: cannot read the data.yaml: {error.strerror}") from None
    except Exception as error:  # PyYAML raises nearly anything for a wrong date, number or tag
        text = one_line(" ".join(shortened(str(error), 1000).split()))
        raise InputError(f"{path}: not valid YAML: {text:.200}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys such as train, val, names; got {shown(data, 60)}")
    return _splits_of(listing, path, _base(path, data.get("path")), data)


def _splits_of(listing: Listing, path: Path, base: Path, data: dict[Any, Any]) -> Layout:
    validation = next((key for key in VALIDATION if data.get(key)), None)
    keys = {"train": "train"} | ({} if validation is None else {"val": validation})
    splits = {
        split: _images(listing, path, base, key, data.get(key)) for split, key in keys.items()
    }
    test = data.get("test")
    tests = [base / test] if isinstance(test, str) and test.strip() else []
    return Layout(path, base, _names(path, data), splits, _keypoints(path, data), tests)


def _base(path: Path, said: Any) -> Path:
    """The folder that `path` in the file names; the file's own where that does not exist."""
    if said is None:
        return path.parent
    if not isinstance(said, str):
        raise InputError(f"{path}: path: expected a folder, got {shown(said, 60)}")
    base = path.parent / expanded(said)
    if base.is_dir():
        return base
    told = one_line(shortened(str(base)))
    log.warning("%s: path: there is no folder %s; %s is taken", path, told, path.parent)
    return path.parent


def _names(path: Path, data: dict[Any, Any]) -> dict[int, str]:
    names, count = data.get("names"), data.get("nc")
    if names is None and type(count) is int and 0 < count <= MOST_CLASSES:
        names = [f"class_{number}" for number in range(count)]
        log.warning("%s: no names: the classes are called class_0 to class_%d", path, count - 1)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise InputError(
            f"{path}: names: expected a list or numbered names, got {shown(names, 60)}"
        )
    for number, name in names.items():
        if type(number) is not int or not 0 <= number < 2**31:
            raise InputError(
                f"{path}: names: expected numbers from 0 as keys, got {shown(number, 40)}"
            )
        # YAML reads a bare `no` as False and `1` as a number.
        if not _is_name(name):
            long = isinstance(name, str) and len(name) > LONGEST_NAME
            hint = f"at most {LONGEST_NAME:,} letters are read" if long else "put it in quotes"
            raise InputError(
                f"{path}: names: class {number}: expected a text, got {shown(name, 40)}; {hint}"
            )
    count = data.get("nc", len(names))
    if count != len(names):
        raise InputError(
            f"{path}: nc: expected the number of names, {len(names)}, got {shown(count, 40)}"
        )
    return {number: str(name) for number, name in names.items()}


def _is_name(name: Any) -> bool:
    if isinstance(name, bool) or not isinstance(name, str | int | float):
        return False
    if isinstance(name, int) and name.bit_length() > 64:
        return False
    text = str(name)
    return len(text) <= LONGEST_NAME and bool(text.strip()) and text.isprintable()


def _keypoints(path: Path, data: dict[Any, Any]) -> int:
    """Numbers that pose data sets write behind each box, from `kpt_shape: [points, 2 or 3]`."""
    shape = data.get("kpt_shape")
    if shape is None:
        return 0
    match shape:
        case [int(points), int(values)] if 0 < points < 10_000 and values in (2, 3):
            return points * values
    raise InputError(f"{path}: kpt_shape: expected [points, 2 or 3], got {shown(shape, 60)}")


def _images(listing: Listing, path: Path, base: Path, key: str, said: Any) -> Split:
    """The image files of a split: of a folder, of a text file that lists them, or of several."""
    places = said if isinstance(said, list) else [said]
    if len(places) > MOST_PLACES:
        raise InputError(
            f"{path}: {key}: expected at most {MOST_PLACES:,} folders and lists, "
            f"got {len(places):,}"
        )
    split = Split([], [], [])
    for place in places:
        if not isinstance(place, str) or not place.strip():
            raise InputError(
                f"{path}: {key}: expected a folder, a .txt file or a list of them, "
                f"got {shown(said, 60)}"
            )
        found = _existing(listing, path, base, place.strip())
        for whole, part in zip(split, _images_at(listing, path, base, key, found), strict=True):
            whole += part
    if not split.images:
        raise InputError(f"{path}: {key}: expected image files in {shown(said, 120)}, found none")
    return split


def _images_at(listing: Listing, path: Path, base: Path, key: str, place: Path) -> Split:
    if place.is_dir():
        return Split(files_below(place).images, [place], [])
    if not place.is_file():
        told = one_line(shortened(str(place)))
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, found nothing: {told}")
    if place.suffix.lower() != ".txt":
        raise InputError(f"{path}: {key}: expected a folder or a .txt file, got {place}")
    names = read_names(place, "the list")
    found = listing.find_all(names, [base, place.parent], [path.parent])
    if names and all(image is None for image in found):
        raise InputError(
            f"{path}: {key}: expected image files as {place} lists them, but none of the "
            f"{len(names)} images is there: {named(names, 1)}"
        )
    images = [base / name if image is None else image
              for name, image in zip(names, found, strict=True)]  # fmt: skip
    return Split(images, [], [place])


def _existing(listing: Listing, path: Path, base: Path, place: str) -> Path:
    """Where `place` is, relative to `base`; what is not there as it is written is looked for.

    Roboflow writes `../train/images` for `train/images`.
    """
    names = (expanded(place), Path(place.removeprefix("../")))
    candidates = [base / name for name in names]
    for candidate in candidates:
        try:
            os.stat(candidate)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:  # too long, a zero byte, no permission
            raise InputError(f"{path}: cannot look for {shown(place)}: {reason(error)}") from None
        return candidate
    found = listing.find_split(place, base)
    if found is not None:
        log.warning("%s: there is no %s; %s is taken", path, candidates[0], found)
    return found or candidates[0]


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
