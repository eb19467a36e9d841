"""The training loop: it learns, repeats, resumes bit for bit, and stops at a loss gone wrong."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxyolo.checks.steps import compilations
from flaxyolo.config import Augmentation, TrainConfig, read_config, write_config
from flaxyolo.data.batches import to_device
from flaxyolo.train import Record, main
from flaxyolo.training.loop import DivergedError, compile_step, start, train
from flaxyolo.training.plan import plan_run
from tests.small import tiny_pixels, tiny_spec

NAMES = ("red", "green", "blue")
CONFIG = TrainConfig(
    epochs=3,
    batch_size=4,
    warmup_epochs=0,
    augmentation=Augmentation(close_mosaic_epochs=1),
)


def leaves(detector):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(detector.weights)]


def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(tmp_path):
    pixels = tiny_pixels()
    whole = list(train(tiny_spec(), pixels, NAMES, CONFIG))
    interrupted = train(tiny_spec(), pixels, NAMES, CONFIG, run_dir=tmp_path)
    assert next(interrupted).number == 1
    interrupted.close()
    resumed = list(train(tiny_spec(), pixels, NAMES, CONFIG, run_dir=tmp_path))
    assert [epoch.number for epoch in resumed] == [2, 3]
    for mine, theirs in zip(leaves(resumed[-1].detector), leaves(whole[-1].detector), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_another_seed_gives_another_run():
    one = next(train(tiny_spec(), tiny_pixels(), NAMES, CONFIG))
    other = next(train(tiny_spec(), tiny_pixels(), NAMES, replace(CONFIG, seed=1)))
    assert one.loss != other.loss


def test_seeds_share_one_program():
    config = replace(CONFIG, epochs=3)
    next(train(tiny_spec(), tiny_pixels(), NAMES, config))
    with compilations() as compiled:
        next(train(tiny_spec(), tiny_pixels(), NAMES, replace(config, seed=5)))
    assert "train_step" not in " ".join(compiled)


def test_a_loss_that_is_not_finite_stops_the_run():
    wild = replace(CONFIG, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(DivergedError, match="not finite"):
        list(train(tiny_spec(), tiny_pixels(), NAMES, wild))


def test_every_parameter_gets_a_gradient():
    pixels = tiny_pixels()
    plan = plan_run(tiny_spec(), CONFIG, pixels)
    state = start(plan)
    before = jax.tree.map(np.asarray, state.weights.params)
    device = to_device(pixels)
    step = compile_step(plan, state, device)
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


@pytest.mark.slow
def test_a_detector_overfits_one_batch():
    pixels = tiny_pixels(8)
    still = Augmentation(
        mosaic=0, close_mosaic_epochs=0, hue=0, saturation=0, value=0, flip=0, translate=0, scale=0
    )
    config = TrainConfig(epochs=150, batch_size=8, learning_rate=0.01, augmentation=still)
    last = list(train(tiny_spec(), pixels, NAMES, config))[-1]
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
