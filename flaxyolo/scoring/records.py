"""COCO's annotations and results as they come from files: checked, and made columns."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.scoring.truth import GroundTruth

logger = logging.getLogger(__name__)


def read_records(
    truth: Mapping[str, Any],
    results: Sequence[Any],
    *,
    truth_name: str = "ground truth",
    results_name: str = "detections",
) -> tuple[GroundTruth, Detections]:
    """COCO annotations, and COCO results on their images; the names say in an error where.

    An InputError names the first record that is not right.
    """
    images = _ids(_records(truth, "images", truth_name), "images", truth_name)
    categories = _records(truth, "categories", truth_name)
    category_ids = _ids(categories, "categories", truth_name)
    if len(set(category_ids)) < len(category_ids):
        raise InputError(f"{truth_name}: categories: expected each id once, got {category_ids}")
    image_of = {number: index for index, number in enumerate(dict.fromkeys(images))}
    label_of = {number: index for index, number in enumerate(category_ids)}
    known = set(image_of), set(label_of)
    objects = _objects(_records(truth, "annotations", truth_name), known, truth_name)
    objects.sort(key=lambda record: image_of[record["image_id"]])
    found = _results(results, known, results_name)

    names = tuple(str(one.get("name", one["id"])) for one in categories)

    def columns(records: list[dict]) -> dict[str, Any]:
        return {
            "image": np.array([image_of[record["image_id"]] for record in records], np.int64),
            "labels": np.array([label_of[record["category_id"]] for record in records], np.int64),
            "xywh": np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4),
        }

    return (
        GroundTruth(
            image_ids=tuple(image_of),
            class_names=names,
            category_ids=tuple(category_ids),
            **columns(objects),
            areas=np.array([record["area"] for record in objects], np.float64),
            crowd=np.array([record["iscrowd"] for record in objects], bool),
        ),
        Detections(
            **columns(found),
            scores=np.array([record["score"] for record in found], np.float64),
            class_names=names,
        ),
    )


def _records(truth: Mapping[str, Any], key: str, where: str) -> list[dict]:
    records = truth.get(key)
    if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
        got = "no such key" if key not in truth else f"{records!r:.60}"
        raise InputError(
            f"{where}: not COCO annotations: expected a list of objects under {key!r}, got {got}"
        )
    return records


def _ids(records: list[dict], key: str, where: str) -> list[Any]:
    ids = [record.get("id") for record in records]
    kinds = {type(number) for number in ids}
    if len(kinds) > 1 or not kinds <= {int, str}:
        wrong = next(i for i, number in enumerate(ids) if type(number) is not int)
        raise InputError(f"{where}: {key}[{wrong}]: expected an integer 'id', got {ids[wrong]!r}")
    return ids


def _objects(annotations: list[dict], known: tuple[set, set], where: str) -> list[dict]:
    """Checked copies of the annotations, with only what the evaluation needs."""
    objects, no_area, no_crowd = [], 0, 0
    for index, record in enumerate(annotations):
        place = f"{where}: annotations[{index}] (id {record.get('id', 'missing')})"
        _check_ids(record, known, place)
        x, y, width, height = _box(record, place)
        area = record.get("area")
        if area is None:
            area, no_area = width * height, no_area + 1
        elif not _is_finite(area) or area < 0:
            raise InputError(f"{place}: expected 'area' in square pixels, got {area!r}")
        if "iscrowd" not in record:
            no_crowd += 1
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise InputError(f"{place}: expected 'iscrowd' to be 0 or 1, got {crowd!r}")
        objects.append(
            {
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "bbox": [x, y, width, height],
                "area": area,
                "iscrowd": int(crowd),
            }
        )
    total = len(annotations)
    if no_area:
        logger.warning(
            "%s: %d of %d annotations have no 'area': width x height of the box decides whether "
            "they are small, medium or large",
            where,
            no_area,
            total,
        )
    if no_crowd:
        logger.warning(
            "%s: %d of %d annotations have no 'iscrowd': taken as ordinary objects",
            where,
            no_crowd,
            total,
        )
    return objects


def _results(detections: Sequence[Any], known: tuple[set, set], where: str) -> list[dict]:
    """Checked copies of the detections, with only what the evaluation needs."""
    results = []
    for index, record in enumerate(detections):
        place = f"{where}: record {index}"
        if not isinstance(record, dict):
            raise InputError(f"{place}: expected a COCO result object, got {record!r:.60}")
        _check_ids(record, known, place)
        x, y, width, height = _box(record, place)
        score = record.get("score")
        if not _is_finite(score):
            raise InputError(f"{place}: expected a finite number as 'score', got {score!r}")
        results.append(
            {
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "bbox": [x, y, width, height],
                "score": score,
            }
        )
    return results


def _check_ids(record: dict, known: tuple[set, set], place: str) -> None:
    for key, ids in zip(("image_id", "category_id"), known, strict=True):
        value = record.get(key)
        if not isinstance(value, (int, float, str, np.integer)) or value not in ids:
            group = "images" if key == "image_id" else "categories"
            got = repr(value) if key in record else "no such key"
            raise InputError(
                f"{place}: expected {key!r} to be one of the {len(ids)} {group} of the "
                f"annotation file, got {got}; do the two files belong together?"
            )


def _box(record: dict, place: str) -> tuple[float, float, float, float]:
    box = record.get("bbox")
    if not isinstance(box, (list, tuple)) or len(box) != 4 or not all(map(_is_finite, box)):
        raise InputError(
            f"{place}: expected 'bbox' as 4 finite numbers [x, y, width, height], got {box!r:.80}"
        )
    x, y, width, height = map(float, box)
    if width < 0 or height < 0:
        raise InputError(
            f"{place}: expected 'bbox' as [x, y, width, height] with no negative size, got {box!r}"
        )
    return x, y, width, height


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
