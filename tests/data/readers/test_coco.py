import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.readers.coco import read_coco
from flaxyolo.data.readers.fence import Outside
from flaxyolo.data.records import Aside, Records
from tests.data.coco_folder import IMAGES, coco, write, write_image


def error_of(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_coco(str(root))
    message = str(caught.value)
    assert "\n" not in message
    return message


def train_of(root: Path, change: dict, index: int = 0) -> Records:
    """The training split with one annotation changed; None removes a key."""
    data = coco()
    data["annotations"][index].update(change)
    record = data["annotations"][index]
    data["annotations"][index] = {k: v for k, v in record.items() if v != "removed"}
    return read_coco(str(write(root, data))).train


def noted(records: Records) -> dict[str, list[int]]:
    return {entry.kind: entry.rows.tolist() for entry in records.noted}


def test_a_coco_folder_becomes_columns_in_the_order_of_the_file(tmp_path):
    source = read_coco(str(write(tmp_path, coco())))
    assert source.name == f"coco:{tmp_path}"
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (4, 9)
    train = source.train
    assert [listed.image_id for listed in train.images] == [7, 3]
    assert (train.images[0].height, train.images[0].width) == (30, 40)
    assert train.images[0].image == tmp_path / "images" / "a.png"
    assert train.boxes[:2].tolist() == [[10, 5, 30.5, 15], [0, 0, 40, 30]]
    assert train.image.tolist() == [0, 0, 0, 1]
    assert train.labels.tolist() == [1, 0, 0, 0]
    assert train.areas.tolist() == [77.5, 9, 12, 64]
    assert train.crowd.tolist() == [False, True, False, False]
    assert noted(train) == {}
    path = tmp_path / "annotations" / "instances_train.json"
    assert train.where(0) == (
        f"{path}: annotation 1: image_id 7, category_id 9, bbox [10, 5, 20.5, 10], area 77.5"
    )
    assert train.images[1].where == f"{path}: image 3"


@pytest.mark.parametrize(
    "images",
    ["images", "images/{split}", "images/{split}2017", "{split}", "{split}2017", "."],
)
def test_images_are_found_in_the_usual_folders(tmp_path, images):
    source = read_coco(str(write(tmp_path, coco(), suffix="2017", images=images)))
    for split, records in (("train", source.train), ("val", source.val)):
        name = coco(split)["images"][1]["file_name"]
        assert records.images[1].image == tmp_path / images.format(split=split) / name


@pytest.mark.parametrize(("val", "found"), [("valid", True), ("val", True), ("test", False)])
def test_roboflows_folders_are_read(tmp_path, val, found):
    for split, folder in (("train", "train"), ("val", val)):
        data = coco(split)
        for record in data["images"]:
            write_image(tmp_path / folder / record["file_name"], record["height"], record["width"])
        (tmp_path / folder / "_annotations.coco.json").write_text(json.dumps(data))
    source = read_coco(str(tmp_path))
    assert source.train.images[0].image == tmp_path / "train" / "a.png"
    assert (source.val is not None) == found
    if source.val is not None:
        assert source.val.images[0].image == tmp_path / val / "val_a.png"


@pytest.mark.parametrize(
    "name",
    ["annotations/instances_train.json", "annotations/instances_train2017.json",
     "annotations/instances_default.json", "annotations/instances.json", "instances.json",
     "_annotations.coco.json", "result.json"],
)  # fmt: skip
def test_a_folder_with_one_file_has_no_validation_split(tmp_path, caplog, name):
    (tmp_path / "annotations").mkdir()
    (tmp_path / name).write_text(json.dumps(coco()))
    for record in IMAGES:
        write_image(tmp_path / "images" / record["file_name"], record["height"], record["width"])
    source = read_coco(str(tmp_path))
    assert source.val is None
    assert len(source.train.images) == 2
    assert "is there: a part of" in caplog.text


def test_a_file_name_may_be_a_whole_path(tmp_path, monkeypatch):
    data = coco()
    data["images"][0]["file_name"] = str(write_image(tmp_path / "far" / "x.png", 30, 40))
    root = str(write(tmp_path / "set", data))
    assert isinstance(read_coco(root).train.images[0].image, Outside)
    monkeypatch.setenv("FLAXYOLO_ALLOW_OUTSIDE", "1")
    source = read_coco(root)
    assert source.train.images[0].image == tmp_path / "far" / "x.png"
    assert source.train.images[1].image == tmp_path / "set" / "images" / "b.png"


def test_the_folder_is_chosen_by_the_first_image_that_is_there(tmp_path):
    data = coco()
    data["images"][0]["file_name"] = "no.png"
    source = read_coco(str(write(tmp_path, data, images="images/{split}")))
    assert source.train.images[0].image == tmp_path / "images" / "train" / "no.png"
    data["images"][1]["file_name"] = "x" * 300
    message = error_of(write(tmp_path, data))
    assert "of its 2 images (first 'no.png'), none is in any of the folders images," in message


def test_a_missing_folder_or_file_is_named(tmp_path):
    assert "found nothing there" in error_of(tmp_path / "no")
    (tmp_path / "file").write_text("")
    assert "found a file there" in error_of(tmp_path / "file")
    message = error_of(tmp_path)
    assert "annotations/instances_train.json, annotations/instances_train2017.json" in message
    write(tmp_path, coco())
    (tmp_path / "annotations" / "instances_train.json").unlink()
    assert f"{tmp_path}: expected one of annotations/instances_train.json" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not COCO: expected an object with the lists"),
        ('{"images": [], "categories": []}', "'annotations' is not a list"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is not a list"),
        ('{"images": [3], "annotations": [], "categories": []}', "images[0]: expected an object"),
        ('{"images": [], "annotations": [], "categories": []}', "at least one category"),
        ('{"images": [], "images": [], "annotations": [], "categories": []}', "is there twice"),
        ('{"images": [{"id": 1, "id": 2}], "annotations": [], "categories": []}',
         "images[0]: expected each key once"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1' + "0" * 5000 + "}]}",
         "not valid JSON"),
    ],
)  # fmt: skip
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
        (("images", 1), {"file_name": 5}, "image 3: expected a text as 'file_name', got 5"),
        (("images", 1), {"file_name": "a\0b"}, "expected a text as 'file_name', got 'a\\x00b'"),
        (("images", 1), {"file_name": "\ud800"}, "expected a text as 'file_name', got '\\ud800'"),
        (("images", 1), {"id": "3"}, "images[1]: expected an integer 'id' below 2**53, got '3'"),
        (("images", 1), {"id": 10**400}, "images[1]: expected an integer 'id' below 2**53"),
        (("images", 1), {"id": True}, "images[1]: expected an integer 'id' below 2**53, got True"),
        (("categories", 1), {"id": 9}, "categories[1]: id 9 is used twice"),
        (("categories", 1), {"id": None}, "categories[1]: expected an integer 'id'"),
        (("categories", 1), {"name": ""}, "category 4: expected a text as 'name', got ''"),
    ],
)
def test_a_record_that_breaks_the_file_is_named(tmp_path, place, change, words):
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
    val = coco("val")
    val["categories"][0]["name"] = "wolf"
    assert "category 9 is 'wolf' here and 'dog' there" in error_of(write(tmp_path, coco(), val))
    val["categories"] = [{"id": 5, "name": "cat"}]
    assert "category 5 is 'cat' here and 'missing' there" in error_of(write(tmp_path, coco(), val))
    val["categories"] = [{"id": "9", "name": "dog"}]
    val["annotations"] = []
    assert "got texts in one and numbers in the other" in error_of(write(tmp_path, coco(), val))


def test_a_category_may_be_listed_in_one_split_only(tmp_path):
    val = coco("val")
    val["categories"][0] = {"id": 12, "name": "wolf"}
    val["annotations"][0]["category_id"] = 12
    source = read_coco(str(write(tmp_path, coco(), val)))
    assert source.class_names == ("cat", "dog", "wolf")
    assert source.category_ids == (4, 9, 12)
    assert source.train.labels.tolist() == [1, 0, 0, 0]
    assert source.val is not None
    assert source.val.labels.tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize(
    "box",
    [[1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("nan")], [1, 2, float("inf"), 3], "removed",
     [1, 2, 10**400, 3], None, {}, "1234", [1, 2, 3, True], [1, 2, 3, None], [[1], 2, 3, 4], []],
)  # fmt: skip
def test_a_box_that_is_not_four_numbers_is_nan(tmp_path, box):
    records = train_of(tmp_path, {"bbox": box})
    assert np.isnan(records.boxes[0]).all()
    assert np.isfinite(records.boxes[1:]).all()


@pytest.mark.parametrize("value", [8, True, 7.0, "7", None, [7], {}, 10**400, "removed"])
def test_an_image_that_is_not_listed_is_minus_one(tmp_path, value):
    assert train_of(tmp_path, {"image_id": value}).image.tolist() == [-1, 0, 0, 1]


@pytest.mark.parametrize("value", [5, True, 9.0, "9", None, [9], "removed"])
def test_a_class_that_is_not_listed_is_minus_one(tmp_path, value):
    assert train_of(tmp_path, {"category_id": value}).labels.tolist() == [-1, 0, 0, 0]


@pytest.mark.parametrize(
    ("change", "kind", "areas"),
    [
        ({"area": "removed"}, "no_area", np.nan),
        ({"area": None}, "no_area", np.nan),
        ({"area": "9"}, None, -1),
        ({"area": 10**400}, None, -1),
        ({"area": float("nan")}, None, -1),
        ({"area": 0}, None, 0),
        ({"iscrowd": 2}, "crowd_text", 77.5),
        ({"iscrowd": None}, "crowd_text", 77.5),
        ({"iscrowd": [1]}, "crowd_text", 77.5),
        ({"iscrowd": 0.0}, None, 77.5),
        ({"id": "removed"}, "box_id", 77.5),
        ({"id": [1]}, "box_id", 77.5),
    ],
)
def test_other_strange_values_are_noted(tmp_path, change, kind, areas):
    records = train_of(tmp_path, change)
    assert noted(records) == ({kind: [0]} if kind else {})
    np.testing.assert_array_equal(records.areas, [areas, 9, 12, 64])
    assert records.crowd.tolist() == [False, True, False, False]


def test_annotation_ids_used_twice_and_records_that_are_none_are_noted(tmp_path):
    data = coco()
    data["annotations"][2]["id"] = 1
    data["annotations"].append([3])
    records = read_coco(str(write(tmp_path, data))).train
    assert noted(records) == {"box_id": [2, 4], "no_area": [4]}
    assert records.image.tolist() == [0, 0, 0, 1, -1]
    assert records.where(4).endswith("annotations[4]: [3]")


def test_a_key_that_an_annotation_says_twice_is_noted(tmp_path):
    text = json.dumps(coco()).replace('"id": 5,', '"id": 5, "bbox": [0, 0, 1, 1],')
    records = read_coco(str(write(tmp_path, text))).train
    assert noted(records) == {"double_key": [2]}


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "no_size"), ("removed", "no_size"), (0, "size_text"), (-5, "size_text"),
     ("40", "size_text"), (True, "size_text"), (10**400, "size_text"), (0.5, "size_text")],
)  # fmt: skip
def test_sizes_that_are_none_are_noted(tmp_path, value, kind):
    data = coco()
    data["images"][0].update(width=value, height=value)
    data["images"][1]["width"] = 20.0
    if value == "removed":
        del data["images"][0]["width"], data["images"][0]["height"]
    records = read_coco(str(write(tmp_path, data))).train
    assert noted(records) == {kind: [0]}
    assert (records.images[0].height, records.images[0].width) == (None, None)
    assert records.images[1].width == 20


@pytest.mark.long
def test_as_many_annotations_as_coco_has_are_read_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    outline = rng.uniform(0, 600, 48).round(2).tolist()
    corners = rng.uniform(0, 300, (860_000, 4)).round(2).tolist()
    data = coco()
    data["images"] = [
        {"id": number, "file_name": "a.png", "width": 640, "height": 640}
        for number in range(1, 118_288)
    ]
    data["annotations"] = [
        {"segmentation": [outline], "area": 1000.5, "iscrowd": 0, "image_id": 1 + row % 118_287,
         "bbox": box, "category_id": 4, "id": row}
        for row, box in enumerate(corners)
    ]  # fmt: skip
    write(tmp_path, data)
    # A process of its own, without the checks of types and shapes.
    code = f"""
import time
from flaxyolo.data.readers.coco import read_coco
start = time.process_time()
source = read_coco({str(tmp_path)!r})
print(time.process_time() - start, len(source.train.boxes))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, boxes = done.stdout.split()
    assert float(seconds) < 15
    assert int(boxes) == 860_000


@pytest.mark.parametrize(
    ("file", "images", "written"),
    [
        ("annotations/instances_default.json", "images/default", "{name}"),
        ("annotations/instances_Train.json", "images/Train", "{name}"),
        ("labels.json", "data", "{name}"),
        ("result.json", "images", "images\\{name}"),
        ("result.json", "images", "C:\\Users\\me\\set\\images\\{name}"),
        ("result.json", "images", "/data/local-files/?d=set%2Fimages%2F{name}"),
        ("annotations/instances_train.json", "images/train", "/home/me/images/train/{name}"),
        ("annotations/instances_train.json", ".", "../pictures/{name}"),
        ("annotations/mine.json", "pictures", "far/pictures/{name}"),
    ],
)
def test_exporters_layouts_and_paths_are_read(tmp_path, file, images, written):
    data = coco()
    for record in data["images"]:
        write_image(tmp_path / images / record["file_name"], record["height"], record["width"])
        record["file_name"] = written.format(name=record["file_name"])
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(data))
    records = read_coco(str(tmp_path)).train
    assert [listed.image for listed in records.images] == [
        tmp_path / images / name for name in ("a.png", "b.png")
    ]


def test_a_file_name_does_not_lead_out_of_the_folder(tmp_path):
    write_image(tmp_path / "far.png", 30, 40)
    data = coco()
    data["images"][0]["file_name"] = "../../far.png"
    records = read_coco(str(write(tmp_path / "set", data))).train
    assert records.images[0].image == Outside(tmp_path / "set/images/../../far.png")
    (tmp_path / "far.png").unlink()
    records = read_coco(str(tmp_path / "set")).train
    assert records.images[0].image == tmp_path / "set" / "images" / "far.png"


def test_files_that_no_annotation_names_are_told(tmp_path):
    root = write(tmp_path, coco())
    for name in ("more.jfif", "notes.txt", "odd.heic"):
        (root / "images" / name).touch()
    (root / "annotations" / "instances_test.json").write_text("{}")
    source = read_coco(str(root))
    assert source.train.asides == (
        Aside("unlisted", (f"{root}/images/more.jfif",)),
        Aside("unread", (f"{root}/images/odd.heic",)),
        Aside("unused", (f"{root}/annotations/instances_test.json",)),
        Aside("text", (f"{root}/images/notes.txt",)),
    )
    assert source.val is not None
    assert source.val.asides == ()


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [(("2007_1", "2007_2"), [1, 2]), (("000139", "7"), [139, 7]), (("7", "07"), [1, 2])],
)
def test_ids_may_be_texts(tmp_path, ids, numbers):
    data = coco()
    texts = {7: ids[0], 3: ids[1]}
    for record in data["images"]:
        record["id"] = texts[record["id"]]
    for record in data["annotations"]:
        record["image_id"] = texts[record["image_id"]]
    data["annotations"][2]["image_id"] = 7
    source = read_coco(str(write(tmp_path, data)))
    assert [listed.image_id for listed in source.train.images] == numbers
    assert source.train.image.tolist() == [0, 0, -1, 1]


def test_ids_of_categories_may_be_texts(tmp_path):
    files = coco(), coco("val")
    for data in files:
        for key, field in (("categories", "id"), ("annotations", "category_id")):
            for record in data[key]:
                record[field] = f"c{record[field]}"
    source = read_coco(str(write(tmp_path, *files)))
    assert source.category_ids == (1, 2)
    assert source.class_names == ("dog", "cat")
    assert source.train.labels.tolist() == [0, 1, 1, 1]


OUTLINES = [
    ([[1, 2, 5, 2, 5, 9]], [1, 2, 5, 9]),
    ([[1, 2, 5, 2, 5, 9], [0, 3, 1, 3, 1, 4]], [0, 2, 5, 9]),
    ([1, 2, 5, 2, 5, 9], [1, 2, 5, 9]),
    ({"size": [30, 40], "counts": [61, 4, 26, 4, 1105]}, [2, 1, 4, 5]),
    ([[1, 2, 5, 2]], None),
    ([[1, 2, 5, 2, 5, None]], None),
    ([[1, 2, 5, 2, 5, 9], "x"], None),
    ([], None),
    ({"size": [30, 40], "counts": "\ud800"}, None),
    ({"size": [30, 40]}, None),
    ({"size": [-3, 10**9], "counts": [1]}, None),
    (3, None),
]


@pytest.mark.parametrize("written", ["removed", None, [], [0, 0, 0, 0]])
@pytest.mark.parametrize(("outline", "box"), OUTLINES)
def test_a_box_that_is_not_there_is_that_of_the_outline(tmp_path, outline, box, written):
    records = train_of(tmp_path, {"bbox": written, "segmentation": outline})
    if box is None:
        assert written == [0, 0, 0, 0] or np.isnan(records.boxes[0]).all()
        assert noted(records) == {}
    else:
        assert records.boxes[0].tolist() == box
        assert noted(records) == {"outline": [0]}


def test_a_box_that_is_there_is_not_that_of_the_outline(tmp_path):
    outline = [[1, 2, 5, 2, 5, 9]]
    assert np.isnan(train_of(tmp_path, {"bbox": [1, 2, 3], "segmentation": outline}).boxes[0]).all()
    records = train_of(tmp_path, {"segmentation": outline})
    assert records.boxes[0].tolist() == [10, 5, 30.5, 15]


@pytest.mark.parametrize(
    ("extra", "supercategory", "left_out"),
    [
        ({"id": 0, "name": "pets", "supercategory": "none"}, "pets", True),
        ({"id": 0, "name": "pets"}, "pets", True),
        ({"id": 0, "name": "__background__"}, "none", True),
        ({"id": 0, "name": "pets", "supercategory": "none"}, "animals", False),
        ({"id": 0, "name": "cow"}, None, False),
    ],
)
def test_a_class_that_is_none_is_left_out_and_told(tmp_path, extra, supercategory, left_out):
    files = coco(), coco("val")
    for data in files:
        for record in data["categories"]:
            record["supercategory"] = supercategory
        data["categories"].append(dict(extra))
    source = read_coco(str(write(tmp_path, *files)))
    assert len(source.class_names) == 3 - left_out
    path = tmp_path / "annotations" / "instances_train.json"
    told = (Aside("root_class", (f"{path}: category 0: {extra['name']!r}",)),)
    assert source.train.asides == (told if left_out else ())
    files[1]["annotations"][0]["category_id"] = 0
    assert len(read_coco(str(write(tmp_path, *files))).class_names) == 3


def test_classes_of_one_name_are_told(tmp_path):
    data = coco()
    data["categories"][0]["name"] = "cat"
    source = read_coco(str(write(tmp_path, data, data)))
    path = tmp_path / "annotations" / "instances_train.json"
    assert source.train.asides == (
        Aside("unlisted", tuple(f"{tmp_path}/images/val_{name}.png" for name in "ab")),
        Aside("same_name", (f"{path}: class 4: 'cat', as 9",)),
    )
