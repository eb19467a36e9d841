import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from flaxyolo.base.errors import InputError
from flaxyolo.data import export
from flaxyolo.data.export import convert, file_names
from flaxyolo.data.images import decode
from flaxyolo.data.readers import digits
from flaxyolo.data.sources import Dataset, read_dataset
from tests.tiny_data import write_coco


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def crowded(root: Path) -> Path:
    """Boxes with odd numbers, a crowd, areas of masks, an image without boxes, two sub-folders."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images, annotations = [], []
        for number in range(5):
            name = f"{'ab'[number % 2]}/{number // 2}.png"
            path = root / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            height, width = int(rng.integers(40, 90)), int(rng.integers(500, 999))
            cv2.imwrite(str(path), rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
            images.append({"id": 7 + 3 * number, "file_name": name, "height": height,
                           "width": width})  # fmt: skip
            for _ in range(4 * (number > 0)):
                x, y = rng.uniform(0, width - 20), rng.uniform(0, height - 20)
                box = [x, y, *rng.uniform(0.3, 20, 2)]
                annotations.append({"id": len(annotations) + 1, "image_id": 7 + 3 * number,
                                    "category_id": int(rng.choice([2, 90])), "bbox": box,
                                    "area": rng.uniform(1, 2),
                                    "iscrowd": int(rng.integers(2))})  # fmt: skip
        categories = [{"id": 90, "name": "brush \u00e9"}, {"id": 2, "name": "cat"}]
        data = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def pairs(before: Dataset, after: Dataset):
    assert after.class_names == before.class_names
    assert after.category_ids == before.category_ids
    assert (len(after.train), len(after.val)) == (len(before.train), len(before.val))
    yield from zip((*before.train, *before.val), (*after.train, *after.val), strict=True)


def assert_equal(before: Dataset, after: Dataset, tolerance: float) -> None:
    boxes = 0
    for old, new in pairs(before, after):
        assert (new.image_id, new.height, new.width) == (old.image_id, old.height, old.width)
        np.testing.assert_array_equal(new.labels, old.labels)
        np.testing.assert_array_equal(new.crowd, old.crowd)
        np.testing.assert_array_equal(new.areas, old.areas)
        np.testing.assert_allclose(new.boxes, old.boxes, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(
            decode(new.image, oriented=new.oriented), decode(old.image, oriented=old.oriented)
        )
        boxes += len(old.boxes)
    assert boxes > 0


@pytest.mark.parametrize(("form", "tolerance"), [("coco", 0.0), ("tfds", 1e-3)])
def test_what_is_written_reads_back_the_same(tmp_path, form, tolerance):
    before = read_dataset(f"coco:{crowded(tmp_path / 'data')}")
    assert any(example.crowd.any() for example in before.train)
    convert(before, tmp_path / "new" / form, form)
    assert_equal(before, read_dataset(f"{form}:{tmp_path / 'new' / form}"), tolerance)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [form]


def test_from_tfds_back_to_coco_keeps_names_and_files(tmp_path):
    root = write_coco(tmp_path / "data")
    before = read_dataset(f"coco:{root}")
    convert(before, tmp_path / "tfds", "tfds")
    convert(read_dataset(f"tfds:{tmp_path / 'tfds'}"), tmp_path / "coco")
    assert_equal(before, read_dataset(f"coco:{tmp_path / 'coco'}"), 1e-3)
    for number in range(12):
        copy = tmp_path / "coco" / "images" / "train" / f"train{number}.png"
        assert copy.read_bytes() == (root / "images" / f"train{number}.png").read_bytes()


@pytest.mark.parametrize(("form", "tolerance"), [("coco", 0.0), ("tfds", 1e-3)])
def test_pixels_that_are_in_no_file_become_png(tmp_path, monkeypatch, form, tolerance):
    monkeypatch.setattr(digits, "SCENES", {"train": 6, "val": 3})
    before = read_dataset("digits")
    convert(before, tmp_path / form, form)
    after = read_dataset(f"{form}:{tmp_path / form}")
    assert_equal(before, after, tolerance)
    assert not before.mirror
    if form == "tfds":
        assert not after.mirror
    else:
        data = json.loads((tmp_path / form / "annotations" / "instances_val.json").read_text())
        assert data["info"] == {"description": "converted from digits", "mirror": False}


@pytest.mark.parametrize("form", ["coco", "tfds"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_rotation_noted_in_the_file_keeps_its_meaning(tmp_path, form, orientation, caplog):
    caplog.set_level(logging.INFO)
    root = tmp_path / "data"
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for name, size in (("a", (20, 40, 3)), ("b", (30, 30, 3))):
            picture = Pillow.fromarray(rng.integers(0, 256, size).astype(np.uint8))
            picture.save(root / "images" / split / f"{name}.jpg", exif=exif)
            (root / "labels" / split / f"{name}.txt").write_text("0 0.25 0.25 0.25 0.5")
    (root / "data.yaml").write_text("{train: images/train, val: images/val, names: [cat]}")
    before = read_dataset(f"yolo:{root}/data.yaml")
    assert all(example.oriented for example in before.train)
    convert(before, tmp_path / form, form)
    after = read_dataset(f"{form}:{tmp_path / form}")
    assert_equal(before, after, 1e-3)
    # Only COCO has to turn an image, and only where its size does not change.
    turned = {("coco", 3): 2, ("coco", 6): 1}.get((form, orientation), 0)
    assert sum(not example.oriented for example in after.train) == turned
    assert (f"train: {turned} images are labelled as rotated" in caplog.text) == (turned > 0)


def test_names_differ_in_every_file_system(tmp_path):
    dataset = read_dataset(f"coco:{crowded(tmp_path)}")
    assert [Path(example.image).name for example in dataset.train] == [
        "0.png", "0.png", "1.png", "1.png", "2.png"
    ]  # fmt: skip
    assert file_names(dataset.train) == ["0.png", "10-1-0.png", "1.png", "16-1-1.png", "2.png"]


def test_nothing_is_overwritten(tmp_path):
    dataset = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    with pytest.raises(InputError, match="expected a new folder, found something there"):
        convert(dataset, tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="expected a new folder"):
        convert(dataset, tmp_path / "file")
    with pytest.raises(InputError, match="cannot make a folder there"):
        convert(dataset, tmp_path / "file" / "inner")
    (tmp_path / "empty").mkdir()
    convert(dataset, tmp_path / "empty")
    assert len(read_dataset(f"coco:{tmp_path / 'empty'}").train) == 12
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("form", ["coco", "tfds"])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch, form):
    dataset = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    before, calls = export.content_of, []

    def interrupted(example):
        calls.append(example)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return before(example)

    monkeypatch.setattr(export, "content_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(dataset, tmp_path / "new", form)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_many_records_fill_several_files_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD", 5)
    monkeypatch.setattr(export, "CHUNK", 4)
    dataset = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    convert(dataset, tmp_path / "new", "tfds")
    assert len(list((tmp_path / "new").glob("*train.array_record*"))) == 3
    assert_equal(dataset, read_dataset(f"tfds:{tmp_path / 'new'}"), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bccd", "nuclei"])
def test_real_sets_survive_both_ways(tmp_path, test_data, name):
    before = read_dataset(f"coco:{test_data / name}")
    for form, tolerance in (("coco", 0.0), ("tfds", 1e-3)):
        convert(before, tmp_path / form, form)
        assert_equal(before, read_dataset(f"{form}:{tmp_path / form}"), tolerance)
