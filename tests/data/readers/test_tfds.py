import io
import json
import logging
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image as Pillow
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.readers import prepared
from flaxyolo.data.readers.prepared import find_prepared
from flaxyolo.data.readers.tfds import Record, open_split, read_tfds
from flaxyolo.data.sources import read_dataset

HEIGHT, WIDTH = 30, 40
COCO_OBJECTS = {
    "id": np.int64,
    "area": np.int64,
    "bbox": tfds.features.BBoxFeature(),
    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    "is_crowd": np.bool_,
}
VOC_OBJECTS = {
    "label": tfds.features.ClassLabel(names=["bird", "boat", "cow"]),
    "bbox": tfds.features.BBoxFeature(),
    "is_truncated": np.bool_,
    "is_difficult": np.bool_,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def pixels(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def png(number: int) -> bytes:
    return cv2.imencode(".png", pixels(number))[1].tobytes()


def share(x1, y1, x2, y2) -> tfds.features.BBox:
    return tfds.features.BBox(ymin=y1 / HEIGHT, xmin=x1 / WIDTH, ymax=y2 / HEIGHT, xmax=x2 / WIDTH)


def prepare(data_dir: Path, name: str, features: dict, splits: dict[str, list[dict]]) -> Path:
    """A prepared data set of TFDS; its folder."""
    folder = data_dir / name / "1.1.0"
    folder.mkdir(parents=True)
    identity = DatasetIdentity(name, tfds.core.Version("1.1.0"), str(folder), __name__)
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, 1000, file_format="array_record")
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return folder


def coco_record(number: int, objects: list[dict], content: bytes | None = None) -> dict:
    return {
        "image": content or png(number),
        "image/filename": f"{number:012d}.png",
        "image/id": 100 + number,
        "objects": [{"id": index, **record} for index, record in enumerate(objects)],
    }


def coco_thing(box, label="cat", area=7, is_crowd=False) -> dict:
    return {"bbox": share(*box), "label": label, "area": area, "is_crowd": is_crowd}


def prepare_coco(data_dir: Path, name: str = "coco", **splits: list[dict]) -> Path:
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "image/filename": tfds.features.Text(),
        "image/id": np.int64,
        "objects": tfds.features.Sequence(COCO_OBJECTS),
    }
    train = [
        coco_record(0, [coco_thing((4, 3, 20, 12), "dog"), coco_thing((0, 0, 40, 30), area=0)]),
        coco_record(1, []),
        coco_record(2, [coco_thing((8, 6, 12, 9), is_crowd=True)]),
    ]
    val = [coco_record(9, [coco_thing((1, 2, 3, 4))])]
    return prepare(data_dir, name, features, splits or {"train": train, "validation": val})


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    return prepare_coco(tmp_path_factory.mktemp("data"))


def error_of(root: object) -> str:
    with pytest.raises(InputError) as caught:
        read_tfds(str(root))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_schema_of_coco_is_read_in_order(coco, caplog):
    caplog.set_level(logging.INFO)
    source = read_tfds(str(coco))
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (1, 2)
    assert [listed.image_id for listed in source.train.images] == [100, 101, 102]
    assert source.train.relative
    scale = np.array([WIDTH, HEIGHT] * 2)
    np.testing.assert_allclose(
        source.train.boxes * scale, [[4, 3, 20, 12], [0, 0, 40, 30], [8, 6, 12, 9]], atol=1e-5
    )
    assert source.train.image.tolist() == [0, 0, 2]
    assert source.train.labels.tolist() == [1, 0, 0]
    assert source.train.crowd.tolist() == [False, False, True]
    # TFDS cuts areas off to whole numbers; 0 is no area.
    np.testing.assert_array_equal(source.train.areas, [7, np.nan, 7])
    assert source.val is not None
    assert len(source.val.images) == 1
    assert "scored on the split 'validation'" in caplog.text
    assert source.train.where(1) == (
        f"{coco}: train record 0 (000000000000.png): object 1: label 0, "
        "bbox (ymin, xmin, ymax, xmax) [0, 0, 1, 1]"
    )


def test_the_audit_makes_pixels_of_shares(coco):
    dataset = read_dataset(f"tfds:{coco}")
    np.testing.assert_allclose(dataset.train[0].boxes, [[4, 3, 20, 12], [0, 0, 40, 30]], atol=1e-4)
    assert dataset.train[0].areas.tolist() == [7, 1200]
    assert [(example.height, example.width) for example in dataset.train] == [(30, 40)] * 3
    assert {finding.kind for finding in dataset.audit.findings} == {"crowd", "empty"}


def test_images_are_read_when_needed_by_threads_and_after_pickling(coco):
    images = [listed.image for listed in read_tfds(str(coco)).train.images]
    assert len(pickle.dumps(images[0])) < 1000
    assert images[1].name == f"{coco}: train record 1 (000000000001.png)"
    copies = pickle.loads(pickle.dumps(images)) * 40
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: decode(image), copies))
    for index, image in enumerate(found):
        np.testing.assert_array_equal(image[..., ::-1], pixels(index % 3))


def test_no_tensorflow_is_loaded(coco):
    code = (
        "import sys\nfrom flaxyolo.data.readers.tfds import read_tfds\n"
        f"images = read_tfds({str(coco)!r}).train.images\nimages[0].image.read()\n"
        "assert 'tensorflow_datasets' in sys.modules\nassert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_schema_of_voc_counts_pixels_from_1_and_knows_difficult_objects(tmp_path):
    features = {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "objects": tfds.features.Sequence(VOC_OBJECTS),
        "labels": tfds.features.Sequence(VOC_OBJECTS["label"]),
    }

    def record(number, *objects):
        things = [
            {"bbox": share(*box), "label": label, "is_truncated": False, "is_difficult": difficult}
            for box, label, difficult in objects
        ]
        return {
            "image": png(number),
            "image/filename": f"{number}.jpg",
            "objects": things,
            "labels": sorted({label for _, label, _ in objects}),
        }

    rows = [record(0, ((1, 1, 40, 30), "cow", False), ((5, 4, 9, 9), "bird", True))]
    splits = {
        "train": rows,
        "validation": [record(1)],
        "test": [record(2, ((2, 2, 3, 3), "cow", 0))],
    }
    for name, first in (("voc", 1), ("other", 0)):
        dataset = read_dataset(f"tfds:{prepare(tmp_path, name, features, splits)}")
        assert dataset.class_names == ("bird", "boat", "cow")
        example = dataset.train[0]
        expected = [[1 - first, 1 - first, 40, 30], [5 - first, 4 - first, 9, 9]]
        np.testing.assert_allclose(example.boxes, expected, atol=1e-4)
        assert example.crowd.tolist() == [False, True]
        assert example.labels.tolist() == [2, 0]
        assert example.image_id == 1
        # Without boxes in `validation`, `test` is the split to score on.
        assert [one.image.filename for one in dataset.val] == ["2.jpg"]


def test_a_set_without_boxes_to_score_on_has_no_validation_split(tmp_path, caplog):
    rows = [coco_record(n, [coco_thing((1, 2, 13, 14))]) for n in range(3)]
    folder = prepare_coco(tmp_path, train=rows, test=[coco_record(8, [])])
    assert read_tfds(str(folder)).val is None
    assert "the split 'test' has no boxes and is left out" in caplog.text


def test_a_rotation_that_is_noted_in_a_record_is_not_applied(tmp_path):
    buffer, exif = io.BytesIO(), Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(pixels(0)).save(buffer, "JPEG", exif=exif)
    rows = [coco_record(0, [coco_thing((4, 3, 40, 30))], buffer.getvalue()), coco_record(1, [])]
    dataset = read_dataset(f"tfds:{prepare_coco(tmp_path, train=rows, validation=rows[:1])}")
    example = dataset.val[0]
    assert (example.height, example.width, example.oriented) == (HEIGHT, WIDTH, False)
    np.testing.assert_allclose(example.boxes, [[4, 3, 40, 30]], atol=1e-4)


def test_a_name_is_looked_for_where_tfds_keeps_its_data(tmp_path, monkeypatch, coco):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for place in ("mine/1.0.0", "mine/1.10.0", "mine/1.9.0", "two/a/1.0.0", "two/b/1.0.0"):
        shutil.copytree(coco, tmp_path / place)
    assert find_prepared("mine") == tmp_path / "mine" / "1.10.0"
    assert find_prepared("mine/1.9.0") == tmp_path / "mine" / "1.9.0"
    assert find_prepared("two/b") == tmp_path / "two" / "b" / "1.0.0"
    assert len(read_tfds("mine").train.images) == 3
    assert "expected one data set, found two/a, two/b; name one of them" in error_of("two")
    assert find_prepared(str(tmp_path / "two" / "a")) == tmp_path / "two" / "a" / "1.0.0"
    assert "expected a folder with a dataset_info.json, found" in error_of(tmp_path)
    assert "expected a folder with a dataset_info.json, found none" in error_of(tmp_path / "no")
    with pytest.raises(InputError, match="needs a name or a folder"):
        read_tfds("")


def test_what_is_not_prepared_says_what_to_install_and_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: None)
    message = error_of("coco/2017")
    assert f"tfds:coco/2017: not prepared in {tmp_path}" in message
    assert 'pip install "flaxyolo[tfds]"' in message
    assert f"tfds build coco/2017 --file_format=array_record --data_dir={tmp_path}" in message
    assert "TFDS has no data set 'cocoo'; did you mean 'coco'?" in error_of("cocoo/2017")


def test_with_tensorflow_it_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: object())
    asked = []

    class Builder:
        def __init__(self, name, **settings):
            asked.append((name, settings))

        def download_and_prepare(self):
            prepare_coco(tmp_path)

    monkeypatch.setattr(tfds, "builder", Builder)
    assert len(read_tfds("coco/1.1.0").train.images) == 3
    assert asked == [("coco:1.1.0", {"data_dir": tmp_path, "file_format": "array_record"})]

    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds, "builder", refuse)
    assert "tfds:voc/2007: cannot be prepared: no route" in error_of("voc/2007")


def change(folder: Path, key: str, value: object) -> None:
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def test_a_prepared_set_of_another_form_is_told_so(tmp_path, coco):
    folder = tmp_path / "set"
    shutil.copytree(coco, folder)
    change(folder, "fileFormat", "tfrecord")
    message = error_of(folder)
    assert "expected array_record files, which can be read in any order, found tfrecord" in message
    assert f"tfds convert_format --dataset_version_dir={folder} --out_file_format" in message
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=3)}
    rows = [{"image": png(0), "label": 1}]
    other = prepare(tmp_path, "classes", features, {"train": rows})
    assert "schema of TFDS' coco or voc, with image, objects/bbox" in error_of(other)
    assert "found image, label" in error_of(other)
    assert "expected a split 'train' with records, found: test" in error_of(
        prepare_coco(tmp_path, "tests", test=[coco_record(0, [])])
    )


def test_damaged_files_are_told(tmp_path, coco):
    def copy(name: str) -> Path:
        shutil.copytree(coco, tmp_path / name)
        return tmp_path / name

    folder = copy("shard")
    shard = next(folder.glob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert "train record 0 cannot be read" in error_of(folder)
    shard.unlink()
    assert f"1 files are missing: {shard}" in error_of(folder)
    for name in ("dataset_info.json", "features.json"):
        folder = copy(f"no-{name}")
        (folder / name).write_text("{")
        assert "cannot be read as a prepared TFDS data set: " in error_of(folder)
    folder = copy("extra")
    (folder / "flaxyolo.json").write_text('{"class_names": ["a"], "category_ids": [1]}')
    assert "flaxyolo.json: cannot be read: expected 2 classes; convert again" in error_of(folder)


def test_a_record_that_is_lost_later_is_an_error_of_the_disk(tmp_path, coco):
    folder = tmp_path / "set"
    shutil.copytree(coco, folder)
    image = Record(str(folder), "train", 1, "a.png")
    assert image.read() == png(1)
    open_split.cache_clear()
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"train record 1 \(a\.png\): cannot read the image"):
        decode(image)


def test_the_fingerprint_follows_the_files(tmp_path, coco):
    folder = tmp_path / "set"
    shutil.copytree(coco, folder)
    first = read_tfds(str(folder)).fingerprint
    assert first == read_tfds(str(folder)).fingerprint
    change(folder, "description", "other")
    second = read_tfds(str(folder)).fingerprint
    shard = next(folder.glob("*validation.array_record*"))
    shard.touch()
    assert len({first, second, read_tfds(str(folder)).fingerprint}) == 3


@pytest.mark.parametrize("key", ["pythonClassName", "type"])
def test_a_module_that_a_data_set_names_is_not_imported(tmp_path, monkeypatch, key):
    folder = prepare_coco(tmp_path)
    # As where a command is started in the folder that the data came in.
    (tmp_path / "brought.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "features.json"
    content = json.loads(path.read_text())
    content["featuresDict"]["features"]["image"][key] = "brought.Along"
    path.write_text(json.dumps(content))
    told = r"features\.json: expected classes of tensorflow_datasets, got 'brought\.Along', wh"
    for opening in (read_tfds, lambda place: open_split(place, "train")):
        with pytest.raises(InputError, match=told):
            opening(str(folder))
