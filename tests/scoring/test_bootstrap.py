import json

import numpy as np
import pytest

from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.bootstrap import draw_weights, interval, weighted_map
from flaxyolo.scoring.coco_matches import matched_by_size
from tests.ablation.made import made_rows, made_truth
from tests.scoring.judged import judged


def scores(truth, rows, weights=None):
    """mAP50-95 and mAP50 of one run, (b, 2)."""
    objects, found = judged(truth, rows)
    weights = np.ones((1, len(objects.image_ids)), np.int64) if weights is None else weights
    side = matched_by_size(objects, found, ["all"])["all"]
    return weighted_map(side.objects, [side.found], weights)[0]


def copies(truth, rows, weights):
    """The data set in which each image stands as often as its weight says."""
    images, annotations, found = [], [], []
    for number, weight in zip(sorted(r["id"] for r in truth["images"]), weights, strict=True):
        for _ in range(weight):
            fresh = len(images) + 1
            images.append({"id": fresh})
            for record in truth["annotations"]:
                if record["image_id"] == number:
                    annotations.append({**record, "image_id": fresh})
            mine = rows[rows[:, 0] == number].copy()
            mine[:, 0] = fresh
            found.append(mine)
    return {**truth, "images": images, "annotations": annotations}, np.concatenate(found)


@pytest.mark.parametrize("table", ["gt_official", "gt_boxarea_nocrowd"])
def test_unit_weights_give_pycocotools_numbers_on_coco(test_data, table):
    folder = test_data / "eval_coco100"
    truth = json.loads((folder / f"{table}.json").read_text())
    found = json.loads((folder / "dets.json").read_text())
    rows = np.array([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in found])
    expected = coco_scores(*judged(truth, found))
    np.testing.assert_allclose(
        scores(truth, rows), [[expected.map, expected.map_50]], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(6))
def test_unit_weights_give_pycocotools_numbers_on_made_data(seed):
    random = np.random.default_rng(seed)
    truth = made_truth(random, images=12, crowds=seed % 2 == 0)
    # Coarse scores and boxes: many are equal.
    rows = made_rows(random, truth, coarse=seed > 2, per_image=130 if seed == 0 else 12)
    expected = coco_scores(*judged(truth, rows))
    np.testing.assert_allclose(
        scores(truth, rows), [[expected.map, expected.map_50]], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_is_that_many_copies_of_the_image(seed):
    random = np.random.default_rng(seed)
    truth = made_truth(random, images=10, crowds=True)
    rows = made_rows(random, truth)
    weights = draw_weights(10, resamples=3, seed=seed)
    for row, got in zip(weights, scores(truth, rows, weights), strict=True):
        expected = coco_scores(*judged(*copies(truth, rows, row)))
        np.testing.assert_allclose(got, [expected.map, expected.map_50], rtol=0, atol=1e-12)


def test_no_detections_score_nothing():
    truth = made_truth(np.random.default_rng(0), images=4)
    np.testing.assert_array_equal(scores(truth, np.zeros((0, 7))), [[0.0, 0.0]])


def test_every_resample_has_as_many_images_as_there_are():
    weights = draw_weights(7, resamples=50)
    assert weights.shape == (50, 7)
    assert (weights.sum(1) == 7).all()
    assert (draw_weights(7, resamples=50) == weights).all()


def test_the_interval_leaves_a_fortieth_on_each_side():
    assert interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_the_bootstrap_error_of_found_or_not_is_binomial():
    # One object an image and one detection, right (at the top) in half of them: AP of perfect
    # precision is the recall, so its spread over resamples is that of a share.
    n = 100
    box = [0.0, 0.0, 50.0, 50.0]
    truth = {
        "images": [{"id": i} for i in range(n)],
        "categories": [{"id": 1}],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0} for i in range(n)
        ],
    }
    rows = np.array([[i, *box, 0.9, 1] for i in range(n // 2)])
    found = scores(truth, rows, draw_weights(n, resamples=2000))[:, 1]
    assert found.mean() == pytest.approx(0.5, abs=0.01)
    assert found.std() == pytest.approx(0.05, abs=0.005)
