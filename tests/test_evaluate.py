import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import flaxyolo
from flaxyolo import evaluate
from flaxyolo.base.errors import InputError
from flaxyolo.data import feeds, sources
from flaxyolo.data.sources import Dataset
from flaxyolo.nn import detector as network
from flaxyolo.scoring.average_precision import KEYS
from flaxyolo.weights import checkpoint
from tests.scoring.scenes import CATEGORY_IDS, EXAMPLES, NAMES, perfect_detect, pixels_of, trained


@pytest.fixture
def perfect(monkeypatch):
    """A detector whose `detect` finds exactly the objects; yields the batch shapes it saw."""
    shapes = []
    monkeypatch.setattr(network, "detect", perfect_detect(shapes))
    return shapes


@pytest.fixture
def command(perfect, monkeypatch):
    """The command with a perfect checkpoint on a data set of the examples."""
    dataset = Dataset(
        name="mine",
        train=(),
        val=EXAMPLES,
        class_names=NAMES,
        category_ids=CATEGORY_IDS,
        fingerprint="0",
    )
    monkeypatch.setattr(checkpoint, "load_detector", lambda path: trained())
    monkeypatch.setattr(sources, "read_dataset", lambda source: dataset)
    monkeypatch.setattr(feeds, "open_pixels", lambda data, split, size: pixels_of(data.val))
    return dataset


def test_the_command_prints_only_json_on_stdout(command, capsys):
    assert evaluate.main(["runs/x/best", "--data", "mine", "--json"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert tuple(data) == (*KEYS, "per_class", "best_f1")
    assert data["best_f1"]["f1"] == pytest.approx(1)
    assert [one["name"] for one in data["best_f1"]["per_class"]] == ["cat", "dog"]
    assert (data["map"], data["map_medium"]) == (pytest.approx(1), None)
    assert err == "runs/x/best: 3 images of mine, split val\n"


def test_the_command_prints_tables_for_a_person(command, capsys):
    assert evaluate.main(["runs/x/best", "--data", "mine"]) == 0
    out = capsys.readouterr().out
    headings = "mAP50-95 mAP50 mAP75 mAP_s mAP_m mAP_l AR1 AR10 AR100 AR_s AR_m AR_l cat dog"
    assert [word for word in headings.split() if word not in out.split()] == []
    assert "1.0000" in out.split()
    assert "n/a" in out.split()
    assert "precision recall f1" in " ".join(out.split())
    assert "best from a score of 0.900 on, all classes together, IoU at least 0.5: precision " \
        "1.0000, recall 1.0000, f1 1.0000" in out  # fmt: skip


def test_both_scorers_give_the_same_numbers(command, capsys):
    told = []
    for scorer in ("hotcoco", "pycocotools"):
        assert evaluate.main(["runs/x/best", "--data", "mine", "--json", "--scorer", scorer]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0] == told[1]


def test_a_checkpoint_of_other_classes_is_refused(command, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "load_detector", lambda path: trained(("cat", "cow")))
    assert evaluate.main(["runs/x/best", "--data", "mine"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: runs/x/best: expected the classes of mine, [cat, dog], but")
    assert err.count("\n") == 1


def test_a_result_file_is_scored(test_data, capsys):
    folder = test_data / "eval_coco100"
    files = ["--detections", str(folder / "dets.json"), "--annotations"]
    assert evaluate.main([*files, str(folder / "gt_official.json"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    expected = json.loads((folder / "expected.json").read_text())["gt_official"]["stats"]
    assert data["map"] == pytest.approx(expected["AP"], abs=1e-9)
    assert data["mar_large"] == pytest.approx(expected["ARl"], abs=1e-9)
    hydrant = next(entry for entry in data["per_class"] if entry["name"] == "fire hydrant")
    assert hydrant == {"name": "fire hydrant", "map": None, "map_50": None}


@dataclass(frozen=True)
class Files:
    truth: Path
    found: Path

    def score(self):
        return evaluate.score_files(self.truth, self.found)


@pytest.fixture
def files(tmp_path):
    truth, found = tmp_path / "gt.json", tmp_path / "dets.json"
    truth.write_text('{"images": [{"id": 1}], "categories": [], "annotations": []}')
    found.write_text("[]")
    return Files(truth, found)


def test_empty_files_score_nothing(files):
    assert files.score().map is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[1,\n 2", "dets.json, line 2: expected JSON"),
        (b"{}", "dets.json: expected a list of COCO results, .* got None under 'images'"),
        (b"\xff\xfe\xff", "dets.json.*expected JSON"),
        (b'[{"image_id": 5}]', "dets.json: record 0: .* got 5"),
    ],
)
def test_a_bad_result_file_is_named(files, content, says):
    files.found.write_bytes(content)
    with pytest.raises(InputError, match=says):
        files.score()


def test_a_bad_annotation_file_is_named(files):
    files.truth.write_text("[]")
    with pytest.raises(InputError, match=r"gt.json: expected COCO annotations .* got a list"):
        files.score()
    files.truth.unlink()
    with pytest.raises(InputError, match=r"gt.json: cannot read the file: No such file"):
        files.score()


@pytest.mark.parametrize(
    "argv", [[], ["x", "--detections", "d", "--annotations", "a"], ["--detections", "d"]]
)
def test_the_two_forms_of_the_command_do_not_mix(argv, capsys):
    assert evaluate.main(argv) == 2
    assert capsys.readouterr().err.startswith("error: expected either CHECKPOINT")


def test_scoring_files_does_not_load_jax(files):
    code = (
        "import sys; from flaxyolo import evaluate\n"
        f"assert evaluate.main(['--errors', '--detections', {str(files.found)!r}, "
        f"'--annotations', {str(files.truth)!r}]) == 0\n"
        "assert 'jax' not in sys.modules"
    )
    root = Path(flaxyolo.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


ANNOTATIONS = {
    "images": [{"id": one.image_id} for one in EXAMPLES],
    "categories": [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
    "annotations": [
        {"image_id": 42, "category_id": 3, "bbox": [10, 20, 140, 70], "area": 9800, "iscrowd": 0},
        {"image_id": 42, "category_id": 17, "bbox": [200, 5, 39, 20], "area": 780, "iscrowd": 0},
        {"image_id": 7, "category_id": 17, "bbox": [0, 0, 111, 333], "area": 36963, "iscrowd": 0},
    ],
}
"""The examples, as COCO has them."""
SHIFTED = [
    {"image_id": 42, "category_id": 3, "bbox": [10, 20, 140, 70], "score": 0.9},
    {"image_id": 42, "category_id": 3, "bbox": [200, 5, 39, 20], "score": 0.8},
    {"image_id": 7, "category_id": 17, "bbox": [0, 0, 111, 120], "score": 0.7},
]
"""A cat that is right, a cat that is a dog, and a dog that is too small by far."""


@pytest.fixture
def result_files(tmp_path):
    truth, found = tmp_path / "gt.json", tmp_path / "dets.json"
    truth.write_text(json.dumps(ANNOTATIONS))
    found.write_text(json.dumps(SHIFTED))
    return ["--detections", str(found), "--annotations", str(truth)]


def test_errors_are_three_more_keys(result_files, capsys):
    assert evaluate.main([*result_files, "--json", "--errors"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert tuple(data) == (*KEYS, "per_class", "best_f1", "errors", "confusion", "calibration")
    kinds = data["errors"]["kinds"]
    assert {name: kind["count"] for name, kind in kinds.items() if kind["count"]} == {
        "classification": 1,
        "localisation": 1,
    }
    # Cat 1, dog 0. With the small dog right too: cat 1, dog 1 of 2 behind one wrong, 51 steps.
    assert data["errors"]["map_50"] == pytest.approx(0.5)
    assert kinds["classification"]["cost"] == pytest.approx(51 / 101 / 2)
    assert kinds["classification"]["sizes"]["small"]["count"] == 1
    assert data["confusion"]["matrix"] == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
    assert data["calibration"]["detections"] == 3


def test_errors_of_a_checkpoint_are_told_in_tables(command, capsys):
    assert evaluate.main(["runs/x/best", "--data", "mine", "--errors"]) == 0
    out = capsys.readouterr().out
    words = "classification localisation both duplicate background missed false positives negatives"
    assert [word for word in words.split() if word not in out.split()] == []
    assert "confusion matrix (score at least 0.25, IoU at least 0.5)" in out
    assert "calibration of 3 detections" in out
    assert "scores are 0.10 too low" in out


def test_many_classes_show_the_most_confused_pairs(test_data, capsys):
    folder = test_data / "eval_coco100"
    files = ["--detections", str(folder / "dets.json"), "--annotations"]
    assert evaluate.main([*files, str(folder / "gt_official.json"), "--errors"]) == 0
    out = capsys.readouterr().out
    assert "the 10 most confused pairs of classes" in out
    assert "COCO's mAP50 is 0.6970" in out


def test_limits_of_the_confusion_matrix_can_be_given(result_files, capsys):
    limits = ["--confusion-score", "0.85", "--confusion-iou", "0.3"]
    assert evaluate.main([*result_files, "--json", "--errors", *limits]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["confusion"]["matrix"] == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]


def test_pictures_of_the_worst_errors_lie_beside_the_result_file(command, result_files, tmp_path):
    assert evaluate.main([*result_files, "--show-errors", "2", "--data", "mine"]) == 0
    written = sorted(path.name for path in (tmp_path / "errors").iterdir())
    assert written == ["classification.png", "localisation.png"]
    elsewhere = tmp_path / "pictures"
    more = ["--show-errors", "1", "--data", "mine", "--out", str(elsewhere), "--json"]
    assert evaluate.main([*result_files, *more]) == 0
    assert sorted(path.name for path in elsewhere.iterdir()) == written


def test_pictures_of_a_perfect_checkpoint_are_none(command, tmp_path, capsys):
    assert evaluate.main([str(tmp_path / "best"), "--data", "mine", "--show-errors", "3"]) == 0
    assert "there is no error to draw" in capsys.readouterr().err
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--show-errors", "2"], "error: --show-errors draws on the images, .* --data coco:DIR"),
        (["--show-errors", "-1"], "error: --show-errors must be at least 0, got -1"),
        (["--out", "x"], "error: --out is the folder of the pictures"),
        (["--errors", "--confusion-iou", "0"], "error: expected a least IoU above 0"),
    ],
)
def test_flags_that_do_not_fit_are_told_in_one_line(result_files, more, says, capsys):
    assert evaluate.main([*result_files, *more]) == 2
    err = capsys.readouterr().err
    assert re.match(says, err)
    assert err.count("\n") == 1
