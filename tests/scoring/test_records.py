import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.records import read_records
from tests.scoring.test_average_precision import detection, truth_of


def test_records_become_columns_by_image_in_the_order_of_the_file():
    boxes = (1.5, 2, 3.25, 4), (5, 6, 7, 8), (0.1, 0.2, 0.7, 0.3)
    truth = truth_of((2, 1, boxes[0]), (1, 2, boxes[1]), (2, 2, boxes[2]))
    truth["annotations"][0]["iscrowd"] = 1
    objects, found = read_records(truth, [detection(image=2, label=2), detection()])
    assert (objects.image_ids, objects.category_ids) == ((1, 2), (1, 2))
    assert objects.class_names == ("cat", "dog")
    assert objects.image.tolist() == [0, 1, 1]
    assert objects.labels.tolist() == [1, 0, 1]
    # To the bit: 0.1 + 0.7 - 0.1 is not 0.7.
    assert objects.xywh.tolist() == [list(boxes[1]), list(boxes[0]), list(boxes[2])]
    assert objects.areas.tolist() == [56, 13, 0.7 * 0.3]
    assert objects.crowd.tolist() == [False, True, False]
    assert (found.image.tolist(), found.labels.tolist()) == ([1, 0], [1, 0])
    assert (found.xywh[0].tolist(), found.scores.tolist()) == ([10, 10, 20, 20], [0.9, 0.9])
    assert found.scores.dtype == np.float64


def test_an_image_that_a_file_names_twice_is_one():
    truth = truth_of((1, 1, (0, 0, 9, 9)))
    objects, _ = read_records({**truth, "images": truth["images"] * 2}, [])
    assert objects.image_ids == (1, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": float("nan")}, "'score', got nan"),
        ({"score": float("inf")}, "'score', got inf"),
        ({"score": "0.5"}, "'score', got '0.5'"),
        ({"image_id": 77}, "'image_id' to be one of the 2 images .* got 77"),
        ({"image_id": [1]}, r"'image_id' .* got \[1\]"),
        ({"category_id": 3}, "'category_id' to be one of the 2 categories .* got 3"),
        ({"bbox": [1, 2, 3]}, r"4 finite numbers .* got \[1, 2, 3\]"),
        ({"bbox": [1, 2, float("nan"), 3]}, "4 finite numbers"),
        ({"bbox": [1, 2, 10**400, 3]}, "4 finite numbers"),
        ({"bbox": None}, "4 finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "no negative size"),
    ],
)
def test_a_bad_detection_is_named_with_its_place(change, says):
    truth = truth_of((1, 1, (10, 10, 20, 20)))
    with pytest.raises(InputError, match=says) as caught:
        read_records(truth, [detection(), {**detection(), **change}], results_name="d.json")
    assert str(caught.value).startswith("d.json: record 1: ")
    assert "\n" not in str(caught.value)


def test_a_missing_key_of_a_detection_is_named():
    broken = detection()
    del broken["category_id"]
    with pytest.raises(InputError, match=r"record 0: .*'category_id'.*no such key"):
        read_records(truth_of(), [broken])
    with pytest.raises(InputError, match="record 0: expected a COCO result object, got 7"):
        read_records(truth_of(), [7])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bbox": [1, 2, 3, "4"]}, "4 finite numbers"),
        ({"area": float("nan")}, "'area' in square pixels, got nan"),
        ({"iscrowd": 2}, "'iscrowd' to be 0 or 1, got 2"),
        ({"category_id": 9}, "'category_id'"),
    ],
)
def test_a_bad_annotation_is_named_with_its_place(change, says):
    truth = truth_of((1, 1, (10, 10, 20, 20)), (2, 1, (10, 10, 20, 20)))
    truth["annotations"][1].update(change)
    with pytest.raises(InputError, match=says) as caught:
        read_records(truth, [], truth_name="gt.json")
    assert str(caught.value).startswith("gt.json: annotations[1] (id 2): ")


def test_json_that_is_not_coco_is_refused():
    with pytest.raises(InputError, match=r"not COCO annotations.*'images', got no such key"):
        read_records({"a": 1}, [])
    with pytest.raises(InputError, match=r"images\[1\]: expected an integer 'id', got None"):
        read_records({**truth_of(), "images": [{"id": 1}, {}]}, [])
    twice = [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]
    with pytest.raises(InputError, match="each id once"):
        read_records({**truth_of(), "categories": twice}, [])
