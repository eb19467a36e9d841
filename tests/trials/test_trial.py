"""A trial whose latency only a calmer machine can judge."""

from dataclasses import replace

import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.optuna_inside import begin, begun, set_state
from flaxyolo.crew.record import Entry, read
from flaxyolo.crew.storage import open_study
from flaxyolo.crew.surroundings import PausedError
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.setting import Sweep
from flaxyolo.search.spending import Spending
from flaxyolo.trials import trial as trials
from flaxyolo.trials.trial import LOOKS, keep_look, prune_over, run_trial
from tests.search.made import COST
from tests.small import tiny_spec
from tests.tiny_data import write_coco

BUDGET = Budget(8.0)
BUSY = replace(COST, load=0.9, slowdown=1.4, floor_ms=4.0)
"""9.3 ms of a busy machine, at least 4."""
CALM = replace(COST, latency_ms_p95=7.0, load=0.0, slowdown=1.0, floor_ms=6.0)
SLOW = replace(CALM, latency_ms_p95=9.0, floor_ms=7.5)


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "s")


@pytest.fixture
def sweep(tmp_path):
    write_coco(tmp_path / "data")
    source = f"coco:{tmp_path / 'data'}"
    return Sweep(
        suggest=lambda trial: tiny_spec(),
        budget=BUDGET,
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "s",
        spending=Spending(trials=1, short_epochs=1, epochs=1, finalists=1, seeds=(0,)),
    )


def looked(entry, cost):
    """What becomes of a trial that was measured like this."""
    keep_look(entry, BUDGET, cost)
    prune_over(entry, BUDGET, cost)


def test_an_undecided_candidate_goes_on_and_the_last_word_counts(study):
    entry = Entry(study.ask())
    looked(entry, BUSY)
    assert entry.record.undecided
    assert study.trials[0].constraints == {"latency_ms": pytest.approx(-0.5)}
    with pytest.raises(optuna.TrialPruned, match=r"^over budget by 1.00 ms$"):
        looked(entry, SLOW)
    assert not entry.record.undecided
    assert study.trials[0].constraints == {"latency_ms": pytest.approx(0.125)}


def test_a_calm_measurement_inside_the_budget_ends_the_question(study):
    entry = Entry(study.ask())
    looked(entry, BUSY)
    looked(entry, CALM)
    assert not entry.record.undecided


def test_after_a_few_looks_the_last_decides_and_says_that_the_machine_was_busy(study):
    entry = Entry(study.ask())
    for _ in range(LOOKS - 1):
        looked(entry, BUSY)
        assert entry.record.undecided
    with pytest.raises(optuna.TrialPruned, match=r"1.30 ms on a busy machine \(others use 90 %"):
        looked(entry, BUSY)
    assert study.trials[0].constraints == {"latency_ms": pytest.approx(0.1625)}


def test_over_by_the_floor_or_by_another_limit_is_over_at_once(study):
    for cost in (replace(BUSY, floor_ms=8.5), replace(BUSY, load=0.1)):
        with pytest.raises(optuna.TrialPruned):
            looked(Entry(study.ask()), cost)
    entry = Entry(study.ask())
    looked(entry, BUSY)
    with pytest.raises(optuna.TrialPruned, match=r"and 4\.0 MiB"):
        prune_over(entry, Budget(8.0, vram_mib=60.0), BUSY)


@pytest.mark.slow
@pytest.mark.parametrize(("last", "state"), [(CALM, "complete"), (SLOW, "pruned")])
def test_a_trained_candidate_waits_for_a_calm_machine_to_judge_it(
    study, sweep, monkeypatch, last, state
):
    left, trained = [BUSY, BUSY, last], []

    def measured(ready, budget, entry, around, weights=None, before=None, engine=None):
        trained.append(weights is not None)
        return left.pop(0)

    monkeypatch.setattr(trials, "measured", measured)
    monkeypatch.setattr(trials, "with_training_memory", lambda cost, *_: cost)
    trial = study.ask()
    with pytest.raises(PausedError) as paused:
        run_trial(trial, sweep=sweep, until=1)
    assert paused.value.epoch == 1
    assert trained == [False, True]
    assert read(study.trials[0]).undecided
    set_state(study, study.trials[0], TrialState.WAITING)
    assert begin(study, study.trials[0])
    again = begun(study, study.trials[0])
    if state == "complete":
        run_trial(again, sweep=sweep, until=1)
    else:
        with pytest.raises(optuna.TrialPruned, match=r"over budget by 1\.00 ms once trained"):
            run_trial(again, sweep=sweep, until=1)
    # It was not measured with fresh weights once more, nor trained.
    assert trained == [False, True, True]
    record = read(study.trials[0])
    assert (record.undecided, record.cost) == (False, last)
    assert len(record.history) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("p95", "stage", "limit", "looks"),
    [
        (7.0, "cheap", 8.0, [False]),
        (7.9, "cheap", 8.0, [False, True]),
        (7.0, "final", 8.0, [False, True]),
        (7.0, "cheap", None, [False]),
    ],
    ids=["room", "little room", "full run", "no limit of the latency"],
)
def test_a_candidate_with_room_is_not_measured_again_once_trained(
    study, sweep, monkeypatch, p95, stage, limit, looks
):
    cost, taken = replace(CALM, latency_ms_p95=p95), []

    def measured(ready, budget, entry, around, weights=None, before=None, engine=None):
        taken.append(weights is not None)
        return cost

    monkeypatch.setattr(trials, "measured", measured)
    monkeypatch.setattr(trials, "with_training_memory", lambda cost, *_: cost)
    trial = study.ask()
    Entry(trial).keep(stage=stage)
    budget = Budget(limit, gflops=1.0)
    run_trial(trial, sweep=replace(sweep, budget=budget), until=1)
    assert taken == looks
    assert read(study.trials[0]).cost == cost
    assert study.trials[0].constraints == pytest.approx(budget.excess(cost))


@pytest.mark.slow
def test_a_candidate_that_waits_at_its_rung_is_measured_and_waits_on(study, sweep, monkeypatch):
    short = replace(sweep, spending=replace(sweep.spending, short_epochs=2, epochs=6))
    left = [BUSY, CALM]
    monkeypatch.setattr(trials, "measured", lambda *_, **__: left.pop(0))
    monkeypatch.setattr(trials, "with_training_memory", lambda cost, *_: cost)
    trial = study.ask()
    for undecided in (True, False):
        with pytest.raises(PausedError) as paused:
            run_trial(trial, sweep=short, until=1)
        assert paused.value.epoch == 1
        record = read(study.trials[0])
        assert (record.undecided, record.epochs) == (undecided, 1)
        trial = begun(study, study.trials[0])
    assert left == []


def test_a_candidate_that_was_left_open_is_measured_when_it_is_taken_up(study, sweep, monkeypatch):
    left = [BUSY, SLOW]
    monkeypatch.setattr(trials, "measured", lambda *_, **__: left.pop(0))
    monkeypatch.setattr(trials, "with_training_memory", lambda cost, *_: cost)

    def stopped(*_):
        raise PausedError(0)

    monkeypatch.setattr(trials, "trained_until", stopped)
    trial = study.ask()
    with pytest.raises(PausedError):
        run_trial(trial, sweep=sweep, until=1)
    with pytest.raises(optuna.TrialPruned, match=r"^over budget by 1.00 ms$"):
        run_trial(begun(study, study.trials[0]), sweep=sweep, until=1)
    assert left == []
