import logging
import shutil
from dataclasses import replace

import optuna
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.storage import open_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.nn.detector import initial_weights
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.statistics.rules import Advice
from flaxyolo.training.plan import learning_rate, plan_run
from flaxyolo.trials import parent
from flaxyolo.trials.flags import (
    EPOCHS,
    FIRST_EPOCHS,
    FIRST_PARENT_EPOCHS,
    Flags,
    parent_epochs_of,
    schedules,
)
from flaxyolo.trials.parent import (
    baseline_spec,
    bounded_epochs,
    parent_spec,
    trained_parent,
    with_its_rate,
)
from flaxyolo.trials.prepare import with_bounded_parent
from flaxyolo.trials.run import where_lines
from flaxyolo.weights.transfer import Source
from tests.small import tiny_feed, tiny_spec
from tests.tiny_data import write_coco


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    source = f"coco:{write_coco(tmp_path / 'data')}"
    return Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0),
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "study",
        spending=Spending(trials=2, short_epochs=2, epochs=2, finalists=1, seeds=(0,)),
        parent_epochs=2,
    )


def test_the_baseline_is_the_reference_as_the_data_advise_it(setting):
    advised = replace(
        setting,
        advice=(
            Advice("image_size", 192, "why", 0.0, "source"),
            Advice("plan", "P2-P5", "why", 0.0, "source"),
            Advice("neck.kind", "pan", "why", 0.0, "source"),
        ),
    )
    plain, told = (baseline_spec(each, suggest_detector) for each in (setting, advised))
    assert (plain.image_size, plain.neck.levels, plain.neck.kind) == (128, (3, 4, 5), "fpn")
    assert (told.image_size, told.neck.levels, told.neck.kind) == (192, (2, 3, 4, 5), "pan")
    assert told.num_classes == 2
    assert told.backbone.stages[0].width == plain.backbone.stages[0].width == 16


def no_filling(params):
    raise AssertionError("a study keeps the parent that it has")


def test_the_parent_is_grown_into_the_budget_and_stays_what_it_is(setting):
    baseline = baseline_spec(setting, suggest_detector)
    study = open_study(setting.folder)
    first = parent_spec(
        study, setting, baseline, lambda params: ({**params, "width": 32}, None, ())
    )
    assert (first.backbone.stages[0].width, first.num_classes) == (32, 2)
    for again in (study, open_study(setting.folder)):
        assert parent_spec(again, setting, baseline, no_filling) == first


def test_a_parent_takes_a_third_of_the_time_at_most(setting, caplog):
    study = optuna.create_study()
    assert bounded_epochs(study, 14, 30.0, 720.0) == 8
    assert "parent: 8 epochs instead of 14, as one takes 30 s here" in caplog.text
    assert bounded_epochs(study, 14, 1.0, 720.0) == 8, "a study keeps its number"
    for wanted, epoch, seconds, epochs in [
        (14, 15.0, 720.0, 14),
        (14, None, 720.0, 14),
        (14, 30.0, float("inf"), 14),
        (14, 500.0, 720.0, 3),
        (2, 500.0, 720.0, 2),
    ]:
        assert bounded_epochs(optuna.create_study(), wanted, epoch, seconds) == epochs
    bounded = with_bounded_parent(
        optuna.create_study(), replace(setting, parent_epochs=14), 30.0, 720.0
    )
    assert bounded.parent_epochs == 8
    assert bounded.final_epochs == replace(setting, parent_epochs=14).final_epochs


def test_an_earlier_study_keeps_the_baseline_as_its_parent(setting):
    baseline = baseline_spec(setting, suggest_detector)
    study = open_study(setting.folder)
    (setting.folder / "parent" / "state").mkdir(parents=True)
    assert parent_spec(study, setting, baseline, no_filling) == baseline, (
        "it was interrupted in the parent"
    )
    study.ask()
    shutil.rmtree(setting.folder / "parent")
    assert parent_spec(study, setting, baseline, no_filling) == baseline


@pytest.mark.slow
def test_a_parent_is_trained_once_and_goes_on_where_it_was_interrupted(
    setting, monkeypatch, caplog
):
    spec = tiny_spec(num_classes=2)
    real = parent.train

    def interrupted(*given, **named):
        for epoch in real(*given, **named):
            yield epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(parent, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained_parent(setting, spec)
    seen = []

    def watched(*given, **named):
        for epoch in real(*given, **named):
            seen.append(epoch.number)
            yield epoch

    monkeypatch.setattr(parent, "train", watched)
    with caplog.at_level(logging.INFO, "flaxyolo"):
        source = trained_parent(setting, spec)
    assert seen == [1, 2], "the epoch that was saved, and the one that was left"
    assert "every network begins with its weights" in caplog.text
    assert (source.spec, source.class_names) == (spec, ("blue", "red"))
    assert not (setting.folder / "parent" / "state").exists()
    again = trained_parent(setting, spec)
    assert (again.fingerprint, seen) == (source.fingerprint, [1, 2])


def test_the_rate_of_a_parent_does_not_fall_and_that_of_its_children_does(setting):
    spending = replace(setting.spending, epochs=20)
    sweep = replace(setting, parent_epochs=20, spending=spending)

    def at_the_end(config):
        plan = plan_run(tiny_spec(), config, tiny_feed().pixels)
        return float(learning_rate(plan)(plan.total_steps - 1)) / config.learning_rate

    assert at_the_end(sweep.parent_training) == pytest.approx(1)
    assert at_the_end(sweep.full(0)) < 0.5


def test_a_parent_goes_on_with_the_schedule_that_it_began_with(setting, caplog):
    new = with_its_rate(open_study(setting.folder), setting)
    (setting.folder / "parent" / "state").mkdir(parents=True)
    again = with_its_rate(open_study(setting.folder), setting)
    assert [each.parent_training.decay_share for each in (new, again)] == [0, 0]
    assert "its rate falls" not in caplog.text
    earlier = replace(setting, folder=setting.folder.parent / "earlier")
    (earlier.folder / "parent" / "state").mkdir(parents=True)
    study = open_study(earlier.folder)
    for _ in range(2):
        with caplog.at_level(logging.INFO, "flaxyolo"):
            going_on = with_its_rate(study, earlier)
        assert going_on.parent_training.decay_share == earlier.short.decay_share > 0
        assert "its rate falls over the last" in caplog.text
        caplog.clear()


def test_a_study_keeps_the_parent_that_it_has_or_has_not():
    assert parent_epochs_of(Flags(8.0), 6, {}) == FIRST_PARENT_EPOCHS
    new = Flags(8.0, data="coco:x")
    assert parent_epochs_of(new, 6, {}) == EPOCHS
    assert parent_epochs_of(new, 100, {}) == 100
    assert parent_epochs_of(replace(new, parent_epochs=3), 100, {}) == 3
    for without in ({"from_scratch": True}, {"storage": "sqlite:///x"}):
        assert parent_epochs_of(replace(new, **without), 6, {}) == 0
    of_old, of_now = {"data": "digits"}, {"data": "digits", "parent_epochs": 24}
    assert parent_epochs_of(new, 6, of_old) == 0
    assert parent_epochs_of(replace(new, parent_epochs=3), 6, of_now) == 24
    with pytest.raises(InputError, match="--from-scratch: this study has a parent"):
        parent_epochs_of(replace(new, from_scratch=True), 6, of_now)


def test_the_first_command_has_a_short_schedule_only_with_a_parent():
    assert schedules(Flags(8.0), {}) == (
        FIRST_EPOCHS,
        FIRST_EPOCHS,
    )
    assert schedules(Flags(8.0, from_scratch=True), {})[1] == EPOCHS
    assert schedules(Flags(8.0, data="coco:x"), {})[1] == EPOCHS


def test_the_winner_is_trained_on_from_what_it_has_where_there_was_a_parent(setting):
    fresh, begun = (
        setting,
        replace(setting, initial=Source(setting.folder, initial_weights(tiny_spec(), 0))),
    )
    told = [where_lines(each)[-1] for each in (fresh, begun)]
    assert all(f"--out {setting.folder}-trained" in line for line in told)
    assert [f"--init {setting.folder / 'best'}" in line for line in told] == [False, True]
