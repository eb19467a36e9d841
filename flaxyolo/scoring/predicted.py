"""Detections with a list of their own images, brought onto the images of an annotation file."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import many

logger = logging.getLogger(__name__)

KEYS = ("images", "categories", "annotations")


def on_images_of(
    truth: Mapping[str, Any], predicted: Mapping[str, Any], *, truth_name: str, name: str
) -> list[Any]:
    """COCO results from what `predict` writes: its images are found by file name in the truth.

    By the whole name, or the last part of it where only one image has that. Categories are found by
    their names. InputError where no image or not each category is found; images that only one side
    has are counted in the log.
    """
    for key in KEYS:
        listed = predicted.get(key)
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise InputError(
                f"{name}: expected a list of COCO results, or an object with a list under each of "
                f"{', '.join(map(repr, KEYS))}, got {listed!r:.60} under {key!r}"
            )
    place = _places(truth)
    image_of: dict[Any, Any] = {}
    for image in predicted["images"]:
        given = str(image.get("file_name"))
        found = place.get(given, place.get(PurePosixPath(given).name))
        if found is not None:
            image_of[image.get("id")] = found
    if not image_of:
        raise InputError(f"{name}: none of its {many(len(predicted['images']), 'image')} has a "
                         f"file_name that is in {truth_name}")  # fmt: skip
    if len(set(image_of.values())) < len(image_of):
        twice = Counter(image_of.values()).most_common(1)[0][0]
        raise InputError(f"{name}: several of its images are image {twice!r} of {truth_name}")
    _tell(len(predicted["images"]) - len(image_of), f"{name}", f"not in {truth_name}")
    _tell(len(truth["images"]) - len(image_of), truth_name, f"not in {name}: nothing found there")
    category_of = _categories(truth, predicted, truth_name, name)
    known = {image.get("id") for image in predicted["images"]} - set(image_of)
    return [
        record
        | {
            "image_id": image_of.get(record.get("image_id")),
            "category_id": category_of.get(record.get("category_id")),
        }
        for record in predicted["annotations"]
        if record.get("image_id") not in known
    ]


def _places(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The id of an image by its file name, and by the last part of it where that is one's alone."""
    images = truth.get("images")
    named = [one for one in images if isinstance(one, dict)] if isinstance(images, list) else []
    names = {str(one.get("file_name")): one.get("id") for one in named}
    last = Counter(PurePosixPath(name).name for name in names)
    short = {
        PurePosixPath(name).name: number
        for name, number in names.items()
        if last[PurePosixPath(name).name] == 1
    }
    return short | names


def _categories(
    truth: Mapping[str, Any], predicted: Mapping[str, Any], truth_name: str, name: str
) -> dict[Any, Any]:
    listed = truth.get("categories")
    known = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    ids = {str(one.get("name")): one.get("id") for one in known}
    for one in predicted["categories"]:
        if str(one.get("name")) not in ids:
            raise InputError(
                f"{name}: its category {one.get('name')!r} is none of {truth_name}: "
                f"{', '.join(ids)[:200]}"
            )
    return {one.get("id"): ids[str(one.get("name"))] for one in predicted["categories"]}


def _tell(count: int, where: str, what: str) -> None:
    if count > 0:
        logger.warning("%s: %s, %s", where, many(count, "image"), what)
