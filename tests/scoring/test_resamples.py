import json

import numpy as np
import pytest

from flaxyolo.scoring.average_precision import KEYS, coco_scores
from flaxyolo.scoring.bootstrap import draw_weights
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.resamples import resampled
from tests.ablation.made import made_rows, made_truth
from tests.scoring.judged import judged
from tests.scoring.test_bootstrap import copies


def numbers(truth, rows, weights):
    """The twelve numbers, (b, 12), NaN where there is nothing."""
    values = resampled(matched_by_size(*judged(truth, rows)), KEYS, weights)
    return np.stack([values[key] for key in KEYS], 1)


def expected(truth, rows):
    scores = coco_scores(*judged(truth, rows))
    return [np.nan if getattr(scores, key) is None else getattr(scores, key) for key in KEYS]


@pytest.mark.parametrize("table", ["gt_official", "gt_boxarea_nocrowd"])
def test_unit_weights_give_pycocotools_numbers_on_coco(test_data, table):
    folder = test_data / "eval_coco100"
    truth = json.loads((folder / f"{table}.json").read_text())
    found = json.loads((folder / "dets.json").read_text())
    got = numbers(truth, found, np.ones((1, len(truth["images"])), np.int64))
    np.testing.assert_allclose(got[0], expected(truth, found), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_weight_is_that_many_copies_of_the_image(seed):
    random = np.random.default_rng(seed)
    truth = made_truth(random, images=10, crowds=seed % 2 == 0)
    rows = made_rows(random, truth, per_image=130 if seed == 0 else 12)
    weights = draw_weights(10, resamples=3, seed=seed)
    for row, got in zip(weights, numbers(truth, rows, weights), strict=True):
        right = expected(*copies(truth, rows, row))
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-12)


def test_a_size_that_was_not_drawn_has_no_score():
    truth = {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 1}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0},
            {"image_id": 2, "category_id": 1, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0},
        ],
    }
    rows = np.array([[1, 0, 0, 9, 9, 0.9, 1]], float)
    side = matched_by_size(*judged(truth, rows))
    values = resampled(side, ("map_small", "mar_small", "map"), np.array([[2, 0], [0, 2]]))
    np.testing.assert_array_equal(values["map_small"], [1, np.nan])
    np.testing.assert_array_equal(values["mar_small"], [1, np.nan])
    np.testing.assert_array_equal(values["map"], [1, 0])


def test_no_detections_score_nothing():
    truth = made_truth(np.random.default_rng(0), images=4)
    got = numbers(truth, np.zeros((0, 7)), np.ones((1, 4), np.int64))
    assert np.nanmax(got) == 0
