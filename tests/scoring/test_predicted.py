import logging

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.predicted import on_images_of

TRUTH = {
    "images": [
        {"id": 7, "file_name": "a/x.png"},
        {"id": 9, "file_name": "b/x.png"},
        {"id": 5, "file_name": "c/y.png"},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
}


def predicted(*names, records=()):
    return {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names, 1)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "score": 0.5}
            for image, category in records
        ],
    }


def brought(given):
    records = on_images_of(TRUTH, given, truth_name="gt.json", name="p.json")
    return [(one["image_id"], one["category_id"]) for one in records]


def test_images_go_by_their_names_and_classes_by_theirs():
    given = predicted("b/x.png", "a/x.png", "y.png", records=[(1, 1), (2, 2), (3, 1)])
    assert brought(given) == [(9, 17), (7, 3), (5, 17)]


def test_images_that_only_one_side_has_are_counted(caplog):
    caplog.set_level(logging.WARNING)
    given = predicted("z.png", "y.png", records=[(1, 1), (2, 2)])
    assert brought(given) == [(5, 3)]
    assert "p.json: 1 image, not in gt.json" in caplog.text
    assert "gt.json: 2 images, not in p.json: nothing found there" in caplog.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"images": []}, "p.json: expected a list of COCO results, or .* got None under 'cat"),
        (predicted("x.png"), "p.json: none of its 1 image has a file_name that is in gt.json"),
        (predicted("y.png", "c/y.png"), "p.json: several of its images are image 5 of gt.json"),
        (
            predicted("y.png") | {"categories": [{"id": 1, "name": "cow"}]},
            "p.json: its category 'cow' is none of gt.json: cat, dog",
        ),
    ],
)
def test_what_does_not_belong_together_is_told(given, says):
    with pytest.raises(InputError, match=says):
        brought(given)
