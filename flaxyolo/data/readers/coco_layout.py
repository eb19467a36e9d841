"""Where data sets in COCO form keep their annotations and their images."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import shown
from flaxyolo.data.readers.listing import named
from flaxyolo.data.readers.paths import Listing

log = logging.getLogger(__name__)

TRAIN_FILES = (
    "annotations/instances_train.json",
    "annotations/instances_train2017.json",
    "train/_annotations.coco.json",
    "annotations/train.json",
    "train/labels.json",
    "train.json",
)
"""The third is Roboflow's, the fifth FiftyOne's."""
VAL_FILES = (
    "annotations/instances_val.json",
    "annotations/instances_val2017.json",
    "valid/_annotations.coco.json",
    "val/_annotations.coco.json",
    "annotations/instances_valid.json",
    "annotations/instances_validation.json",
    "annotations/val.json",
    "annotations/valid.json",
    "annotations/validation.json",
    "val/labels.json",
    "valid/labels.json",
    "validation/labels.json",
    "val.json",
    "valid.json",
    "validation.json",
)
TEST_FILES = tuple(name.replace("train", "test") for name in TRAIN_FILES)
"""Of a split that is neither trained on nor scored."""
SINGLE_FILES = (
    "annotations/instances_default.json",
    "annotations/instances.json",
    "instances.json",
    "_annotations.coco.json",
    "result.json",
    "labels.json",
    "annotations.json",
    "coco.json",
)
"""Files of all images: the first is CVAT's, `result` Label Studio's, `labels` FiftyOne's."""


def find_files(listing: Listing, folder: Path) -> dict[str, Path]:
    """The annotations of each split; InputError where there are none."""
    train, val = first_of(listing, folder, TRAIN_FILES), first_of(listing, folder, VAL_FILES)
    if train is None and val is None:
        train = first_of(listing, folder, SINGLE_FILES) or _only(listing, folder)
    if train is None:
        raise InputError(
            f"{folder}: expected one of {', '.join(TRAIN_FILES)}, or, for images that are to be "
            f"split, one of {', '.join(SINGLE_FILES)}, or a single JSON file; found none"
        )
    if val is None:
        log.warning(
            "%s: none of %s is there: a part of %s is kept for validation",
            folder,
            named(VAL_FILES, 4),
            train.name,
        )
        return {"train": train}
    return {"train": train, "val": val}


def first_of(listing: Listing, folder: Path, names: Sequence[str]) -> Path | None:
    """The first of these files that is there."""
    paths = (listing.below(folder, name.split("/")) for name in names)
    return next((path for path in paths if path is not None and path.is_file()), None)


def _only(listing: Listing, folder: Path) -> Path | None:
    """The JSON file of a folder, or of its `annotations`, that has no other beside it."""
    for place in (folder / "annotations", folder):
        files = [name for name in listing.names(str(place)) if name.lower().endswith(".json")]
        if files:
            return place / files[0] if len(files) == 1 else None
    return None


def image_paths(
    listing: Listing, folder: Path, split: str, file: Path, names: list[str]
) -> list[Path]:
    """Where each image is; where one that is missing would be."""
    # CVAT's `instances_default.json` has its images in `images/default`.
    words = dict.fromkeys((split, f"{split}2017", file.stem.removeprefix("instances_")))
    places = ["images", *(f"images/{word}" for word in words), *words]
    places += ["data", *(f"data/{word}" for word in words), "."]
    folders = [folder / place for place in places]
    beside = file.parent
    if beside != folder / "annotations" and beside not in folders[:-1]:
        folders.insert(0, beside)
    chosen = next(
        (place for place in folders for name in names if listing.exact(name, [place])), None
    )
    if chosen is None:
        paths = listing.find_all(names, folders)
    else:
        paths = listing.find_all(names, [chosen], [folder])
    upwards = [
        (chosen or folder) / name if path is None and ".." in Path(name).parts else None
        for path, name in zip(paths, names, strict=True)
    ]
    paths = [
        up if up is not None and os.path.exists(up) else path
        for path, up in zip(paths, upwards, strict=True)
    ]
    if not any(paths):
        raise InputError(
            f"{file}: of its {len(names)} images (first {shown(names[0])}), none is in any of the "
            f"folders {', '.join(os.path.relpath(place, folder) for place in folders)} of {folder}"
        )
    known = next((path.parent for path in paths if path is not None), folder)
    return [
        (chosen or known) / Path(name.replace("\\", "/")).name if path is None else path
        for path, name in zip(paths, names, strict=True)
    ]
