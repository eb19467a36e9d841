import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.readers import digits
from flaxyolo.data.sources import read_dataset
from tests.data.coco_folder import coco, turned, write, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path} {path.stat().st_mtime_ns}".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def changes_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]


def spoilt() -> dict:
    data = coco()
    data["images"] += [
        {"id": 20, "file_name": "gone.png", "width": 20, "height": 20},
        {"id": 21, "file_name": "text.png", "width": 20, "height": 20},
        {"id": 3, "file_name": "c.png", "width": 20, "height": 20},
        {"id": 22, "file_name": "d.png", "width": 90, "height": 90},
    ]
    boxes = [
        (7, 9, [30, 5, 12, 4]),  # partly outside
        (7, 9, [60, 5, 12, 4]),  # wholly outside
        (7, 9, [1, 5, None, 4]),
        (7, 9, [9, 5, -3, 4]),
        (7, 5, [9, 5, 3, 4]),  # no such class
        (8, 9, [9, 5, 3, 4]),  # no such image
        (20, 9, [9, 5, 3, 4]),
        (21, 9, [9, 5, 3, 4]),
        (22, 9, [5, 5, 30, 5]),  # beyond the file's 20 x 20
        (22, 9, [50, 5, 30, 5]),
    ]
    data["annotations"] += [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": 9}
        for number, (image, category, box) in enumerate(boxes, start=100)
    ]
    return data


def test_a_repaired_copy_reads_and_tells_what_it_changed(tmp_path, caplog):
    root = write(tmp_path / "set", spoilt())
    for name in ("c.png", "d.png"):
        write_image(root / "images" / name, 20, 20)
    (root / "images" / "text.png").write_text("no image")
    before = digest_of(root)
    with pytest.raises(InputError, match="--repair"):
        read_dataset(f"coco:{root}")
    out = tmp_path / "repaired"
    dataset = read_dataset(f"coco:{root}", repair=out)
    assert digest_of(root) == before
    assert dataset.name == f"coco:{out}"
    assert not dataset.audit.stops
    # c.png has the id of b.png: nothing tells whose the boxes are.
    assert [example.image_id for example in dataset.train] == [7, 22]
    first, resized = dataset.train
    assert first.image == root / "images" / "a.png"
    assert first.boxes.tolist()[3:] == [[30, 5, 40, 9]]
    assert (resized.height, resized.width) == (20, 20)
    assert resized.boxes.tolist() == [[5, 5, 20, 10]]
    again = read_dataset(f"coco:{out}")
    assert again.fingerprint == dataset.fingerprint
    changes = changes_of(out)
    kinds = [change["kind"] for change in changes]
    assert sorted(kinds) == sorted(
        ["missing", "missing: left out with its image", "undecodable",
         "undecodable: left out with its image", "image_id",
         "image_id: left out with its image", "size", "unknown_image",
         "not_numbers", "negative", "class", "outside", "outside", "beyond", "beyond"]
    )  # fmt: skip
    for change in changes:
        assert change["file"] == str(root / "annotations" / "instances_train.json")
        assert change["record"]
    one = next(change for change in changes if change["kind"] == "beyond")
    assert one["record"] == "annotation 100"
    assert "bbox [30, 5, 12, 4]" in one["before"]
    assert one["after"] == {"bbox": [30, 5, 10, 4], "area": 9, "iscrowd": 0}
    gone = next(change for change in changes if change["kind"] == "class")
    assert gone["after"] is None
    size = next(change for change in changes if change["kind"] == "size")
    assert (size["before"]["width"], size["after"]["width"]) == (90, 20)
    assert f"a repaired copy is in {out}; 15 changes" in caplog.text


def test_a_repair_may_be_done_again_but_not_over_other_data(tmp_path):
    root = write(tmp_path / "set", coco())
    out = tmp_path / "repaired"
    first = read_dataset(f"coco:{root}", repair=out)
    assert read_dataset(f"coco:{root}", repair=out).class_names == first.class_names
    assert changes_of(out) == []
    before = digest_of(root)
    for folder in (root, root / "annotations", tmp_path):
        with pytest.raises(InputError, match="another folder than that of the data"):
            read_dataset(f"coco:{root}", repair=folder)
    other = write(tmp_path / "other", coco())
    with pytest.raises(InputError, match="an empty folder, or one of an earlier repair"):
        read_dataset(f"coco:{root}", repair=other)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write into"):
        read_dataset(f"coco:{root}", repair=tmp_path / "file")
    assert digest_of(root) == before


def test_images_that_are_no_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 6, "val": 3})
    original = read_dataset("digits")
    copy = read_dataset("digits", repair=tmp_path / "out")
    assert (len(copy.train), len(copy.val)) == (6, 3)
    for a, b in zip((*original.train, *original.val), (*copy.train, *copy.val), strict=True):
        np.testing.assert_array_equal(decode(a.image), decode(b.image))
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.areas, b.areas)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.image_id == b.image_id


@pytest.mark.parametrize("orientation", [2, 3, 6])
@pytest.mark.parametrize("height", [30, 40])
def test_a_rotation_stays_as_it_was_understood(tmp_path, orientation, height):
    root = tmp_path / "set"
    data = coco()
    data["images"][0] = {"id": 7, "file_name": "x.jpg"}
    data["annotations"] = data["annotations"][2:]
    write(root, data)
    noise = np.random.default_rng(0).integers(0, 256, (height, 40, 3), np.uint8)
    cv2.imwrite(str(root / "images" / "x.jpg"), noise)
    turned(root / "images" / "x.jpg", orientation)
    original = read_dataset(f"coco:{root}").train[0]
    assert original.oriented
    copy = read_dataset(f"coco:{root}", repair=tmp_path / "out").train[0]
    np.testing.assert_array_equal(
        decode(copy.image, oriented=copy.oriented), decode(original.image, oriented=True)
    )
    assert (copy.height, copy.width) == (original.height, original.width)


def test_a_source_without_validation_gets_one(tmp_path):
    root = write(tmp_path / "set", coco())
    (root / "annotations" / "instances_val.json").unlink()
    dataset = read_dataset(f"coco:{root}")
    copy = read_dataset(f"coco:{root}", repair=tmp_path / "out")
    assert [e.image_id for e in copy.train] == [e.image_id for e in dataset.train]
    assert [e.image_id for e in copy.val] == [e.image_id for e in dataset.val]
    assert (len(copy.train), len(copy.val)) == (1, 1)


def test_an_image_that_loses_all_its_boxes_to_faults_is_left_out_too(tmp_path):
    data = coco()
    data["annotations"][3]["bbox"] = None
    root = write(tmp_path / "set", data)
    copy = read_dataset(f"coco:{root}", repair=tmp_path / "out")
    assert [example.image_id for example in copy.train] == [7]
    change = next(change for change in changes_of(tmp_path / "out") if change["kind"] == "stripped")
    assert (change["record"], change["after"]) == ("image 3", None)


def test_a_repair_that_leaves_no_box_is_refused(tmp_path):
    data = coco()
    write_image(tmp_path / "set" / "images" / "empty.png", 20, 20)
    data["images"].append({"id": 9, "file_name": "empty.png", "width": 20, "height": 20})
    for record in data["annotations"]:
        record["bbox"] = "none"
    root = write(tmp_path / "set", data)
    with pytest.raises(InputError, match=r"expected boxes to train on, .* left none of 4: "):
        read_dataset(f"coco:{root}", repair=tmp_path / "out")
    assert not (tmp_path / "out").exists()
