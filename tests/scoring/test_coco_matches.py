"""Our matching against what pycocotools keeps of every image, class and size."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flaxyolo.base.detections import Detections
from flaxyolo.scoring import coco_matches
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.truth import GroundTruth
from tests.scoring.test_evaluation import made_up

SIZES = ("all", "small", "medium", "large")


def records(side, images, labels, **columns):
    """A side as COCO's records; ids from 1, as pycocotools takes a match with 0 for none."""
    rows = zip(images.tolist(), labels.tolist(), side.xywh.tolist(), strict=True)
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {"id": index + 1, "image_id": image, "category_id": label, "bbox": box}
        | {name: column[index] for name, column in values.items()}
        for index, (image, label, box) in enumerate(rows)
    ]


def by_pycocotools(truth, found):
    """The same by size: objects of each class and image, and of each class its detections' images,
    hits, ignored ones and ranks."""
    images, labels = np.array(truth.image_ids), np.array(truth.category_ids)
    sides = (
        records(truth, images[truth.image], labels[truth.labels], area=truth.areas,
                iscrowd=truth.crowd.astype(int)),
        records(found, images[found.image], labels[found.labels], score=found.scores,
                area=found.xywh[:, 2:].prod(1)),
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        cocos = []
        for side in sides:
            coco = COCO()
            coco.dataset = {
                "images": [{"id": number} for number in images.tolist()],
                "categories": [{"id": number} for number in labels.tolist()],
                "annotations": side,
            }
            coco.createIndex()
            cocos.append(coco)
        evaluator = COCOeval(*cocos, "bbox")
        evaluator.evaluate()
    kept = np.empty((len(labels), 4, len(images)), object)
    kept.ravel()[:] = evaluator.evalImgs
    return {size: [of_class(row[place]) for row in kept] for place, size in enumerate(SIZES)}


def of_class(by_image):
    there = [(place, one) for place, one in enumerate(by_image) if one is not None]
    objects = np.zeros(len(by_image), int)
    for place, one in there:
        objects[place] = np.count_nonzero(one["gtIgnore"] == 0)
    counts = [len(one["dtScores"]) for _, one in there]
    image = np.repeat([place for place, _ in there], counts).astype(int)
    scores = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in there)])
    none = np.zeros((10, 0))
    ignored = np.concatenate([none, *(one["dtIgnore"] for _, one in there)], 1).astype(bool)
    hit = (np.concatenate([none, *(one["dtMatches"] for _, one in there)], 1) > 0) & ~ignored
    rank = np.concatenate([np.zeros(0, int), *(np.arange(count) for count in counts)])
    order = np.argsort(-scores, kind="stable")
    order = order[~ignored[:, order].all(0)]
    return objects, image[order], hit[:, order], ignored[:, order], rank[order]


def assert_same(truth, found):
    """The detections' hits, so that a test can see that there are some."""
    ours, theirs = matched_by_size(truth, found), by_pycocotools(truth, found)
    assert tuple(ours) == SIZES
    hits = 0
    for size, classes in theirs.items():
        side = ours[size]
        mine = zip(side.objects, side.found, side.ranks, strict=True)
        for (objects, matches, ranks), other in zip(mine, classes, strict=True):
            for one, expected in zip((objects, *matches, ranks), other, strict=True):
                np.testing.assert_array_equal(one, expected)
            hits += int(matches.hit.sum())
    return hits


@pytest.mark.parametrize("seed", range(24))
def test_made_up_data(seed):
    assert assert_same(*made_up(seed, found=(400, 6000, 40)[seed % 3])) > 20


@pytest.mark.parametrize("seed", range(6))
def test_a_few_images_full_of_objects_on_a_grid(seed):
    # Overlaps are equal and at thresholds exactly, areas at the ends of the ranges, and
    # detections are sent away by better ones again and again.
    rng = np.random.default_rng(seed)

    def boxes(count):
        return np.concatenate(
            [rng.integers(0, 4, (count, 2)) * 16.0, rng.integers(1, 7, (count, 2)) * 16.0], 1
        )

    objects, found = boxes(120), boxes(900)
    truth = GroundTruth(
        image_ids=(7, 3, 5),
        class_names=("a", "b"),
        category_ids=(2, 1),
        image=np.sort(rng.integers(3, size=120)),
        labels=rng.integers(2, size=120),
        xywh=objects,
        areas=objects[:, 2:].prod(1),
        crowd=rng.random(120) < 0.2,
    )
    detections = Detections(
        found,
        (rng.integers(1, 9, 900) / 8).astype(np.float32),
        rng.integers(2, size=900),
        rng.integers(3, size=900),
    )
    assert assert_same(truth, detections) > 500


def test_pairs_are_compared_in_portions(monkeypatch):
    truth, found = made_up(1, found=6000)
    whole = matched_by_size(truth, found)
    # Less than one detection has: a portion holds one all the same.
    monkeypatch.setattr(coco_matches, "PAIRS", 3)
    for size, side in matched_by_size(truth, found).items():
        for one, other in zip(side.found, whole[size].found, strict=True):
            np.testing.assert_array_equal(one.hit, other.hit)


def test_nothing_found_and_nothing_there():
    truth, found = made_up(0)
    assert assert_same(truth, found.part(np.zeros(0, int))) == 0
    empty = {"image": (0,), "labels": (0,), "xywh": (0, 4), "areas": (0,), "crowd": (0,)}
    columns = {name: np.zeros(shape, getattr(truth, name).dtype) for name, shape in empty.items()}
    assert assert_same(GroundTruth(**vars(truth) | columns), found) == 0


def test_only_the_sizes_that_are_asked_for():
    truth, found = made_up(0)
    assert list(matched_by_size(truth, found, ["small"])) == ["small"]
