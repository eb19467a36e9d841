"""The command `predict`, and what `evaluate` makes of its file."""

import io
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import flaxyolo
from flaxyolo import evaluate, predict
from flaxyolo.deploy.predictions import Predictions
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.weights.checkpoint import save_detector
from tests.small import tiny_spec
from tests.tiny_data import ROOT, SIDE, write_coco


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and a data set of its classes."""
    base = tmp_path_factory.mktemp("predict")
    spec = tiny_spec(num_classes=2)
    detector = TrainedDetector(spec, initial_weights(spec, 7), ("blue", "red"))
    save_detector(base / "best", detector, {})
    return SimpleNamespace(checkpoint=base / "best", data=write_coco(base / "data"))


def run(made, out, *more):
    return predict.main([str(made.checkpoint), *map(str, more), "--out", str(out)])


LOW = ("--min-score", "0.001")


def test_the_answer_comes_first_and_then_where_it_lies(made, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_text("no image")
    images = made.data / "images"
    assert run(made, tmp_path / "out", images, bad, "nosuch", *LOW) == 0
    out, err = capsys.readouterr()
    first, second, third = out.splitlines()
    assert first.startswith("Found ")
    assert " objects in 18 of 18 images, score 0.001 or more: " in first
    assert first.endswith("; 2 inputs could not be read")
    assert second.endswith("out: pictures/, predictions.json, labels/, predictions.csv")
    assert third.startswith(f"{made.checkpoint}, 64 px; ")
    assert err.splitlines() == [
        "warning: nosuch: there is no such file or folder",
        f"warning: {bad}: expected an image that OpenCV can decode, got 8 bytes that are none, or "
        "one that is cut off",
    ]
    names = {path.stem for path in (tmp_path / "out" / "pictures").iterdir()}
    assert names == {path.stem for path in images.iterdir()}


@pytest.fixture
def found_before(made, tmp_path):
    """The data, but the objects of each image are what the checkpoint finds best in it."""
    data = tmp_path / "data"
    shutil.copytree(made.data, data)
    path = data / "annotations" / "instances_val.json"
    content, detector = json.loads(path.read_text()), flaxyolo.load(made.checkpoint)
    content["annotations"] = []
    for image in content["images"]:
        found = detector(data / "images" / image["file_name"], min_score=0.001)
        # In whole pixels, inside the image, and no two alike: nothing that an audit mends.
        boxes = {tuple(map(round, record["bbox"])): record for record in found.to_coco(image["id"])}
        clear = [b for b in boxes if min(b[2:]) > 3 and max(b[0] + b[2], b[1] + b[3]) <= SIDE]
        for box in clear[:8:2]:
            more = {"id": len(content["annotations"]) + 1, "bbox": list(box), "iscrowd": 0}
            content["annotations"].append(boxes[box] | more | {"area": box[2] * box[3]})
    path.write_text(json.dumps(content))
    return data


def test_evaluate_takes_the_file_and_scores_it_as_it_does_the_checkpoint(
    made, found_before, tmp_path, capsys
):
    files = found_before / "annotations" / "instances_val.json"
    pattern = found_before / "images" / "val*.png"
    assert run(made, tmp_path / "out", pattern, *LOW, "--save", "coco") == 0
    result = tmp_path / "out" / "predictions.json"
    capsys.readouterr()
    found = ["--detections", str(result), "--annotations", str(files), "--json"]
    assert evaluate.main(found) == 0
    of_file = json.loads(capsys.readouterr().out)
    assert evaluate.main([str(made.checkpoint), "--data", f"coco:{found_before}", "--json"]) == 0
    of_checkpoint = json.loads(capsys.readouterr().out)
    for key in ("map", "map_50", "mar_100"):
        assert of_file[key] == pytest.approx(of_checkpoint[key], abs=1e-6)
    assert 0.1 < of_checkpoint["map"] < 1


def test_tiles_and_standard_input(made, tmp_path, monkeypatch, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    content = cv2.imencode(".png", noise)[1].tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    more = ("--slice", "100", "--overlap", "0.3", "--save", "coco", "pictures")
    assert run(made, tmp_path / "out", "-", *LOW, *more) == 0
    assert " in tiles of 100 px; " in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert content["info"]["slice"] == 100
    assert content["images"] == [{"id": 1, "file_name": "stdin.png", "width": 200, "height": 150}]
    assert {tuple(one) for one in (r.keys() for r in content["annotations"])} == {
        ("image_id", "category_id", "bbox", "score", "id", "area", "iscrowd")
    }
    with Image.open(tmp_path / "out" / "pictures" / "stdin.png") as picture:
        assert picture.size == (200, 150)


def test_nothing_found_is_said(made, tmp_path, capsys):
    one = made.data / "images" / "val0.png"
    assert run(made, tmp_path / "out", one, "--min-score", "1") == 0
    assert capsys.readouterr().out.startswith("Nothing found in 1 image, score 1 or more\n")
    assert (tmp_path / "out" / "labels" / "val0.txt").read_text() == ""


def test_where_nothing_can_be_read_nothing_is_written(made, tmp_path, capsys):
    assert run(made, tmp_path / "out", "nosuch", "neither") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "warning: neither: there is no such file or folder",
        "error: nothing could be read: nosuch: there is no such file or folder",
    ]
    assert not (tmp_path / "out").exists()


def test_many_that_cannot_be_read_are_a_few_lines(made, tmp_path, capsys):
    words = [f"no{number}" for number in range(30)]
    assert run(made, tmp_path / "out", made.data / "images" / "val0.png", *words) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].endswith("; 30 inputs could not be read")
    lines = err.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "warning: and 20 more that could not be read"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["x", "--min-score", "2"], "error: --min-score: expected a number from 0 to 1, got 2"),
        (["x", "--min-score", "nan"], "error: --min-score: expected a number from 0 to 1, got nan"),
        (["x", "--slice", "3"], "error: --slice: expected at least 32 pixels, got 3"),
        (["x", "--overlap", "1"], "error: --overlap: expected 0 to 0.9, got 1"),
        ([], "error: expected at least one SOURCE"),
    ],
)
def test_flags_that_do_not_fit_are_told_in_one_line(made, tmp_path, more, says, capsys):
    assert run(made, tmp_path / "out", *more) == 2
    err = capsys.readouterr().err
    assert err.startswith(says)
    assert err.count("\n") == 1


def test_files_of_two_runs_do_not_mix(made, tmp_path, capsys):
    (tmp_path / "x").write_text("mine")
    assert run(made, tmp_path, made.data / "images") == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert run(made, tmp_path / "x", made.data / "images") == 2


def test_an_interruption_leaves_what_is_finished(made, tmp_path, monkeypatch, capsys):
    add = Predictions.add

    def two(self, frame, found):
        if self.images == 2:
            raise KeyboardInterrupt
        add(self, frame, found)

    monkeypatch.setattr(Predictions, "add", two)
    assert run(made, tmp_path / "out", made.data / "images", *LOW) == 130
    assert "out: interrupted; what was found in 2 images is there" in capsys.readouterr().err
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 2
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 1 + len(
        content["annotations"]
    )


def test_the_function_takes_the_words_of_the_flags(made, tmp_path, capsys):
    image = made.data / "images" / "val0.png"
    found = flaxyolo.run_predict(
        made.checkpoint, image, out=str(tmp_path / "out"), save=["csv"], min_score=0.001
    )
    assert (found.folder, found.images, found.problems) == (tmp_path / "out", 1, ())
    assert sum(found.objects.values()) > 0
    assert [path.name for path in found.folder.iterdir()] == ["predictions.csv"]
    with pytest.raises(flaxyolo.InputError, match="nothing could be read: nosuch: "):
        flaxyolo.run_predict(made.checkpoint, ["nosuch"], out=tmp_path / "other")


@pytest.mark.slow
def test_the_commands_do_not_warn_and_end_with_their_code(made, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    image = (made.data / "images" / "val0.png").read_bytes()
    command = [sys.executable, "-W", "error", "-m", "flaxyolo.predict", str(made.checkpoint), "-"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        input=image,
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    for name in ("train", "evaluate", "sweep"):
        done = subprocess.run(
            [sys.executable, "-m", f"flaxyolo.{name}", "--help"],
            capture_output=True,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, b"")
