"""One set of names for a run's figures, wherever they are logged."""

import pytest

from flaxyolo.config import Distillation, TrainConfig
from flaxyolo.training.metrics import epoch_metrics, rate_after, total_loss
from tests.small import tiny_spec

CONFIG = TrainConfig(epochs=4, batch_size=4, learning_rate=0.01, warmup_epochs=0)
ROW = {"epoch": 4, "seconds": 3.0, "box": 2.0, "cls": 1.0, "dfl": 0.5}


def test_an_epoch_has_the_common_names_and_what_is_not_known_is_left_out():
    row = ROW | {"map": 0.25, "map_50": 0.5, "map_large": None, "evaluation_seconds": 1.0}
    metrics = epoch_metrics(4, row, 3.0, tiny_spec(), CONFIG, images=12)
    assert metrics == {
        "train/box_loss": 2.0,
        "train/class_loss": 1.0,
        "train/dfl_loss": 0.5,
        "train/loss": pytest.approx(7.5 * 2.0 + 0.5 * 1.0 + 1.5 * 0.5),
        "val/map": 0.25,
        "val/map_50": 0.5,
        "learning_rate": pytest.approx(rate_after(4, tiny_spec(), CONFIG, 12)),
        "images_per_second": 4.0,
    }


def test_an_epoch_that_was_not_timed_has_no_speed():
    assert "images_per_second" not in epoch_metrics(4, ROW, 0.0, tiny_spec(), CONFIG, 12)


def test_the_rate_is_that_of_the_epochs_last_step():
    # 3 steps an epoch; the last 40 % of 12 steps fall linearly to a hundredth.
    spec = tiny_spec()
    assert rate_after(2, spec, CONFIG, 12) == pytest.approx(0.01)
    falling = 1 - 0.99 * (11 - 7.2) / 4.8
    assert rate_after(4, spec, CONFIG, 10) == pytest.approx(0.01 * falling)


def test_the_loss_of_a_taught_run_has_its_teachers_terms():
    terms = {"box": 0.0, "cls": 0.0, "dfl": 0.0}
    taught = terms | {"taught_cls": 1.0, "taught_box": 2.0, "taught_features": 3.0}
    gains = Distillation(class_gain=1.0, box_gain=1.5, feature_gain=2.0)
    config = TrainConfig(distillation=gains)
    assert total_loss(terms, config) == 0
    assert total_loss(taught, config) == pytest.approx(1 + 3 + 6)
