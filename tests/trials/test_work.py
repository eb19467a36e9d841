"""What becomes of a claimed trial, and of what its training raises."""

import json
from dataclasses import replace

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.leases import at_work, claim
from flaxyolo.crew.record import ALONE, OutOfTimeError, PausedError, Record, Stage
from flaxyolo.crew.storage import open_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search.objective import Objective
from flaxyolo.search.propose import Proposer
from flaxyolo.search.results import results
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.spec import to_dict
from flaxyolo.training.loop import DivergedError, Epoch
from flaxyolo.training.loss import LossTerms
from flaxyolo.trials import work
from flaxyolo.trials.trial import prune_duplicate
from tests.search.made import COST
from tests.small import tiny_spec
from tests.tiny_data import write_coco


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "s")


@pytest.fixture
def sweep(tmp_path):
    write_coco(tmp_path / "data")
    source = f"coco:{tmp_path / 'data'}"
    return Sweep(
        suggest=suggest_detector,
        budget=Budget(10.0),
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "s",
        spending=Spending(trials=4, short_epochs=24, epochs=24, finalists=1, seeds=(0,)),
    )


def run(study, sweep, outcome, monkeypatch):
    """Run one more trial that ends with this value or exception; its result."""
    work.add(study, {}, {})
    number = study.get_trials()[-1].number

    def run_trial(trial, **_):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(work, "run_trial", run_trial)
    proposer = Proposer(sweep, Gate("test", sweep.folder))
    with at_work(sweep.folder) as worker:
        lease = claim(study, number, worker)
        assert lease is not None
        had_time = work.run_job(study, lease, sweep, 1, ALONE, proposer)
    return results(study)[number], had_time


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (0.5, "complete", ""),
        (optuna.TrialPruned("over budget by 1 ms"), "pruned", "over budget by 1 ms"),
        (DivergedError("epoch 1"), "fail", "diverged: epoch 1"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
            "fail",
            "out of memory: RESOURCE_EXHAUSTED: Out of memory",
        ),
        (PausedError(8), "waiting", ""),
    ],
)
def test_an_outcome_is_stored(study, sweep, monkeypatch, outcome, state, reason):
    result, had_time = run(study, sweep, outcome, monkeypatch)
    assert (result.state, result.reason, had_time) == (state, reason, True)
    assert result.paused == (8 if state == "waiting" else None)


def test_a_trial_without_time_waits_for_the_next_run(study, sweep, monkeypatch):
    result, had_time = run(study, sweep, OutOfTimeError(), monkeypatch)
    assert (result.state, result.paused, had_time) == ("waiting", None, False)


def test_another_error_is_one_chance_lost(study, sweep, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(study, sweep, ZeroDivisionError("by zero"), monkeypatch)
    assert study.get_trials()[0].state == TrialState.WAITING
    with pytest.raises(KeyboardInterrupt):
        run(study, sweep, KeyboardInterrupt(), monkeypatch)
    assert study.get_trials()[1].state == TrialState.WAITING
    assert "crashes" not in study.get_trials()[1].user_attrs


def test_a_candidate_that_is_behind_is_ended_with_its_constraints(study, sweep):
    history = [{"epoch": 3, "objective": 0.25}]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            user_attrs={"cost": COST.to_dict(), "history": history, "paused": 3},
        )
    )

    with at_work(sweep.folder) as worker:
        work.close(study, 0, worker, sweep)
    (trial,) = study.get_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"] == "behind after 3 of 24 epochs"
    assert trial.constraints == pytest.approx({"latency_ms": -0.07})


def test_two_workers_do_not_add_more_candidates_than_were_asked_for(study, sweep):
    spending = replace(sweep.spending, trials=1)
    for _ in range(2):
        work.add_wanted(study, spending, {"x": 1}, {})
    assert len(study.trials) == 1


def test_the_same_detector_is_not_trained_twice(study):
    def ended(trial):
        trial.set_user_attr("spec", {"width": trial.suggest_categorical("width", [8])})
        prune_duplicate(trial)
        trial.set_user_attr("cost", COST.to_dict())
        trial.set_constraint("latency_ms", -0.5)
        trial.report(0.75, 10)

    first, second = study.ask(), study.ask()
    ended(first)
    # The earlier goes on where both are at work.
    with pytest.raises(optuna.TrialPruned, match=r"^the same detector as trial 0$"):
        ended(second)
    study.tell(second, state=TrialState.PRUNED)
    study.tell(first, 0.75)
    third = study.ask()
    with pytest.raises(optuna.TrialPruned):
        ended(third)
    study.tell(third, state=TrialState.PRUNED)
    twin = study.get_trials()[2]
    assert twin.user_attrs["duplicate_of"] == 0
    assert twin.user_attrs["cost"] == COST.to_dict()
    assert twin.constraints == {"latency_ms": -0.5}
    assert twin.intermediate_values == {10: 0.75}


def test_of_two_equal_runs_of_a_finalist_the_earlier_goes_on(study):
    runs = [study.ask() for _ in range(3)]
    for trial, seed in zip(runs, (0, 0, 1), strict=True):
        for key, value in {"spec": {"width": 8}, "stage": "final", "seed": seed}.items():
            trial.set_user_attr(key, value)
    prune_duplicate(runs[0])
    with pytest.raises(optuna.TrialPruned, match="the same detector as trial 0"):
        prune_duplicate(runs[1])
    prune_duplicate(runs[2])


def test_a_score_is_kept_and_reported_once(study):
    scores = Scores(**dict.fromkeys(KEYS, 0.25), per_class=())
    trial, objective = study.ask(), Objective("map + map_50")
    spec = tiny_spec()
    epoch = Epoch(3, fresh(spec), LossTerms(*np.ones(3)), 1.5)
    Record(trial, objective).keep_scores(epoch, scores)
    again = Record(optuna.Trial(study, trial._trial_id), objective)
    assert again.epochs() == {3}
    again.keep_scores(epoch, scores)
    (stored,) = study.get_trials()
    assert stored.intermediate_values == {3: 0.5}
    (row,) = stored.user_attrs["history"]
    assert (row["objective"], row["epoch_seconds"]) == (0.5, 1.5)


def fresh(spec):
    return TrainedDetector(spec, initial_weights(spec, 0), ("a",) * spec.num_classes)


def test_a_finalist_whose_schedule_is_the_short_one_is_not_trained_again(study, sweep):
    spec = tiny_spec()
    trial = study.ask()
    trial.suggest_int("x", 1, 3)
    history = [{"epoch": 24, "objective": 0.5}]
    for key, value in {
        "spec": to_dict(spec), "cost": COST.to_dict(), "features": {"x": 1.0},
        "history": history, "scores": {"map": 0.5}, "run": "r",
    }.items():  # fmt: skip
        trial.set_user_attr(key, value)
    study.tell(trial, 0.5)
    work.add_final(study, results(study)[0], 0, sweep)
    work.add_final(study, results(study)[0], 1, sweep)
    _, first, second = results(study)
    assert (first.state, first.objective, first.run) == ("complete", 0.5, "r")
    assert (first.stage, first.finalist, first.seed) == ("final", 0, 0)
    assert (second.state, second.seed, second.cost) == ("waiting", 1, COST)
    assert second.params == results(study)[0].params


def test_a_note_of_the_progress_is_whole_whenever_it_is_read(tmp_path):
    path = tmp_path / "status-0.json"
    report = work.Reporter(path, 3)
    report(Stage("training", 0.5, 24))
    assert json.loads(path.read_text()) == {
        "trial": 3, "name": "training", "done": 0.5, "total": 24, "note": "",
    }  # fmt: skip
