"""COCO average precision by size and by class, as pycocotools computes it."""

import contextlib
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from flaxyolo.base.errors import InputError
from flaxyolo.spec import parse

if TYPE_CHECKING:
    # Only for types: scoring a file must not wait for the readers and JAX to be imported.
    import flaxyolo.data.sources

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassScores:
    """Average precision of one class; None where the class has no objects."""

    name: str
    map: float | None
    map_50: float | None


@dataclass(frozen=True)
class Scores:
    """COCO's twelve numbers and the scores per class; None where there is nothing to score."""

    map: float | None
    map_50: float | None
    map_75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar_1: float | None
    mar_10: float | None
    mar_100: float | None
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None
    per_class: tuple[ClassScores, ...]

    def objective(self) -> float:
        """What a sweep maximises: mAP_s + mAP_m + mAP_l of the sizes that have objects."""
        sizes = [self.map_small, self.map_medium, self.map_large]
        present = [size for size in sizes if size is not None]
        if not present:
            raise InputError("nothing to score: the validation images hold no object; label some")
        return sum(present)

    def to_dict(self) -> dict[str, Any]:
        """Plain dict with torchmetrics' keys and `per_class`, ready for JSON."""
        return {**asdict(self), "per_class": [asdict(scores) for scores in self.per_class]}

    @classmethod
    def from_dict(cls, data: object, where: str = "scores") -> "Scores":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


def ground_truth(
    examples: "Iterable[flaxyolo.data.sources.Example]",
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> dict[str, Any]:
    """The COCO form of examples: xywh boxes in original pixels, `area` and `iscrowd` as given."""
    images, annotations = [], []
    for example in examples:
        images.append({"id": example.image_id, "height": example.height, "width": example.width})
        boxes = xyxy_to_xywh(example.boxes)
        for box, label, area, crowd in zip(
            boxes, example.labels, example.areas, example.crowd, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": example.image_id,
                    "category_id": category_ids[int(label)],
                    "bbox": box.tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    categories = [
        {"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def xyxy_to_xywh(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """COCO's boxes (left, top, width, height), in float64, from corners."""
    exact = boxes.astype(np.float64)
    return np.concatenate([exact[:, :2], exact[:, 2:] - exact[:, :2]], 1)


def coco_scores(
    truth: Mapping[str, Any],
    detections: Sequence[Any] | Float[np.ndarray, "n 7"],
    *,
    truth_name: str = "ground truth",
    detections_name: str = "detections",
) -> Scores:
    """Score detections against ground truth in COCO form, as pycocotools does.

    Detections are COCO's result records, or rows (image id, x, y, width, height, score,
    category id). The names say in an error where the two came from.
    """
    checked = check_records(
        truth, detections, truth_name=truth_name, detections_name=detections_name
    )
    stats, precision = _run_pycocotools(
        checked.image_ids, checked.category_ids, checked.objects, checked.results
    )
    # COCOeval sorts the categories by id.
    place = {number: k for k, number in enumerate(sorted(checked.category_ids))}
    per_class = []
    for name, number in zip(checked.class_names, checked.category_ids, strict=True):
        mine = precision[:, :, place[number], 0, -1]
        per_class.append(ClassScores(name, _mean(mine), _mean(mine[0])))
    numbers = {
        key: None if value < 0 else float(value) for key, value in zip(KEYS, stats, strict=True)
    }
    return Scores(**numbers, per_class=tuple(per_class))


@dataclass(frozen=True)
class Checked:
    """Truth and detections with only what an evaluation needs; boxes are xywh."""

    image_ids: list[Any]
    class_names: list[str]
    category_ids: list[Any]
    objects: list[dict]
    results: list[dict]


def check_records(
    truth: Mapping[str, Any],
    detections: Sequence[Any] | Float[np.ndarray, "n 7"],
    *,
    truth_name: str,
    detections_name: str,
) -> Checked:
    """Check what `coco_scores` takes, and copy it."""
    images = _ids(_records(truth, "images", truth_name), "images", truth_name)
    categories = _records(truth, "categories", truth_name)
    category_ids = _ids(categories, "categories", truth_name)
    if len(set(category_ids)) < len(category_ids):
        raise InputError(f"{truth_name}: categories: expected each id once, got {category_ids}")
    known = set(images), set(category_ids)
    objects = _objects(_records(truth, "annotations", truth_name), known, truth_name)
    if isinstance(detections, np.ndarray):
        detections = _rows_to_records(detections)
    results = _results(detections, known, detections_name)
    names = [str(category.get("name", category["id"])) for category in categories]
    return Checked(images, names, category_ids, objects, results)


def _run_pycocotools(
    images: list[Any], category_ids: list[Any], objects: list[dict], results: list[dict]
) -> tuple[np.ndarray, np.ndarray]:
    """The twelve numbers, and precision (IoU, recall, class, size, limit); -1: nothing there."""
    # Imported here: reading scores back from a study does not need it.
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = []
        for records in (objects, results):
            # Not loadRes: it fails on an empty list, and writes into the caller's records.
            side: Any = COCO()
            side.dataset = {
                "images": [{"id": number} for number in images],
                "categories": [{"id": number} for number in category_ids],
                "annotations": records,
            }
            side.createIndex()
            sides.append(side)
        evaluator = COCOeval(*sides, iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return np.asarray(evaluator.stats), evaluator.eval["precision"]


def _mean(precision: np.ndarray) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None


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
                # Numbered anew: COCOeval takes a match with id 0 for no match, and of objects
                # that share an id it keeps the last.
                "id": index + 1,
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
                "id": index + 1,
                "image_id": record["image_id"],
                "category_id": record["category_id"],
                "bbox": [x, y, width, height],
                "area": width * height,
                "score": score,
            }
        )
    return results


def _rows_to_records(rows: np.ndarray) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, *box, score, category in rows.tolist()
    ]


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


KEYS = (
    "map",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)
"""torchmetrics' names of the twelve numbers, in COCO's order."""
