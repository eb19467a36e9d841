import json

import numpy as np
import pytest

from flaxyolo.ablation.results import load_detections, save_detections
from flaxyolo.base.errors import InputError
from flaxyolo.scoring.average_precision import coco_scores
from tests.ablation.made import made_rows, made_truth
from tests.ablation.runs import stored_rows
from tests.scoring.judged import judged


def test_detections_come_back_to_the_bit(tmp_path):
    random = np.random.default_rng(0)
    truth = made_truth(random)
    objects, found = judged(truth, made_rows(random, truth))
    save_detections(tmp_path, found, objects)
    again = load_detections(tmp_path, objects)
    for column in ("xywh", "scores", "labels", "image"):
        np.testing.assert_array_equal(getattr(again, column), getattr(found, column))
    assert [path.name for path in tmp_path.iterdir()] == ["detections.npz"]


def test_rows_of_ids_are_read_and_written(test_data, tmp_path):
    # The form that a run's folder has had from the first.
    folder = test_data / "eval_coco100"
    truth = json.loads((folder / "gt_official.json").read_text())
    records = json.loads((folder / "dets.json").read_text())
    rows = np.array([[d["image_id"], *d["bbox"], d["score"], d["category_id"]] for d in records])
    np.savez_compressed(tmp_path / "detections.npz", rows=rows)
    objects, found = judged(truth, records)
    loaded = load_detections(tmp_path, objects)
    assert coco_scores(objects, loaded) == coco_scores(objects, found)
    save_detections(tmp_path, loaded, objects)
    np.testing.assert_array_equal(stored_rows(tmp_path), rows)


def test_no_detections_are_kept(tmp_path):
    objects, none = judged(made_truth(np.random.default_rng(0), images=4), [])
    save_detections(tmp_path, none, objects)
    assert len(load_detections(tmp_path, objects)) == 0
    assert stored_rows(tmp_path).shape == (0, 7)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1.0, 0, 0, 5, 5, 0.5, 1], "row 1: expected one of the 4 image ids .* got 1; were they"),
        ([7.0, 0, 0, 5, 5, 0.5, 9], "row 1: expected one of the 4 category ids .* got 9"),
        ([7.0, 0, 0, -5, 5, 0.5, 1], "row 1: expected a box .* no negative size"),
    ],
)
def test_detections_of_other_data_are_refused(tmp_path, row, says):
    objects, _ = judged(made_truth(np.random.default_rng(0), images=4), [])
    rows = np.array([[7.0, 0, 0, 5, 5, 0.5, 1], row])
    np.savez_compressed(tmp_path / "detections.npz", rows=rows)
    with pytest.raises(InputError, match=says):
        load_detections(tmp_path, objects)
