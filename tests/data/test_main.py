import json
import logging

import cv2
import numpy as np
import pytest

from flaxyolo.base.charts import draw_examples
from flaxyolo.data.__main__ import choose_examples, main
from flaxyolo.data.readers import digits
from flaxyolo.data.sources import Example, read_dataset
from tests.tiny_data import write_coco


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path_factory.mktemp("cache")))


def example(*boxes, labels=None, crowd=None) -> Example:
    count = len(boxes)
    return Example(
        image_id=1,
        image=np.zeros((60, 80, 3), np.uint8),
        height=60,
        width=80,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels or [0] * count, np.int32),
        areas=np.ones(count, np.float32),
        crowd=np.array(crowd or [False] * count, bool),
    )


def spoil(root, **change) -> None:
    path = root / "annotations" / "instances_train.json"
    data = json.loads(path.read_text())
    data["annotations"][0].update(change)
    path.write_text(json.dumps(data))


def test_variety_is_chosen_first():
    dull = [example((10, 10, 30, 30)) for _ in range(30)]
    examples = [
        *dull,
        example(*[(i, i, i + 9, i + 9) for i in range(12)]),
        example(),
        example((1, 1, 4, 3), (1, 1, 40, 30)),
        example((0, 0, 79, 59)),
        example((5, 5, 20, 20), labels=[3]),
        example((5, 5, 6, 6), crowd=[True]),
    ]
    chosen = dict(choose_examples(examples, 8))
    assert chosen[30] == "densest: 12 boxes"
    assert chosen[31] == "no boxes"
    assert chosen[32] == "smallest box: 3 x 2 px"
    assert chosen[33] == "largest box: 79 x 59 px"
    assert chosen[34] == "1 box"
    assert len(chosen) == 8
    assert list(chosen) != list(dict(choose_examples(examples, 8, seed=1)))
    assert choose_examples(examples, 8) == choose_examples(examples, 8)
    assert len(choose_examples(examples, 100)) == len(examples)
    assert choose_examples([example(), example()], 1)[0][1] == "no boxes"


def test_a_sheet_of_examples_shows_boxes_in_colour(tmp_path):
    def coloured(picture) -> int:
        return int((np.ptp(picture.astype(int), axis=2) > 60).sum())

    def drawn(name, *examples, classes=("cat", "dog")):
        path = tmp_path / name
        images = [one.image for one in examples]
        draw_examples(images, examples, ["caption"] * len(examples), classes, path)
        return cv2.imread(str(path))

    box = (20, 20, 60, 50)
    empty, one = drawn("0.png", example()), drawn("1.png", example(box))
    assert coloured(empty) == 0
    assert coloured(one) > 500
    dashed = drawn("2.png", example(box, crowd=[True]))
    assert 100 < coloured(dashed) < coloured(one)
    many = [f"class {number}" for number in range(60)]
    busy = example(*[(n, n, n + 9, n + 9) for n in range(40)], labels=list(range(40)))
    assert coloured(drawn("3.png", *[busy] * 5, classes=many)) > 500
    with pytest.raises(ValueError, match="at least one image"):
        draw_examples([], [], [], [], tmp_path / "x.png")


def test_show_draws_a_picture_and_says_what_is_in_it(tmp_path, capsys):
    root = write_coco(tmp_path / "data")
    out = tmp_path / "a" / "sheet.png"
    flags = ["show", f"coco:{root}", "--out", str(out), "--count", "5", "--split", "val"]
    assert main(flags) == 0
    height, width = cv2.imread(str(out)).shape[:2]
    assert width == pytest.approx(4 * 374, abs=2)
    assert 700 < height < 1000
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(out)
    assert len(lines) == 6
    assert "96 x 96 px, densest: 2 boxes" in lines[1]
    assert str(root / "images" / "val") in lines[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["show", "coco:{root}", "--split", "test"], "--split: expected train or val, got 'test'"),
        (["show", "coco:{root}", "--count", "0"], "--count: expected at least 1, got 0"),
        (["show", "nothing:x"], "--data: expected one of digits, scenes, coco, yolo, voc, tfds"),
        (["convert", "coco:{root}", "{root}"], "expected a new folder, found something there"),
        (["audit", "coco:{root}/no"], "found nothing there"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, flags, words):
    root = write_coco(tmp_path / "data")
    assert main([flag.format(root=root) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_an_unknown_flag_or_command_ends_with_2(capsys):
    for flags in (["draw", "digits"], ["show"], ["convert", "digits", "x", "--to", "xml"]):
        with pytest.raises(SystemExit) as caught:
            main(flags)
        assert caught.value.code == 2
    capsys.readouterr()


def test_convert_prints_what_to_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 4, "val": 2})
    assert main(["convert", "digits", str(tmp_path / "new"), "--to", "tfds"]) == 0
    source = capsys.readouterr().out.strip()
    assert source == f"tfds:{tmp_path / 'new'}"
    assert len(read_dataset(source).train) == 4


def test_an_audit_without_findings_says_so(tmp_path, capsys):
    root = write_coco(tmp_path / "data")
    assert main(["audit", f"coco:{root}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"coco:{root}",
        "  train: 12 of 12 images and 24 of 24 boxes are sound",
        "  val: 6 of 6 images and 12 of 12 boxes are sound",
        "  nothing found",
    ]


def test_an_audit_that_stops_a_run_ends_with_2_after_its_findings(tmp_path, capsys, caplog):
    caplog.set_level(logging.CRITICAL)
    root = write_coco(tmp_path / "data")
    spoil(root, category_id=9)
    assert main(["audit", f"coco:{root}"]) == 2
    out, error = capsys.readouterr()
    assert "train: 12 of 12 images and 23 of 24 boxes are sound" in out
    assert "train: 1 boxes of a class that is not listed: STOPS a run; --repair: left out" in out
    assert "instances_train.json: annotation 1" in out
    assert "expected labels without faults" in error
    assert main(["audit", f"coco:{root}", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == f"coco:{root}"
    assert [(one["kind"], one["count"], one["stops"]) for one in found["findings"]] == [
        ("class", 1, True)
    ]


def test_an_audit_repairs_into_a_new_folder(tmp_path, capsys, caplog):
    caplog.set_level(logging.CRITICAL)
    root = write_coco(tmp_path / "data")
    spoil(root, bbox=[-40, 3, 10, 10])
    before = (root / "annotations" / "instances_train.json").read_bytes()
    repaired = tmp_path / "repaired"
    assert main(["audit", f"coco:{root}", "--repair", str(repaired)]) == 0
    assert "1 boxes wholly outside their image" in capsys.readouterr().out
    assert (root / "annotations" / "instances_train.json").read_bytes() == before
    assert main(["audit", f"coco:{repaired}"]) == 0
    assert sum(len(one.boxes) for one in read_dataset(f"coco:{repaired}").train) == 23
