import json
import logging
import os

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.readers import coco as coco_reader
from flaxyolo.data.readers import digits
from flaxyolo.data.sources import SOURCES, absolute, prefixed, read_dataset, source_name
from tests.data.coco_folder import coco, write


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))


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
    assert (second.image_id, second.boxes.tolist()) == (3, [[2, 2, 10, 10]])


def test_boxes_come_to_their_images_in_any_order_of_the_file(tmp_path):
    data = coco()
    data["annotations"].reverse()
    first, second = read_dataset(f"coco:{write(tmp_path, data)}").train
    assert first.labels.tolist() == [0, 0, 1]
    assert second.boxes.tolist() == [[2, 2, 10, 10]]


def test_facts_are_aligned_with_the_examples(tmp_path):
    data = coco()
    data["images"].insert(0, data["images"][1] | {"id": 9, "file_name": "val_b.png"})
    dataset = read_dataset(f"coco:{write(tmp_path, data)}")
    for examples, facts in ((dataset.train, dataset.train_facts), (dataset.val, dataset.val_facts)):
        assert facts.height.tolist() == [example.height for example in examples] == [30, 20]
        assert facts.width.tolist() == [40, 20]
        assert len(set(facts.digest)) == 2


def test_an_unknown_source_is_told_which_there_are():
    with pytest.raises(InputError, match=r"expected one of digits, scenes, coco.*got 'cocoa:x'"):
        read_dataset("cocoa:x")
    with pytest.raises(InputError, match="needs a folder"):
        read_dataset("coco")
    with pytest.raises(InputError, match="takes no folder"):
        read_dataset("digits:x")
    assert set(SOURCES) >= {"digits", "coco"}


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
    assert not dataset.mirror
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


def test_scenes_of_digits_pass_the_audit_as_they_are(monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 40, "val": 10})
    dataset = read_dataset("digits")
    assert {finding.kind for finding in dataset.audit.findings} <= {"empty"}
    built = digits.build_digits()
    for scene, example in zip(built[0] + built[1], dataset.train + dataset.val, strict=True):
        np.testing.assert_array_equal(scene.boxes, example.boxes)
        np.testing.assert_array_equal(scene.labels, example.labels)


@pytest.mark.parametrize(
    ("name", "classes", "counts"),
    [
        ("bccd", ("RBC", "WBC", "Platelets"), (292, 3922, 72, 964)),
        ("nuclei", ("nucleus",), (340, 9514, 84, 2160)),
    ],
)
def test_real_sets_have_the_counts_of_their_description(test_data, caplog, name, classes, counts):
    caplog.set_level(logging.WARNING)
    dataset = read_dataset(f"coco:{test_data / name}")
    assert dataset.class_names == classes
    boxes = [sum(len(e.boxes) for e in split) for split in (dataset.train, dataset.val)]
    assert (len(dataset.train), boxes[0], len(dataset.val), boxes[1]) == counts
    assert not caplog.text


@pytest.mark.parametrize(
    ("inside", "form"),
    [
        ("annotations/instances_train.json", "coco"),
        ("train/_annotations.coco.json", "coco"),
        ("data.yaml", "yolo"),
        ("Annotations/a.xml", "voc"),
        ("VOC2007/Annotations/a.xml", "voc"),
        ("train/a.xml", "voc"),
        ("2017/1.1.0/dataset_info.json", "tfds"),
    ],
)
def test_a_bare_folder_is_recognised_by_what_is_in_it(tmp_path, inside, form):
    folder = tmp_path / "set"
    (folder / inside).parent.mkdir(parents=True)
    (folder / inside).write_text("")
    assert prefixed(str(folder)) == f"{form}:{folder}"
    assert prefixed(f"{form}:{folder}") == f"{form}:{folder}"


def test_a_bare_file_is_recognised_by_its_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.yaml").write_text("")
    assert prefixed("data.yaml") == "yolo:data.yaml"
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"one of digits, scenes, coco, .* may be none of them"):
        prefixed("notes.txt")


def test_a_folder_of_two_forms_asks_for_the_word(tmp_path):
    (tmp_path / "data.yaml").write_text("")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text("")
    with pytest.raises(InputError, match=r"one of digits, scenes, coco, .* may be yolo and voc"):
        prefixed(str(tmp_path))


def test_a_bare_coco_folder_is_read(tmp_path):
    assert read_dataset(str(write(tmp_path, coco()))).name == f"coco:{tmp_path}"


def test_two_data_sets_called_data_yaml_have_two_names():
    assert source_name("yolo:a/data.yaml") == "a"
    assert source_name("yolo:/x/b/data.yml") == "b"
    assert source_name("coco:/x/c/dataset/images") == "c"
    assert source_name("yolo:a/coco8.yaml") == "coco8.yaml"
    assert source_name("coco:a/bccd") == "bccd"
    assert source_name("coco:/data") == "data"
    assert source_name("digits") == "digits"


def test_an_absolute_source_is_read_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert absolute("coco:a") == f"coco:{tmp_path / 'a'}"
    (tmp_path / "coco" / "2017").mkdir(parents=True)
    assert absolute("tfds:coco/2017") == "tfds:coco/2017"
    assert absolute("tfds:./coco/2017") == f"tfds:{tmp_path / 'coco' / '2017'}"
    assert absolute("digits") == "digits"


def test_what_an_earlier_version_of_the_reader_gave_the_same_files_is_known(tmp_path, monkeypatch):
    root = f"coco:{write(tmp_path, coco())}"
    now = read_dataset(root)
    for older in range(1, coco_reader.READER_VERSION):
        monkeypatch.setattr(coco_reader, "READER_VERSION", older)
        assert read_dataset(root).fingerprint in now.formerly
    assert now.fingerprint not in now.formerly
    os.utime(tmp_path / "images" / "a.png", (1, 1))
    assert read_dataset(root).fingerprint not in now.formerly
