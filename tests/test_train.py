"""The training loop: it learns, repeats, resumes bit for bit, and stops at a loss gone wrong."""

import csv
import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from flaxyolo import evaluate
from flaxyolo import train as train_module
from flaxyolo.checks.steps import compilations
from flaxyolo.config import Augmentation, Config, TrainConfig, read_config, write_config
from flaxyolo.data.batches import to_device
from flaxyolo.data.feeds import Resident
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.train import Record, main
from flaxyolo.training.loop import DivergedError, train
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import compile_step, start
from flaxyolo.weights.checkpoint import load_detector, read_metadata, save_detector
from flaxyolo.weights.transfer import read_source
from tests.events import events, scalars
from tests.small import tiny_feed, tiny_pixels, tiny_spec
from tests.tiny_data import write_coco

NAMES = ("red", "green", "blue")
CONFIG = TrainConfig(
    epochs=3,
    batch_size=4,
    warmup_epochs=0,
    augmentation=Augmentation(close_mosaic_epochs=1),
)


def leaves(detector):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(detector.weights)]


def same_epochs(epochs, others):
    assert [epoch.number for epoch in epochs] == [epoch.number for epoch in others]
    for epoch, other in zip(epochs, others, strict=True):
        assert epoch.loss == other.loss
        for mine, theirs in zip(leaves(epoch.detector), leaves(other.detector), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(tmp_path):
    whole = list(train(tiny_spec(), tiny_feed(), NAMES, CONFIG))
    interrupted = train(tiny_spec(), tiny_feed(), NAMES, CONFIG, run_dir=tmp_path)
    assert next(interrupted).number == 1
    interrupted.close()
    resumed = list(train(tiny_spec(), tiny_feed(), NAMES, CONFIG, run_dir=tmp_path))
    same_epochs(resumed, whole)
    assert resumed[0].seconds == 0
    assert all(epoch.seconds > 0 for epoch in resumed[1:])


def test_a_run_that_is_done_yields_its_last_epoch_alone(tmp_path):
    begun = list(train(tiny_spec(), tiny_feed(), NAMES, CONFIG, run_dir=tmp_path))
    with compilations() as compiled:
        again = list(train(tiny_spec(), tiny_feed(), NAMES, CONFIG, run_dir=tmp_path))
    same_epochs(again, begun[-1:])
    assert "train_step" not in " ".join(compiled)


def test_another_seed_gives_another_run():
    one = next(train(tiny_spec(), tiny_feed(), NAMES, CONFIG))
    other = next(train(tiny_spec(), tiny_feed(), NAMES, replace(CONFIG, seed=1)))
    assert one.loss != other.loss


def test_seeds_share_one_program():
    config = replace(CONFIG, epochs=3)
    next(train(tiny_spec(), tiny_feed(), NAMES, config))
    with compilations() as compiled:
        next(train(tiny_spec(), tiny_feed(), NAMES, replace(config, seed=5)))
    assert "train_step" not in " ".join(compiled)


def test_a_loss_that_is_not_finite_stops_the_run():
    wild = replace(CONFIG, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(DivergedError, match="not finite"):
        list(train(tiny_spec(), tiny_feed(), NAMES, wild))


def test_every_parameter_gets_a_gradient():
    feed = tiny_feed()
    plan = plan_run(tiny_spec(), CONFIG, feed.pixels)
    state = start(plan)
    before = jax.tree.map(np.asarray, state.weights.params)
    device = to_device(feed.pixels)
    step = compile_step(plan, state, feed)
    after, _, dropped = step(state, device, np.arange(4, dtype=np.int32), np.int32(0))
    assert int(dropped) == 0
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(b) != a).any()), before, after.weights.params
    )
    still = [path for path, change in jax.tree.leaves_with_path(moved) if not change]
    assert not still


def test_the_record_replaces_epochs_that_are_done_again(tmp_path):
    record = Record(tmp_path / "metrics.jsonl")
    for epoch, loss in ((1, 3.0), (2, 2.0), (2, 1.5), (3, 1.0)):
        record.add({"epoch": epoch, "box": loss})
    assert [(row["epoch"], row["box"]) for row in record.rows()] == [(1, 3.0), (2, 1.5), (3, 1.0)]


def interrupted_in(monkeypatch, owner, name, call, after):
    """The named function is interrupted in this call, before or after its work."""
    real, calls = getattr(owner, name), itertools.count(1)

    def stopped(*given):
        made = real(*given) if after else None
        if next(calls) == call:
            raise KeyboardInterrupt
        return made if after else real(*given)

    monkeypatch.setattr(owner, name, stopped)


@pytest.mark.slow
def test_an_interruption_after_an_epoch_is_saved_leaves_no_gap_and_no_double_line(
    tmp_path, monkeypatch
):
    write_coco(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), CONFIG))
    # The tiny network is too small to learn a batch by heart.
    command = [str(tmp_path / "tiny.yaml"), "--data", f"coco:{tmp_path / 'data'}"]
    command += ["--evaluate-every", "2", "--no-preflight", "--out"]

    def left(name):
        rows = Record(tmp_path / name / "metrics.jsonl").rows()
        timeless = [{k: v for k, v in row.items() if "seconds" not in k} for row in rows]
        kept = [load_detector(tmp_path / name / which) for which in ("best", "last")]
        return timeless, [leaf for detector in kept for leaf in leaves(detector)]

    assert main([*command, str(tmp_path / "calm")]) == 0
    rows, weights = left("calm")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert ["map" in row for row in rows] == [False, True, True]
    moments = [
        (train_module, "evaluate", 1, False),
        (train_module, "evaluate", 2, False),
        (Record, "add", 1, False),
        (Record, "add", 2, True),
        (Record, "add", 3, True),
    ]
    for number, moment in enumerate(moments):
        with monkeypatch.context() as patch:
            interrupted_in(patch, *moment)
            assert main([*command, str(tmp_path / str(number))]) == 130
        assert main([*command, str(tmp_path / str(number))]) == 0
        rows_now, weights_now = left(str(number))
        assert rows_now == rows
        for mine, theirs in zip(weights_now, weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    # The second line was written before the interruption, and stands as it was.
    lines = Record(tmp_path / "3" / "metrics.jsonl").rows()
    assert lines[1]["seconds"] > 0
    assert main([*command, str(tmp_path / "3")]) == 0
    assert Record(tmp_path / "3" / "metrics.jsonl").rows() == lines


@pytest.mark.slow
def test_a_damaged_state_or_detector_ends_a_command_with_one_line(tmp_path, capsys):
    write_coco(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), replace(CONFIG, epochs=1)))
    out = tmp_path / "run"
    command = [str(tmp_path / "tiny.yaml"), "--data", f"coco:{tmp_path / 'data'}"]
    command += ["--no-preflight", "--out", str(out)]
    assert main(command) == 0
    record = (out / "metrics.jsonl").read_text()
    for folder, again in ((out / "state", lambda: main(command)),
                          (out / "best", lambda: evaluate.main([str(out)]))):  # fmt: skip
        file = folder / "state" / "manifest.ocdbt"
        whole = file.read_bytes()
        file.write_bytes(bytes(len(whole)))
        capsys.readouterr()
        assert again() == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: {folder}: a damaged ")
        assert "manifest.ocdbt has other content" in error
        file.write_bytes(whole)
        assert again() == 0
    # What the run has told is still there.
    assert (out / "metrics.jsonl").read_text() == record


@pytest.mark.slow
def test_a_logged_run_that_was_interrupted_has_each_epoch_once(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboardX")
    write_coco(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), CONFIG))
    command = [str(tmp_path / "tiny.yaml"), "--data", f"coco:{tmp_path / 'data'}"]
    command += ["--evaluate-every", "2", "--no-preflight", "--out", str(tmp_path / "run")]
    command += ["--log", "tensorboard", "csv"]
    with monkeypatch.context() as patch:
        interrupted_in(patch, Record, "add", 2, True)
        assert main(command) == 130
    assert main(command) == 0
    found = scalars(events(tmp_path / "run" / "tensorboard"))
    assert [step for tag, step, _ in found if tag == "train/loss"] == [1, 2, 3]
    assert [step for tag, step, _ in found if tag == "val/map"] == [2, 3]
    table = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert {tag for tag, _, _ in found} == table[0].keys() - {"epoch"}
    # Without the flag the table is that of every run; with it nothing is written once more.
    assert main(command[:-3]) == 0
    assert (tmp_path / "run" / "metrics.csv").read_text().startswith("epoch,seconds,box,cls")
    assert main(command) == 0
    assert scalars(events(tmp_path / "run" / "tensorboard")) == found


@pytest.mark.slow
def test_a_run_leaves_tables_and_pictures_and_prints_a_command_that_works(tmp_path, capsys):
    write_coco(tmp_path / "my data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), CONFIG))
    out = tmp_path / "one image ü"
    command = [str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "my data"), "--no-preflight"]
    command += ["--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    rows = list(csv.DictReader((out / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    pictures = ("curve.png", "detections.png", "pr.png", "confusion.png")
    for name in pictures:
        assert cv2.imdecode(np.fromfile(out / name, np.uint8), cv2.IMREAD_COLOR).size > 0
    # The same command draws again what is missing.
    (out / "pr.png").unlink()
    assert main(command) == 0
    assert (out / "pr.png").exists()
    capsys.readouterr()

    words = shlex.split(printed.removeprefix("next: "))
    assert words[:3] == ["python", "-m", "flaxyolo.evaluate"]
    assert evaluate.main(words[3:]) == 0
    of_given = capsys.readouterr().out
    # Without --data: what it was trained on; and the folder of the run will do.
    assert evaluate.main([str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == of_given.splitlines()[1:]
    assert "precision" in of_given


@pytest.mark.slow
def test_a_run_is_taught_and_knows_its_teacher(tmp_path, capsys):
    write_coco(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), replace(CONFIG, epochs=1)))
    spec = tiny_spec(num_classes=2)
    for name, classes in (("big", ("red", "cat")), ("other", ("cat", "dog"))):
        detector = TrainedDetector(spec, initial_weights(spec, 3), classes)
        save_detector(tmp_path / name, detector, {})
    command = [str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "data"), "--no-preflight"]
    command += ["--out", str(tmp_path / "run")]
    assert main([*command, "--teacher", str(tmp_path / "other")]) == 2
    assert "some of the classes blue, red, got one of cat, dog" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    taught = [*command, "--teacher", str(tmp_path / "big")]
    assert main(taught) == 0
    shown = capsys.readouterr().err
    assert "scores of 1 of 2 classes, not of blue; distributions of boxes; features of P3" in shown
    assert "teacher: its forward pass takes" in shown
    (row,) = Record(tmp_path / "run" / "metrics.jsonl").rows()
    assert row["taught_cls"] > 0
    fingerprint = read_source(tmp_path / "big").fingerprint
    assert read_metadata(tmp_path / "run" / "best")["facts"]["teacher"] == fingerprint
    assert main(taught) == 0
    assert main(command) == 2
    assert f"expected the teacher {fingerprint}, with which" in capsys.readouterr().err


def test_a_run_that_begins_anew_forgets_the_epochs_before_it(tmp_path):
    record = Record(tmp_path / "metrics.jsonl")
    record.clear()
    record.add({"epoch": 1})
    record.clear()
    assert record.rows() == []


@pytest.mark.slow
def test_a_detector_overfits_one_batch():
    pixels = tiny_pixels(8)
    still = Augmentation(
        mosaic=0, close_mosaic_epochs=0, hue=0, saturation=0, value=0, flip=0, translate=0, scale=0
    )
    config = TrainConfig(epochs=150, batch_size=8, learning_rate=0.01, augmentation=still)
    last = list(train(tiny_spec(), Resident(pixels), NAMES, config))[-1]
    for image, boxes, labels, valid in zip(*pixels[:4], strict=True):
        found = last.detector(np.asarray(image), min_score=0.5)
        assert len(found.boxes) == valid.sum()
        for box, label in zip(boxes[valid], labels[valid], strict=True):
            nearest = np.abs(found.boxes - box).max(1).argmin()
            assert np.abs(found.boxes[nearest] - box).max() < 4
            assert found.labels[nearest] == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "cannot read the config"),
        (["configs/yolov8n.yaml", "--image-size", "100"], "multiple of the network's stride 32"),
        (["configs/yolov8n.yaml", "--data", "nothing"], "nothing"),
        (["configs/yolov8n.yaml", "--evaluate-every", "0"], "at least 1"),
    ],
)
def test_bad_flags_are_said_in_one_line(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_wrong_name_in_the_config_is_said_before_the_run_begins(tmp_path, capsys):
    config = read_config(Path("configs/yolov8n.yaml"))
    backbone = replace(config.detector.backbone, stem="fokus")
    path = tmp_path / "wrong.yaml"
    write_config(path, replace(config, detector=replace(config.detector, backbone=backbone)))
    assert main([str(path), "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{path}: stem must be one of conv3, " in line
    assert "(did you mean 'focus'?)" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_of_another_run_is_refused(tmp_path, capsys):
    (tmp_path / "data.json").write_text(json.dumps({"data": "other", "fingerprint": "0"}))
    assert main(["configs/yolov8n.yaml", "--image-size", "160", "--out", str(tmp_path)]) == 2
    assert "holds a run on other data" in capsys.readouterr().err
