import logging
import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image as Pillow

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import decode
from flaxyolo.data.readers.yolo import label_file, read_yolo
from flaxyolo.data.sources import audit_source, read_dataset

LABELS = {
    "train/a.png": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.1\n",
    "train/b.JPG": None,
    "train/sub/c.bmp": "",
    "val/d.png": "0 0.5 0.5 1 1",
}
BOX = "0 0.5 0.5 0.5 0.5"
DATA = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"], "nc": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(root: Path, labels: dict[str, str | None] | None = None, **settings: object) -> Path:
    """Images of 40 x 20 pixels (width x height), their labels and the data.yaml."""
    for number, (name, text) in enumerate((LABELS if labels is None else labels).items()):
        image, label = root / "images" / name, (root / "labels" / name).with_suffix(".txt")
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((20, 40, 3), 20 * number, np.uint8))
        if text is not None:
            label.write_bytes(text.encode())
    data = {key: value for key, value in (DATA | settings).items() if value is not None}
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    return root / "data.yaml"


def names(records) -> list[str]:
    return [listed.image.name for listed in records.images]


def error_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_yolo(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_folder_of_images_with_labels_is_read_in_the_order_of_names(tmp_path):
    source = read_yolo(str(write(tmp_path)))
    assert source.name == f"yolo:{tmp_path}/data.yaml"
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (0, 1)
    assert names(source.train) == ["a.png", "b.JPG", "c.bmp"]
    assert source.val is not None
    assert names(source.val) == ["d.png"]
    ids = [listed.image_id for records in (source.train, source.val) for listed in records.images]
    assert ids == [1, 2, 3, 4]
    assert source.train.relative
    assert source.train.image.tolist() == [0, 0]
    assert source.train.labels.tolist() == [1, 0]
    np.testing.assert_allclose(source.train.boxes, [[0.375, 0.25, 0.625, 0.75], [0, 0.2, 0.5, 0.3]])
    assert np.isnan(source.train.areas).all()
    assert not source.train.crowd.any()
    assert source.train.where(1) == f"{tmp_path}/labels/train/a.txt: line 2: '0 0.25 0.25 0.5 0.1'"


def test_the_audit_makes_pixels_of_shares_and_images_without_labels_background(tmp_path):
    dataset = read_dataset(f"yolo:{write(tmp_path)}")
    np.testing.assert_allclose(dataset.train[0].boxes, [[15, 5, 25, 15], [0, 4, 20, 6]])
    np.testing.assert_allclose(dataset.train[0].areas, [100, 40])
    assert (dataset.train[0].height, dataset.train[0].width) == (20, 40)
    assert [len(example.boxes) for example in dataset.train] == [2, 0, 0]
    assert {finding.kind: finding.count for finding in dataset.audit.findings} == {"empty": 2}


@pytest.mark.parametrize("orientation", [3, 6])
def test_shares_are_of_the_image_as_its_file_says_it_is_shown(tmp_path, orientation):
    path = write(tmp_path)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :10] = 255
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    Pillow.fromarray(pixels).save(tmp_path / "images" / "train" / "b.JPG", quality=95, exif=exif)
    # The white corner, upper left as stored, in the shown image.
    shown = {3: "0 0.875 0.75 0.25 0.5", 6: "0 0.75 0.125 0.5 0.25"}[orientation]
    (tmp_path / "labels" / "train" / "b.txt").write_text(shown)
    example = read_dataset(f"yolo:{path}").train[1]
    image = decode(example.image, oriented=example.oriented)
    assert image.shape == (example.height, example.width, 3)
    x1, y1, x2, y2 = example.boxes[0].astype(int)
    assert image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 200
    assert (image > 128).mean() == pytest.approx((x2 - x1) * (y2 - y1) / image[..., 0].size, 0.1)


def test_splits_may_be_lists_of_folders_and_files_that_list_images(tmp_path):
    write(tmp_path)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text(
        f"images/train/b.JPG\n\n{tmp_path}/images/val/d.png\n../images/train/a.png\n"
    )
    source = read_yolo(str(write(tmp_path, train=["lists/train.txt", "images/train/sub"])))
    assert names(source.train) == ["b.JPG", "d.png", "a.png", "c.bmp"]
    assert source.train.image.tolist() == [1, 2, 2]


def test_a_listed_image_that_is_missing_is_left_to_the_audit(tmp_path):
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/z.png\n")
    path = write(tmp_path, train="train.txt")
    assert read_yolo(str(path)).train.images[1].image == tmp_path / "images" / "train" / "z.png"
    with pytest.raises(InputError, match=r"1 images listed but missing .*z\.png"):
        read_dataset(f"yolo:{path}")


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_validation_has_three_names(tmp_path, key):
    source = read_yolo(str(write(tmp_path, **{"val": None} | {key: "images/val"})))
    assert source.val is not None
    assert len(source.val.images) == 1


def test_without_validation_there_is_none(tmp_path):
    assert read_yolo(str(write(tmp_path, val=None, test="images/none"))).val is None


def test_the_root_may_be_named_or_wrong_as_in_published_files(tmp_path, caplog):
    inner = tmp_path / "set"
    write(inner)
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(DATA | {"path": "set"}))
    assert len(read_yolo(str(tmp_path / "data.yaml")).train.images) == 3
    assert not caplog.text
    source = read_yolo(str(write(inner, path="../datasets/coco8", train="../images/train")))
    assert len(source.train.images) == 3
    assert "there is no folder" in caplog.text
    # The folder of a data.yaml does as well.
    assert read_yolo(str(inner)).fingerprint == source.fingerprint


def test_a_polygon_becomes_its_box_and_keeps_its_area(tmp_path):
    triangle = "1 0.25 0.5 0.75 0.5 0.25 1"
    records = read_yolo(str(write(tmp_path, LABELS | {"train/a.png": triangle}))).train
    assert records.boxes.tolist() == [[0.25, 0.5, 0.75, 1]]
    assert records.areas.tolist() == [100]
    assert records.labels.tolist() == [1]


def test_pose_labels_are_read_for_their_boxes(tmp_path):
    text = "0 0.5 0.5 0.5 0.5 0.1 0.2 2 0.3 0.4 1"
    path = write(tmp_path, LABELS | {"train/a.png": text, "val/d.png": ""}, kpt_shape=[2, 3])
    assert read_yolo(str(path)).train.boxes.tolist() == [[0.25, 0.25, 0.75, 0.75]]


@pytest.mark.parametrize(
    "line",
    ["1 0.5 0.5 0.25", "0 0.5 0.5 0.25 0.5 0.9", "cat 0.5 0.5 0.2 0.2", "0 0.5 nan 0.2 0.2",
     "0 0.5 0.5 1e999 0.2", "0", "0,0.5,0.5,0.2,0.2", "0 1 2 3 4 5 6 7", "\ufffd \u2603"],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_counted_and_named(tmp_path, line):
    path = write(tmp_path, LABELS | {"train/a.png": f"\ufeff0 0.5 0.5 1 1\r\n\n{line}\n"})
    records = read_yolo(str(path)).train
    assert records.boxes[0].tolist() == [0, 0, 1, 1]
    assert np.isnan(records.boxes[1]).all()
    assert records.labels.tolist() == [0, -1]
    assert records.where(1) == f"{tmp_path}/labels/train/a.txt: line 3: {line!r}"
    with pytest.raises(InputError, match=r"1 boxes that are not four finite .*a\.txt: line 3"):
        read_dataset(f"yolo:{path}")


@pytest.mark.parametrize("category", ["2", "-1", "0.5", "1e12"])
def test_a_class_that_is_not_named_is_counted_and_named(tmp_path, category):
    path = write(tmp_path, LABELS | {"train/a.png": f"{category} 0.5 0.5 0.5 0.5"})
    assert read_yolo(str(path)).train.labels.tolist() == [-1]
    with pytest.raises(InputError, match=r"1 boxes of a class that is not listed .*line 1"):
        read_dataset(f"yolo:{path}")


def test_a_label_file_that_cannot_be_opened_is_named(tmp_path):
    path = write(tmp_path)
    (tmp_path / "labels" / "train" / "b.txt").mkdir()
    records = read_yolo(str(path)).train
    assert records.labels.tolist() == [1, 0, -1]
    assert records.where(2).startswith(f"{tmp_path}/labels/train/b.txt: cannot read the labels: ")


def test_label_files_without_an_image_are_named(tmp_path):
    path = write(tmp_path, LABELS | {"train/b.JPG": ""})
    for name in ("classes.txt", "lost.txt"):
        (tmp_path / "labels" / "train" / name).write_text("0 0.5 0.5 0.5 0.5")
    (finding,) = (f for f in read_dataset(f"yolo:{path}").audit.findings if f.kind == "unclaimed")
    assert (finding.split, finding.count, finding.stops) == ("train", 1, False)
    assert finding.first == (f"{tmp_path}/labels/train/lost.txt",)


def test_an_image_that_lacks_its_labels_while_some_are_nobodys_is_no_background(tmp_path):
    path = write(tmp_path)
    (tmp_path / "labels" / "train" / "lost.txt").write_text("0 0.5 0.5 0.5 0.5")
    with pytest.raises(InputError, match=r"1 images without a label file, while .*b\.JPG"):
        read_dataset(f"yolo:{path}")
    dataset = read_dataset(f"yolo:{path}", repair=tmp_path / "repaired")
    assert [example.image.name for example in dataset.train] == ["a.png", "c.bmp"]


def test_classes_may_be_numbered_with_gaps(tmp_path):
    path = write(tmp_path, LABELS | {"train/a.png": "7 0.5 0.5 1 1\n1 0.5 0.5 1 1"},
                 names={7: "dog", 0: 3}, nc=None)  # fmt: skip
    source = read_yolo(str(path))
    assert source.class_names == ("3", "dog")
    assert source.category_ids == (0, 7)
    assert source.train.labels.tolist() == [1, -1]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/x/images/train/a.b.jpg", "/x/labels/train/a.b.txt"),
        ("/images/x/images/a.png", "/images/x/labels/a.txt"),
        ("/x/pictures/a.png", "/x/pictures/a.txt"),
        ("/x/images", "/x/images.txt"),
    ],
)
def test_the_last_folder_called_images_leads_to_the_labels(image, label):
    assert label_file(Path(image)) == Path(label)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"names": None, "nc": None}, "names: expected a list or numbered names, got None"),
        ({"names": None, "nc": "2"}, "names: expected a list or numbered names, got None"),
        ({"names": None, "nc": 10**9}, "names: expected a list or numbered names, got None"),
        ({"names": "cat"}, "names: expected a list or numbered names, got 'cat'"),
        ({"names": [], "nc": 0}, "names: expected a list"),
        ({"names": ["cat", False]}, "class 1: expected a text, got False; put it in quotes"),
        ({"names": ["cat", ""]}, "class 1: expected a text, got ''"),
        ({"names": ["cat", "a\nb"]}, r"class 1: expected a text, got 'a\nb'"),
        ({"names": {"0": "cat", "1": "dog"}}, "expected numbers from 0 as keys, got '0'"),
        ({"nc": 3}, "nc: expected the number of names, 2, got 3"),
        ({"train": None}, "train: expected a folder, a .txt file or a list of them, got None"),
        ({"train": [3]}, "train: expected a folder, a .txt file or a list of them, got [3]"),
        ({"train": "images/none"}, "train: expected a folder or a .txt file, found nothing"),
        ({"train": "data.yaml"}, "train: expected a folder or a .txt file, got"),
        ({"train": "labels"}, "train: expected image files in 'labels', found none"),
        ({"train": "x" * 300}, "cannot look for 'xxx"),
        ({"train": "a\0b"}, r"cannot look for 'a\x00b'"),
        ({"val": {"a": 1}}, "val: expected a folder, a .txt file or a list of them, got {'a': 1}"),
        ({"path": 3}, "path: expected a folder, got 3"),
        ({"kpt_shape": [17]}, "kpt_shape: expected [points, 2 or 3], got [17]"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, settings, words):
    path = write(tmp_path, **settings)
    if "train" in settings and settings["train"] is None:
        path.write_text("names: [cat, dog]")
    message = error_of(path)
    assert message.startswith(str(path))
    assert words in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"names: [", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"!!timestamp x", "not valid YAML"),
        (b"[" * 5000, "not valid YAML"),
        (b"- 3", "expected keys such as train, val, names; got [3]"),
        (b"", "expected keys such as train, val, names; got None"),
    ],
)
def test_a_file_that_is_no_such_yaml_is_told_so(tmp_path, content, words):
    (tmp_path / "data.yaml").write_bytes(content)
    assert words in error_of(tmp_path / "data.yaml")


def test_a_missing_file_and_labels_in_another_place_are_told(tmp_path):
    assert "No such file" in error_of(tmp_path / "no.yaml")
    with pytest.raises(InputError, match=r"needs a data\.yaml"):
        read_yolo("")
    path = write(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    message = error_of(path)
    assert "found none for any of 3; looked for" in message
    assert "labels/train/a.txt" in message


def test_the_fingerprint_follows_labels_names_and_images(tmp_path):
    path = write(tmp_path)
    found = [read_yolo(str(path)).fingerprint, read_yolo(str(path)).fingerprint]
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    found.append(read_yolo(str(path)).fingerprint)
    os.utime(tmp_path / "images" / "train" / "b.JPG", (1, 1))
    found.append(read_yolo(str(path)).fingerprint)
    write(tmp_path, {}, names=["cat", "cow"])
    found.append(read_yolo(str(path)).fingerprint)
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_damaged_files_give_one_line_or_findings(tmp_path, caplog):
    path = write(tmp_path)
    caplog.set_level(logging.CRITICAL)
    files = [path, tmp_path / "labels" / "train" / "a.txt"]
    contents = [file.read_bytes() for file in files]
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(120):
        content = bytearray(contents[number % 2])
        for _ in range(rng.integers(1, 6)):
            place = int(rng.integers(len(content)))
            match rng.integers(3):
                case 0:
                    content[place] = int(rng.integers(256))
                case 1:
                    del content[place : place + int(rng.integers(1, 20))]
                    content += b"\n"
                case _:
                    content[place:place] = bytes(rng.integers(32, 127, 5).astype(np.uint8))
        files[number % 2].write_bytes(content)
        try:
            source = read_yolo(str(path))
            outcomes.add("read")
            places = [source.train.where(index) for index in range(len(source.train.boxes))]
        except InputError as error:
            outcomes.add("refused")
            places = [str(error)]
        assert all("\n" not in place and str(tmp_path) in place for place in places)
        files[number % 2].write_bytes(contents[number % 2])
    assert outcomes == {"read", "refused"}


def kinds(path: Path) -> dict[str, int]:
    findings = audit_source(f"yolo:{path}").findings
    return {finding.kind: finding.count for finding in findings if finding.kind != "empty"}


def test_labels_behind_links_and_images_of_other_suffixes_are_read(tmp_path):
    path = write(tmp_path / "set")
    far = write(tmp_path / "far", {"e.jpg": "0 0.5 0.5 0.5 0.5"}).parent
    (far / "images" / "e.jpg").rename(far / "images" / "e.jfif")
    for place in ("images", "labels"):
        (tmp_path / "set" / place / "train" / "link").symlink_to(far / place)
    records = read_yolo(str(path)).train
    assert names(records) == ["a.png", "b.JPG", "e.jfif", "c.bmp"]
    assert records.image.tolist() == [0, 0, 2]


def test_images_that_share_a_label_file_stop(tmp_path):
    path = write(tmp_path, LABELS | {"train/a.bmp": None, "train/b.png": None, "train/d.png": BOX})
    with pytest.raises(InputError, match=r"2 images that share a label file .*a\.bmp"):
        read_dataset(f"yolo:{path}")
    repaired = read_dataset(f"yolo:{path}", repair=tmp_path / "repaired")
    assert [example.image.name for example in repaired.train] == [
        "b.JPG",
        "b.png",
        "d.png",
        "c.bmp",
    ]


def test_what_is_no_image_is_told_with_its_labels(tmp_path):
    path = write(tmp_path, LABELS | {"train/b.JPG": ""})
    (tmp_path / "images" / "train" / "x.heic").touch()
    (tmp_path / "labels" / "train" / "x.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert kinds(path) == {"unread": 1, "unclaimed": 1}


def test_labels_of_a_folder_whose_images_are_gone_are_told(tmp_path):
    path = write(tmp_path, LABELS | {"train/b.JPG": "", "train/gone/x.png": "0 0.5 0.5 0.5 0.5"})
    (tmp_path / "images" / "train" / "gone" / "x.png").unlink()
    assert kinds(path) == {"unclaimed": 1}


@pytest.mark.parametrize(
    ("image", "label"),
    [("décran 1.png", "d%C3%A9cran%201.txt"), ("d%C3%A9cran.png", "décran.txt"),
     ("décran.png", unicodedata.normalize("NFD", "décran.txt")), ("A.PNG", "a.txt")],
)  # fmt: skip
def test_a_label_file_that_is_spelled_in_another_way_is_found(tmp_path, image, label):
    path = write(tmp_path, LABELS | {f"train/{image}": "1 0.5 0.5 0.5 0.5", "train/a.png": ""})
    labels = tmp_path / "labels" / "train"
    (labels / "a.txt").unlink()
    (tmp_path / "images" / "train" / "a.png").unlink()
    (labels / Path(image).with_suffix(".txt")).rename(labels / label)
    records = read_yolo(str(path)).train
    assert [names(records)[row] for row in records.image] == [image]


@pytest.mark.parametrize("prefix", ["data/", "/home/me/set/", "C:\\me\\", "./"])
def test_a_list_may_name_images_with_the_prefix_of_an_exporter(tmp_path, prefix):
    path = write(tmp_path, train="lists/train.txt")
    (tmp_path / "lists").mkdir()
    lines = [f"{prefix}images/train/{name}" for name in ("a.png", "sub/c.bmp")]
    text = "\n".join(lines)
    (tmp_path / "lists" / "train.txt").write_text(
        text.replace("/", "\\") if prefix[1] == ":" else text
    )
    records = read_yolo(str(path)).train
    assert names(records) == ["a.png", "c.bmp"]
    assert records.image.tolist() == [0, 0]


def test_images_that_are_not_there_are_not_called_labels(tmp_path):
    (tmp_path / "train.txt").write_text("far/x.png\nfar/y.png\n")
    message = error_of(write(tmp_path, train="train.txt"))
    assert "expected image files as" in message
    assert "none of the 2 images is there: far/x.png ..." in message


def test_a_split_may_be_called_by_another_word(tmp_path, caplog):
    path = write(tmp_path, val="images/valid")
    source = read_yolo(str(path))
    assert source.val is not None
    assert names(source.val) == ["d.png"]
    assert f"there is no {tmp_path}/images/valid; {tmp_path}/images/val is taken" in caplog.text


def test_classes_may_have_a_number_only_or_one_name(tmp_path):
    source = read_yolo(str(write(tmp_path, names=None)))
    assert source.class_names == ("class_0", "class_1")
    source = read_yolo(str(write(tmp_path, names=["cat", "cat"])))
    (aside,) = source.train.asides
    assert (aside.kind, aside.places) == (
        "same_name",
        (f"{tmp_path}/data.yaml: class 1: 'cat', as 0",),
    )


def flat(root: Path, *names: str) -> Path:
    """Images and labels side by side."""
    for number, name in enumerate(names):
        image = root / name
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((20, 40, 3), 20 * number, np.uint8))
        image.with_suffix(".txt").write_text("1 0.5 0.5 0.5 0.5")
    return root


@pytest.mark.parametrize("file", ["things.names", "classes.txt"])
def test_darknets_folder_needs_no_yaml(tmp_path, file):
    root = flat(tmp_path, "a.jpg", "b.jpg")
    (root / file).write_text("red\ngreen\n\n")
    source = read_yolo(str(root))
    assert source.class_names == ("red", "green")
    assert source.val is None
    assert source.train.labels.tolist() == [1, 1]
    assert kinds(root) == {}
    (root / "old.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert kinds(root) == {"unclaimed": 1}


def test_darknets_own_file_is_read(tmp_path):
    root = flat(tmp_path, "obj_train_data/a.jpg", "obj_valid_data/b.jpg")
    (root / "obj.names").write_text("red\ngreen")
    (root / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nvalid=data/valid.txt\n"
                                   "names = data/obj.names\nbackup = backup/\n")  # fmt: skip
    (root / "train.txt").write_text("data/obj_train_data/a.jpg\n")
    (root / "valid.txt").write_text("data/obj_valid_data/b.jpg\n")
    source = read_yolo(str(root))
    assert source.class_names == ("red", "green")
    assert source.val is not None
    assert [names(source.train), names(source.val)] == [["a.jpg"], ["b.jpg"]]
    (root / "obj.names").unlink()
    assert "names: expected a file of class names, got data/obj.names" in error_of(root)


def test_a_folder_with_splits_and_names_needs_no_yaml(tmp_path):
    write(tmp_path).unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = read_yolo(str(tmp_path))
    assert source.val is not None
    assert [names(source.train), names(source.val)] == [["a.png", "b.JPG", "c.bmp"], ["d.png"]]
    (tmp_path / "classes.txt").unlink()
    assert "write a data.yaml with two lines, as `train: .`" in error_of(tmp_path)
    (tmp_path / "dataset.yml").write_text(yaml.safe_dump(DATA))
    assert read_yolo(str(tmp_path)).class_names == ("cat", "dog")
