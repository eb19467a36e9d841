import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import one_line
from flaxyolo.data.labels.findings import KINDS, Audit
from flaxyolo.data.sources import audit_source, read_dataset
from tests.data.coco_folder import coco, turned, write, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))


def audit_of(root: Path, data: dict, val: dict | None = None) -> Audit:
    return audit_source(f"coco:{write(root / 'set', data, val)}")


def of_train(audit: Audit) -> dict[str, int]:
    """Counts by kind, without the crowd that every file has."""
    found = {f.kind: f.count for f in audit.findings if f.split == "train"}
    assert found.pop("crowd", 1) == 1
    return found


def balanced(audit: Audit) -> bool:
    """Whether what was listed is what is kept and what the findings say has left."""
    return all(
        counts.listed_images == counts.images + sum(f.images_out for f in findings)
        and counts.listed_boxes == counts.boxes + sum(f.boxes_out for f in findings)
        for split, counts in audit.splits
        for findings in [[f for f in audit.findings if f.split == split]]
    )


def test_labels_without_a_fault_have_only_their_crowd_counted(tmp_path):
    audit = audit_of(tmp_path, coco())
    assert [(f.kind, f.split, f.count) for f in audit.findings] == [
        ("crowd", "train", 1), ("crowd", "val", 1)
    ]  # fmt: skip
    assert audit.stops == ()
    assert [(split, c.images, c.boxes) for split, c in audit.splits] == [
        ("train", 2, 4), ("val", 2, 4)
    ]  # fmt: skip
    assert json.loads(json.dumps(audit.to_dict()))["splits"]["train"]["listed_boxes"] == 4


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"image_id": 8}, "unknown_image", "annotation 1: image_id 8"),
        ({"bbox": [1, 2, 3, float("nan")]}, "not_numbers", "bbox [1, 2, 3, nan]"),
        ({"bbox": [1, 2, 3, 1e16]}, "not_numbers", "bbox [1, 2, 3, 1e+16]"),
        ({"bbox": [9, 9, -3, 4]}, "negative", "bbox [9, 9, -3, 4]"),
        ({"category_id": 5}, "class", "annotation 1: image_id 7, category_id 5"),
        ({"bbox": [50, 5, 12, 4]}, "outside", "annotation 1"),
        ({"bbox": [40, 5, 12, 4]}, "outside", "annotation 1"),
        ({"bbox": [3, -14, 12, 14]}, "outside", "annotation 1"),
        ({"bbox": [50, 50, 0, 0]}, "outside", "annotation 1"),
        ({"bbox": [29.65, 8.33, 1.03, 0.0], "area": 0.0}, "zero_area", "annotation 1"),
        ({"bbox": [40.25, 8, 0.5, 3]}, "zero_area", "annotation 1"),
        ({"bbox": [3, 3, 1e-30, 3]}, "zero_area", "annotation 1"),
        ({"bbox": [0, 0, 1e-30, 1e-30]}, "zero_area", "annotation 1"),
        ({"bbox": [1, 2, 3, 4], "category_id": 4}, "duplicate", "annotation 5"),
    ],
)
def test_a_box_that_cannot_be_used_is_left_out_counted_and_named(tmp_path, change, kind, words):
    data = coco()
    data["annotations"][0].update(change)
    audit = audit_of(tmp_path, data)
    assert of_train(audit) == {kind: 1}
    finding = audit.findings[0]
    assert finding.boxes_out == 1
    assert finding.stops == (kind not in ("zero_area", "duplicate"))
    assert "instances_train.json" in finding.first[0]
    assert words in finding.first[0]
    assert balanced(audit)


@pytest.mark.parametrize(
    ("change", "kind", "box", "stops"),
    [
        ({"bbox": [30, 5, 12, 4]}, "beyond", [30, 5, 40, 9], True),
        ({"bbox": [-1.5, 5, 12, 4]}, "beyond", [0, 5, 10.5, 9], True),
        ({"bbox": [-0.5, 20, 41.5, 10.75]}, "clipped", [0, 20, 40, 30], False),
        ({"bbox": [29, 5, 12, 4]}, "clipped", [29, 5, 40, 9], False),
        ({"iscrowd": 2}, "crowd_text", [10, 5, 30.5, 15], True),
        ({"area": -3}, "area", [10, 5, 30.5, 15], False),
        ({"area": 1e-300}, "area", [10, 5, 30.5, 15], False),
        ({"area": float("inf")}, "area", [10, 5, 30.5, 15], False),
        ({"area": None}, "no_area", [10, 5, 30.5, 15], False),
        ({"id": 5}, "box_id", [10, 5, 30.5, 15], False),
    ],
)
def test_a_box_that_can_be_mended_is_kept_counted_and_named(tmp_path, change, kind, box, stops):
    data = coco()
    data["annotations"][0].update(change)
    audit = audit_of(tmp_path, data)
    assert of_train(audit) == {kind: 1}
    assert audit.findings[0].stops == stops
    assert balanced(audit)
    if stops:
        with pytest.raises(InputError, match=r"found train: 1 boxes .*annotation 1"):
            read_dataset(f"coco:{tmp_path / 'set'}")
    else:
        example = read_dataset(f"coco:{tmp_path / 'set'}").train[0]
        assert example.boxes[0].tolist() == box
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert example.areas[0] == (area if "area" in kind else 77.5)


def test_what_floats_leave_beyond_a_border_is_clipped_without_a_word(tmp_path):
    data = coco()
    data["annotations"][0]["bbox"] = [19.5, 5, 20.5000001, 10]
    assert of_train(audit_of(tmp_path, data)) == {}
    assert read_dataset(f"coco:{tmp_path / 'set'}").train[0].boxes[0, 2] == 40


def test_boxes_are_the_same_only_with_image_class_and_crowd(tmp_path):
    data = coco()
    same = {"bbox": [1, 2, 3, 4], "area": 12}
    data["annotations"] += [
        {"id": 10, "image_id": 7, "category_id": 9, **same},
        {"id": 11, "image_id": 3, "category_id": 4, **same},
        {"id": 12, "image_id": 7, "category_id": 4, **same, "iscrowd": 1},
        {"id": 13, "image_id": 7, "category_id": 4, **same},
        {"id": 14, "image_id": 7, "category_id": 4, **same},
    ]
    audit = audit_of(tmp_path, data)
    (finding,) = (f for f in audit.findings if f.kind == "duplicate")
    assert [place.split(": ")[1] for place in finding.first] == ["annotation 13", "annotation 14"]
    assert len(read_dataset(f"coco:{tmp_path / 'set'}").train[0].boxes) == 5


@pytest.mark.parametrize(
    ("change", "kind", "words", "boxes"),
    [
        ({"file_name": "no.png"}, "missing", "images/no.png", 3),
        ({"file_name": "text.png"}, "undecodable", "text.png: 8 bytes that are none", 3),
        ({"file_name": "half.png"}, "undecodable", "that is cut off", 3),
        (
            {"width": 30, "height": 40},
            "size",
            "30 x 40 pixels (width x height), the file has 40",
            0,
        ),
        ({"width": "wide"}, "size_text", "image 7: width 'wide', height 30", 0),
    ],
)
def test_an_image_that_poisons_is_counted_and_named(tmp_path, change, kind, words, boxes):
    folder = write_image(tmp_path / "set" / "images" / "half.png", 30, 40).parent
    half = (folder / "half.png").read_bytes()
    (folder / "half.png").write_bytes(half[: len(half) // 2])
    (folder / "text.png").write_text("no image")
    data = coco()
    data["images"][0].update(change)
    audit = audit_of(tmp_path, data)
    found = of_train(audit)
    assert found.pop(kind) == 1
    assert found.keys() <= {"beyond", "outside", "unlisted"}
    finding = audit.findings[0]
    assert finding.stops
    assert (finding.images_out, finding.boxes_out) == (int(boxes > 0), boxes)
    assert "instances_train.json: image 7: " in finding.first[0]
    assert words in finding.first[0]
    assert balanced(audit)


def test_an_image_without_a_size_takes_its_files(tmp_path):
    data = coco()
    del data["images"][0]["width"], data["images"][0]["height"]
    assert of_train(audit_of(tmp_path, data)) == {"no_size": 1}
    example = read_dataset(f"coco:{tmp_path / 'set'}").train[0]
    assert (example.height, example.width) == (30, 40)


def test_different_images_with_the_same_id_stop_and_none_of_them_is_used(tmp_path):
    data = coco()
    data["images"][1]["id"] = 7
    data["images"].append(dict(data["images"][0]))
    data["annotations"][3]["image_id"] = 7
    audit = audit_of(tmp_path, data)
    finding = audit.findings[0]
    assert (finding.kind, finding.count, finding.images_out) == ("image_id", 2, 3)
    assert finding.boxes_out == len(data["annotations"])
    assert "b.png, first" in finding.first[0]
    assert audit.stops == (finding,)
    assert balanced(audit)


def test_a_file_listed_twice_gives_its_boxes_to_the_first(tmp_path):
    data = coco()
    data["images"].append(data["images"][0] | {"id": 8})
    data["annotations"].append(data["annotations"][0] | {"id": 20, "image_id": 8})
    data["annotations"].append(
        {"id": 21, "image_id": 8, "category_id": 9, "bbox": [2, 2, 5, 5], "area": 25}
    )
    audit = audit_of(tmp_path, data)
    assert of_train(audit) == {"file_twice": 1, "duplicate": 1}
    assert balanced(audit)
    train = read_dataset(f"coco:{tmp_path / 'set'}").train
    assert [example.image_id for example in train] == [7, 3]
    assert len(train[0].boxes) == 4


def test_an_image_in_both_splits_leaves_training(tmp_path):
    root = tmp_path / "set"
    write_image(root / "images" / "other.png", 20, 20)
    data = coco()
    data["images"].append({"id": 9, "file_name": "copy.png", "width": 20, "height": 20})
    write(root, data)
    (root / "images" / "copy.png").write_bytes((root / "images" / "val_b.png").read_bytes())
    dataset = read_dataset(f"coco:{root}")
    finding = next(f for f in dataset.audit.findings if f.kind == "both_splits")
    assert (finding.split, finding.count, finding.stops) == ("train", 1, False)
    assert "image 9, as " in finding.first[0]
    assert "instances_val.json: image 3" in finding.first[0]
    assert [example.image_id for example in dataset.train] == [7, 3]
    assert len(dataset.val) == 2
    assert balanced(dataset.audit)


def test_a_training_split_that_is_all_in_validation_is_told_so_and_kept(tmp_path):
    root = write(tmp_path / "set", coco())
    train = (root / "annotations" / "instances_train.json").read_text()
    (root / "annotations" / "instances_val.json").write_text(train)
    dataset = read_dataset(f"coco:{root}")
    finding = next(f for f in dataset.audit.findings if f.kind == "same_splits")
    assert (finding.split, finding.count, finding.stops) == ("train", 2, False)
    assert len(dataset.train) == len(dataset.val) == 2
    assert balanced(dataset.audit)


def test_images_without_boxes_are_background(tmp_path):
    data = coco()
    data["annotations"].pop()
    audit = audit_of(tmp_path, data)
    assert of_train(audit) == {"empty": 1}
    assert "image 3" in next(f for f in audit.findings if f.kind == "empty").first[0]
    assert len(read_dataset(f"coco:{tmp_path / 'set'}").train) == 2


@pytest.mark.parametrize(
    ("size", "orientation", "kind", "oriented"),
    [
        ((30, 40), 6, "exif_ignored", False),
        ((40, 30), 6, "exif_applied", True),
        ((30, 40), 3, "exif_ignored", False),
        (None, 6, "exif_applied", True),
        (None, 3, "exif_applied", True),
        ((40, 30), 1, "size", None),
        ((40, 30), 3, "size", None),
        ((41, 30), 6, "size", None),
    ],
)
def test_a_rotation_is_applied_if_the_labels_mean_it(tmp_path, size, orientation, kind, oriented):
    root = tmp_path / "set"
    path = root / "images" / "x.jpg"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((30, 40, 3), np.uint8))
    if orientation > 1:
        turned(path, orientation)
    data = coco()
    data["images"][0] = {"id": 7, "file_name": "x.jpg"}
    if size:
        data["images"][0] |= {"height": size[0], "width": size[1]}
    # Inside the image whichever way it is held.
    data["annotations"][0]["bbox"] = [1, 1, 9, 9]
    data["annotations"][1]["bbox"] = [0, 0, 30, 30]
    audit = audit_of(tmp_path, data)
    assert kind in of_train(audit)
    assert balanced(audit)
    if oriented is not None:
        example = read_dataset(f"coco:{root}").train[0]
        assert example.oriented == oriented
        lying = oriented and orientation >= 5
        assert (example.height, example.width) == ((40, 30) if lying else (30, 40))


def test_every_kind_that_stops_is_named_in_one_line(tmp_path):
    data, val = coco(), coco("val")
    data["annotations"][0]["bbox"] = [1, 2, 3, None]
    data["annotations"][2]["bbox"] = [90, 2, 3, 3]
    data["annotations"][3]["bbox"] = [91, 2, 3, 3]
    val["images"][1]["file_name"] = "gone.png"
    root = write(tmp_path / "set", data, val)
    with pytest.raises(InputError) as caught:
        read_dataset(f"coco:{root}")
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "train: 1 boxes that are not four finite numbers (first: ",
        "train: 2 boxes wholly outside their image (first: ",
        "annotation 5: ",
        "val: 1 images listed but missing (first: ",
        "instances_val.json: image 3: ",
        "`--repair` (train, sweep)",
        f"python -m flaxyolo.data audit coco:{root} --repair DIR",
    ):
        assert words in message


def test_findings_are_logged_with_count_place_and_what_is_done(tmp_path, caplog):
    data = coco()
    data["annotations"][0]["bbox"] = [-0.5, 20, 41.5, 10]
    read_dataset(f"coco:{write(tmp_path / 'set', data)}")
    line = next(line for line in caplog.messages if "boxes up to" in line)
    assert "train: 1 boxes up to 1 pixel outside their image: clipped; first: " in line
    assert "annotation 1: " in line


def test_every_kind_has_words():
    for kind in KINDS.values():
        assert kind.text.startswith(kind.of)
        assert kind.done


def test_one_line_is_one_line():
    assert one_line("plain é 図") == "plain é 図"
    assert one_line("a\nb\x1b\ud800") == "a\\nb\\x1b\\ud800"
