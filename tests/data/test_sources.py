import copy
import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.data import digits
from flaxyolo.data.sources import SOURCES, read_dataset
from flaxyolo.errors import InputError

IMAGES = [
    {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
    {"id": 3, "file_name": "b.png", "width": 20, "height": 20},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 5, 20.5, 10], "area": 77.5},
    {"id": 2, "image_id": 7, "category_id": 4, "bbox": [0, 0, 40, 30], "area": 9, "iscrowd": 1},
    {"id": 5, "image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4]},
]
CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]


def coco() -> dict:
    return copy.deepcopy({"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES})


def write(
    root: Path, train: object, val: object = None, *, suffix: str = "", images: str = "images"
) -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    for split, data in (("train", train), ("val", coco() if val is None else val)):
        text = data if isinstance(data, str) else json.dumps(data)
        (root / "annotations" / f"instances_{split}{suffix}.json").write_text(text)
        folder = root / images.format(split=split)
        folder.mkdir(parents=True, exist_ok=True)
        for record in IMAGES:
            pixels = np.zeros((record["height"], record["width"], 3), np.uint8)
            cv2.imwrite(str(folder / record["file_name"]), pixels)
    return root


def error_of(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(f"coco:{root}")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_coco_folder_becomes_examples_in_the_order_of_the_file(tmp_path):
    dataset = read_dataset(f"coco:{write(tmp_path, coco())}")
    assert dataset.name == f"coco:{tmp_path}"
    assert dataset.class_names == ("cat", "dog")
    assert dataset.category_ids == (4, 9)
    first, second = dataset.train
    assert (first.image_id, first.height, first.width) == (7, 30, 40)
    assert first.image == tmp_path / "images" / "a.png"
    np.testing.assert_array_equal(
        first.boxes, np.array([[10, 5, 30.5, 15], [0, 0, 40, 30], [1, 2, 4, 6]], np.float32)
    )
    assert first.labels.tolist() == [1, 0, 0]
    assert first.areas.tolist() == [77.5, 9, 12]
    assert first.crowd.tolist() == [False, True, False]
    assert (second.image_id, second.boxes.shape, second.areas.shape) == (3, (0, 4), (0,))


@pytest.mark.parametrize(
    "images",
    ["images", "images/{split}", "images/{split}2017", "{split}", "{split}2017", "."],
)
def test_images_are_found_in_the_usual_folders(tmp_path, images):
    dataset = read_dataset(f"coco:{write(tmp_path, coco(), suffix='2017', images=images)}")
    for split, examples in (("train", dataset.train), ("val", dataset.val)):
        assert examples[1].image == tmp_path / images.format(split=split) / "b.png"


def test_an_unknown_source_is_told_which_there_are():
    with pytest.raises(InputError, match=r"expected one of digits, coco .*got 'voc:x'"):
        read_dataset("voc:x")
    with pytest.raises(InputError, match="needs a folder"):
        read_dataset("coco")
    with pytest.raises(InputError, match="takes no folder"):
        read_dataset("digits:x")
    assert set(SOURCES) == {"digits", "coco"}


def test_a_missing_folder_or_file_is_named(tmp_path):
    assert "found nothing there" in error_of(tmp_path / "no")
    (tmp_path / "file").write_text("")
    assert "found a file there" in error_of(tmp_path / "file")
    assert "instances_train.json or annotations/instances_train2017.json" in error_of(tmp_path)
    write(tmp_path, coco())
    (tmp_path / "annotations" / "instances_val.json").unlink()
    assert "instances_val.json or" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not COCO: expected an object with the lists"),
        ('{"images": [], "categories": []}', "'annotations' is not a list"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [3], "annotations": [], "categories": []}', "images[0]: expected an object"),
        ('{"images": [], "annotations": [], "categories": []}', "at least one category"),
    ],
)
def test_json_that_is_not_coco_is_told_so(tmp_path, text, words):
    message = error_of(write(tmp_path, text))
    assert str(tmp_path / "annotations" / "instances_train.json") in message
    assert words in message


def test_bytes_that_are_no_text_are_told_so(tmp_path):
    write(tmp_path, coco())
    (tmp_path / "annotations" / "instances_train.json").write_bytes(b'{"images": "\xff\xfe"}')
    assert "expected JSON in UTF-8" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (("images", 0), {"file_name": "no.png"}, "image 7 ('no.png') is in none of the folders"),
        (("images", 1), {"file_name": "no.png"}, "image 3: there is no file"),
        (("images", 1), {"file_name": 5}, "image 3: expected a text as 'file_name', got 5"),
        (("images", 1), {"id": 7}, "images[1]: id 7 is used twice"),
        (("images", 1), {"id": "3"}, "images[1]: expected an integer 'id', got '3'"),
        (("images", 1), {"width": None}, "image 3: expected an integer 'width', got None"),
        (("images", 1), {"height": 0}, "image 3: expected a 'height' of at least 1 pixel, got 0"),
        (("categories", 1), {"id": 9}, "categories[1]: id 9 is used twice"),
        (("categories", 1), {"name": ""}, "category 4: expected a text as 'name', got ''"),
        (("annotations", 1), {"id": 1}, "annotations[1]: id 1 is used twice"),
        (("annotations", 0), {"image_id": 8}, "annotation 1: there is no image 8"),
        (("annotations", 0), {"category_id": 5}, "annotation 1: there is no category 5"),
        (("annotations", 0), {"category_id": True}, "expected an integer 'category_id', got True"),
        (("annotations", 0), {"iscrowd": 2}, "annotation 1: expected iscrowd 0 or 1, got 2"),
        (("annotations", 0), {"bbox": [1, 2, 3]}, "annotation 1: expected bbox [x, y, width, heig"),
        (("annotations", 0), {"bbox": [1, 2, 3, "4"]}, "got [1, 2, 3, '4']"),
        (("annotations", 0), {"bbox": [1, 2, 3, float("nan")]}, "got [1, 2, 3, nan]"),
        (("annotations", 0), {"bbox": [1, 2, float("inf"), 3]}, "got [1, 2, inf, 3]"),
        (("annotations", 0), {"bbox": [1, 2, 10**400, 3]}, "annotation 1: expected bbox"),
        (("annotations", 0), {"bbox": None}, "annotation 1: expected bbox"),
        (("annotations", 0), {"bbox": [1, 2, -3, 4]}, "annotation 1: expected a bbox of positive"),
        (("annotations", 0), {"bbox": [30, 5, 12, 4]}, "(40 x 30, id 7) by 2 pixels"),
        (("annotations", 0), {"bbox": [-1.5, 5, 12, 4]}, "(40 x 30, id 7) by 1.5 pixels"),
        (("annotations", 0), {"bbox": [50, 50, 0, 0]}, "by 20 pixels"),
        (("annotations", 0), {"area": 0}, "annotation 1: expected an area above 0, got 0"),
        (("annotations", 0), {"area": -3.0}, "annotation 1: expected an area above 0, got -3.0"),
        (("annotations", 0), {"area": "9"}, "annotation 1: expected an area above 0, got '9'"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, place, change, words):
    data = coco()
    data[place[0]][place[1]].update(change)
    message = error_of(write(tmp_path, data))
    assert "instances_train.json" in message
    assert words in message


def test_a_file_without_images_is_told_so(tmp_path):
    data = coco() | {"images": [], "annotations": []}
    assert "instances_val.json: expected at least one image" in error_of(
        write(tmp_path, coco(), data)
    )


def test_train_and_val_must_have_the_same_categories(tmp_path):
    val = coco()
    val["categories"][0]["name"] = "wolf"
    assert "category 9 is 'wolf' here and 'dog' there" in error_of(write(tmp_path, coco(), val))
    val["categories"] = [{"id": 4, "name": "cat"}]
    val["annotations"] = []
    assert "category 9 is 'missing' here and 'dog' there" in error_of(write(tmp_path, coco(), val))


def test_boxes_up_to_a_pixel_outside_are_clipped_and_counted(tmp_path, caplog):
    data = coco()
    data["annotations"][0]["bbox"] = [-0.5, 20, 41.5, 10.75]
    caplog.set_level(logging.WARNING)
    dataset = read_dataset(f"coco:{write(tmp_path, data)}")
    assert dataset.train[0].boxes[0].tolist() == [0, 20, 40, 30]
    assert dataset.train[0].areas[0] == 77.5
    assert "1 annotations up to 1 pixel outside the image, clipped: id 1" in caplog.text


def test_boxes_without_height_are_left_out_and_named(tmp_path, caplog):
    data = coco()
    # As in COCO's own train2017; the second lies on the border, so nothing of it is left.
    data["annotations"][0].update(bbox=[29.65, 8.33, 1.03, 0.0], area=0.0)
    data["annotations"][2].update(bbox=[40.25, 8, 0.5, 3])
    dataset = read_dataset(f"coco:{write(tmp_path, data)}")
    assert dataset.train[0].boxes.tolist() == [[0, 0, 40, 30]]
    assert "2 annotations without width or height, left out: id 1, 5" in caplog.text


def test_a_missing_area_is_that_of_the_box_and_counted(tmp_path, caplog):
    write(tmp_path, coco())
    read_dataset(f"coco:{tmp_path}")
    assert "instances_train.json: 1 annotations without 'area'" in caplog.text


def test_the_fingerprint_follows_annotations_and_images(tmp_path):
    write(tmp_path, coco())

    def fingerprint() -> str:
        return read_dataset(f"coco:{tmp_path}").fingerprint

    first = fingerprint()
    assert first == fingerprint()
    data = coco()
    data["annotations"][0]["bbox"][0] = 11
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(data))
    second = fingerprint()
    os.utime(tmp_path / "images" / "b.png", (1, 1))
    third = fingerprint()
    assert len({first, second, third}) == 3


def test_digits_is_a_dataset_with_the_area_of_the_boxes(monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 8, "val": 4})
    dataset, again = read_dataset("digits"), read_dataset("digits")
    assert (len(dataset.train), len(dataset.val)) == (8, 4)
    assert dataset.name == "digits"
    assert dataset.class_names == tuple("0123456789")
    assert dataset.category_ids == tuple(range(10))
    assert dataset.fingerprint == again.fingerprint
    monkeypatch.setattr(digits, "SCENES", {"train": 7, "val": 5})
    assert read_dataset("digits").fingerprint != dataset.fingerprint
    ids = [example.image_id for example in (*dataset.train, *dataset.val)]
    assert ids == list(range(1, 13))
    example = dataset.val[0]
    assert isinstance(example.image, np.ndarray)
    assert example.image.shape == (example.height, example.width, 3)
    x1, y1, x2, y2 = example.boxes[0].tolist()
    assert example.areas[0] == (x2 - x1) * (y2 - y1)
    assert not example.crowd.any()


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("bccd", ("RBC", "WBC", "Platelets"), (292, 3922, 72, 964)),
        ("nuclei", ("nucleus",), (340, 9514, 84, 2160)),
    ],
)
def test_real_sets_have_the_counts_of_their_description(test_data, caplog, name, classes, counts):
    dataset = read_dataset(f"coco:{test_data / name}")
    assert dataset.class_names == classes
    boxes = [sum(len(e.boxes) for e in split) for split in (dataset.train, dataset.val)]
    assert (len(dataset.train), boxes[0], len(dataset.val), boxes[1]) == counts
    assert not caplog.text
