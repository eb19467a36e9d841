import contextlib
import copy
import io
import json
import logging

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.average_precision import KEYS, coco_scores
from flaxyolo.search.objective import Objective
from tests.scoring.judged import judged

TABLES = ("gt_official", "gt_boxarea_nocrowd")
EXPECTED_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
EXPECTED_KEYS += ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def read(folder, name):
    return json.loads((folder / "eval_coco100" / f"{name}.json").read_text())


def scored(truth, found, **names):
    return coco_scores(*judged(truth, found, **names))


def truth_of(*annotations, classes=("cat", "dog")):
    """Two images and the classes, ids from 1; an annotation is (image, class, box)."""
    return {
        "images": [{"id": 1, "height": 400, "width": 400}, {"id": 2, "height": 400, "width": 400}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": label,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i, (image, label, box) in enumerate(annotations)
        ],
    }


def detection(image=1, label=1, box=(10, 10, 20, 20), score=0.9):
    return {"image_id": image, "category_id": label, "bbox": list(box), "score": score}


def pycocotools_stats(truth, detections):
    """COCOeval as its own documentation calls it."""
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = copy.deepcopy(truth)
        side.createIndex()
        evaluator = COCOeval(side, side.loadRes(copy.deepcopy(detections)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


@pytest.mark.parametrize("table", TABLES)
def test_both_published_tables_come_out(test_data, table):
    expected = read(test_data, "expected")[table]
    scores = scored(read(test_data, table), read(test_data, "dets"))
    for key, name in zip(KEYS, EXPECTED_KEYS, strict=True):
        # The file has 9 decimals.
        assert getattr(scores, key) == pytest.approx(expected["stats"][name], abs=1e-9), key
    per_class = {entry.name: -1 if entry.map is None else entry.map for entry in scores.per_class}
    assert per_class == pytest.approx(expected["AP_per_category"], abs=1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_the_numbers_are_pycocotools_own(test_data, table):
    truth, detections = read(test_data, table), read(test_data, "dets")
    scores = scored(truth, detections)
    expected = pycocotools_stats(truth, detections)
    np.testing.assert_allclose([getattr(scores, key) for key in KEYS], expected, atol=1e-12)


def test_none_of_the_common_mistakes_is_made(test_data):
    # The rows of SOURCE.md: AP, APs, APm, APl on gt_official, with each mistake made on purpose.
    mistakes = {
        "size from the box": (0.504581, 0.593789, 0.559493, 0.489367),
        "crowds dropped": (0.503647, 0.585142, 0.517841, 0.501390),
        "crowds as objects": (0.502346, 0.585033, 0.517370, 0.487940),
    }
    keys = ("map", "map_small", "map_medium", "map_large")
    truth, detections = read(test_data, "gt_official"), read(test_data, "dets")
    right = [getattr(scored(truth, detections), key) for key in keys]
    assert right == pytest.approx((0.504581, 0.585626, 0.519400, 0.501398), abs=1e-6)
    for name, row in mistakes.items():
        wrong = copy.deepcopy(truth)
        if name == "size from the box":
            for record in wrong["annotations"]:
                record["area"] = record["bbox"][2] * record["bbox"][3]
        if name == "crowds dropped":
            wrong["annotations"] = [r for r in wrong["annotations"] if not r["iscrowd"]]
        if name == "crowds as objects":
            for record in wrong["annotations"]:
                record["iscrowd"] = 0
        made = scored(wrong, detections)
        assert [getattr(made, key) for key in keys] == pytest.approx(row, abs=1e-6), name
        assert max(abs(a - b) for a, b in zip(right, row, strict=True)) > 1e-3, name


def test_sizes_and_classes_without_objects_have_no_score():
    # 20 x 20 is small (below 32 x 32); the second box misses, at half the recall of the class.
    truth = truth_of((1, 1, (10, 10, 20, 20)), (2, 1, (10, 10, 20, 20)))
    scores = scored(truth, [detection()])
    # Precision is 1 up to recall 0.5: 51 of the 101 points of recall.
    assert scores.map == pytest.approx(51 / 101)
    assert scores.map_small == pytest.approx(51 / 101)
    assert scores.mar_100 == pytest.approx(0.5)
    assert (scores.map_medium, scores.map_large, scores.mar_medium, scores.mar_large) == (None,) * 4
    cat, dog = scores.per_class
    assert (cat.name, cat.map_50) == ("cat", pytest.approx(51 / 101))
    assert (dog.name, dog.map, dog.map_50) == ("dog", None, None)
    assert Objective().value(scores) == scores.map_small


def test_the_objective_adds_up_the_sizes_that_exist():
    truth = truth_of((1, 1, (10, 10, 20, 20)), (1, 2, (0, 0, 200, 200)))
    found = [detection(), detection(label=2, box=(0, 0, 200, 200))]
    scores = scored(truth, found)
    assert scores.map_medium is None
    assert scores.map_small == pytest.approx(1.0)
    assert scores.map_large == pytest.approx(1.0)
    assert Objective().value(scores) == pytest.approx(2.0)


def test_no_detections_score_zero_where_there_are_objects():
    scores = scored(truth_of((1, 1, (10, 10, 20, 20))), [])
    assert (scores.map, scores.map_50, scores.map_small, scores.mar_100) == (0.0,) * 4
    assert (scores.map_large, scores.per_class[0].map, scores.per_class[1].map) == (None, 0.0, None)


@pytest.mark.parametrize("found", [[], [detection()]], ids=["nothing found", "something found"])
def test_without_any_object_nothing_is_scored(found):
    scores = scored(truth_of(), found)
    assert [getattr(scores, key) for key in KEYS] == [None] * 12
    with pytest.raises(InputError, match="no object"):
        Objective().value(scores)


def test_annotation_ids_do_not_matter():
    # In pycocotools a match with id 0 counts as none, and of a doubled id only one is kept.
    truth = truth_of((1, 1, (10, 10, 20, 20)), (2, 1, (10, 10, 20, 20)))
    found = [detection(), detection(image=2)]
    for first, second in ((0, 1), (5, 5)):
        truth["annotations"][0]["id"], truth["annotations"][1]["id"] = first, second
        assert scored(truth, found).map == pytest.approx(1.0)


def test_the_callers_records_stay_as_they_are():
    truth, detections = truth_of((1, 1, (10, 10, 20, 20))), [detection()]
    before = copy.deepcopy((truth, detections))
    scored(truth, detections)
    assert (truth, detections) == before


def test_a_missing_area_is_the_boxs_and_is_said(caplog):
    truth = truth_of((1, 1, (10, 10, 20, 20)), (2, 1, (10, 10, 20, 20)))
    expected = scored(truth, [detection()])
    del truth["annotations"][1]["area"]
    del truth["annotations"][1]["iscrowd"]
    with caplog.at_level(logging.WARNING):
        assert scored(truth, [detection()], truth_name="gt.json") == expected
    assert "gt.json: 1 of 2 annotations have no 'area'" in caplog.text
    assert "gt.json: 1 of 2 annotations have no 'iscrowd'" in caplog.text


def test_a_dict_of_scores_has_torchmetrics_keys_and_goes_to_json():
    scores = scored(truth_of((1, 1, (10, 10, 20, 20))), [detection()])
    data = json.loads(json.dumps(scores.to_dict()))
    assert tuple(data) == (*KEYS, "per_class")
    assert data["map"] == scores.map
    assert data["map_large"] is None
    one = pytest.approx(1.0)
    assert data["per_class"][0] == {"name": "cat", "map": one, "map_50": one}


def test_scoring_prints_nothing(capsys):
    scored(truth_of((1, 1, (10, 10, 20, 20))), [detection()])
    assert capsys.readouterr() == ("", "")
