"""What becomes of a claimed trial, and of what its training raises."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import EngineError
from flaxyolo.cost.measurement import Reference
from flaxyolo.cost.table.file import best_reference, conditions
from flaxyolo.crew import programs as crew_programs
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.phases import curve_point
from flaxyolo.crew.record import Entry, Record
from flaxyolo.crew.storage import open_study
from flaxyolo.crew.surroundings import OutOfTimeError, PausedError, Stage
from flaxyolo.crew.worker import Reporter, at_desk
from flaxyolo.data.sources import read_dataset
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search.controls import SCALED
from flaxyolo.search.family import scaled
from flaxyolo.search.propose import Proposer
from flaxyolo.search.results import results
from flaxyolo.search.setting import Sweep, Task
from flaxyolo.search.space import Ranges, reference_params, suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.training.loop import DivergedError, Epoch
from flaxyolo.training.loss import LossTerms
from flaxyolo.trials import work
from flaxyolo.trials.trial import drawn, prune_duplicate
from flaxyolo.weights.transfer import Source
from tests.search.made import COST
from tests.small import tiny_spec
from tests.tiny_data import write_coco

SCORES = Scores(**dict.fromkeys(KEYS, 0.25), per_class=())


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
    work.add(study, Record(0, "waiting"))
    number = study.get_trials()[-1].number

    def run_trial(trial, **_):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(work, "run_trial", run_trial)
    proposer = Proposer(sweep, Gate("test", sweep.folder))
    with at_desk(sweep.folder, 0) as desk:
        had_time = work.go_on(desk, number, 1, inf, sweep, proposer, crew_programs.Programs())
    return results(study)[number], had_time


@pytest.mark.parametrize(
    ("outcome", "state", "reason"),
    [
        (0.5, "complete", ""),
        (optuna.TrialPruned("over budget by 1 ms"), "pruned", "over budget by 1 ms"),
        (DivergedError("epoch 1"), "fail", "diverged: epoch 1"),
        (EngineError("no phone"), "fail", "not measured: no phone"),
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


def test_going_on_with_a_network_keeps_its_programs(study, sweep, monkeypatch):
    forgotten = []
    monkeypatch.setattr(crew_programs, "forget_programs", lambda: forgotten.append(1))
    for number in range(crew_programs.KEPT + 1):
        work.add(study, Record(0, "waiting", spec=replace(tiny_spec(), num_classes=number + 1)))

    def run_trial(*_, **__):
        raise PausedError(1)

    monkeypatch.setattr(work, "run_trial", run_trial)
    proposer, programs = Proposer(sweep, Gate("test", sweep.folder)), crew_programs.Programs()
    counts = []
    with at_desk(sweep.folder, 0) as desk:
        for number in (0, 1, 2, 0, 2, 3, 3, 0):
            assert work.go_on(desk, number, 1, inf, sweep, proposer, programs)
            counts.append(len(forgotten))
    assert counts == [0, 0, 0, 0, 0, 1, 1, 1]


def test_an_engine_that_fails_again_and_again_ends_the_sweep(study, sweep, monkeypatch):
    lost = EngineError("no phone")
    for outcome in (lost, lost, 0.5, lost, lost):
        run(study, sweep, outcome, monkeypatch)
    with pytest.raises(InputError, match=r"^no phone \(3 trials in a row ended so\)$"):
        run(study, sweep, lost, monkeypatch)
    assert study.get_trials()[-1].state == TrialState.FAIL


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

    with at_desk(sweep.folder, 0) as desk:
        work.close(desk, results(study)[0], sweep)
    (trial,) = study.get_trials()
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["reason"] == "behind after 3 of 24 epochs"
    assert trial.constraints == pytest.approx({"latency_ms": -0.07})


def test_two_workers_do_not_add_more_candidates_than_were_asked_for(study, sweep):
    spending = replace(sweep.spending, trials=1)
    for _ in range(2):
        work.add_wanted(study, spending, Record(0, "waiting", params={"x": 1}))
    assert len(study.trials) == 1


def test_the_same_detector_is_not_trained_twice(study):
    def ended(trial):
        entry = Entry(trial)
        entry.keep(spec=tiny_spec())
        prune_duplicate(entry)
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
        Entry(trial).keep(spec=tiny_spec(), stage="final", seed=seed)
    prune_duplicate(Entry(runs[0]))
    with pytest.raises(optuna.TrialPruned, match="the same detector as trial 0"):
        prune_duplicate(Entry(runs[1]))
    prune_duplicate(Entry(runs[2]))


def test_a_score_is_kept_and_reported_once(study):
    trial, spec = study.ask(), tiny_spec()
    epoch = Epoch(3, fresh(spec), LossTerms(*np.ones(3)), 1.5)
    point = curve_point(epoch, SCORES, 0.5)
    Entry(trial).keep_score(point, SCORES)
    again = Entry(optuna.Trial(study, trial._trial_id))
    assert again.record.history == (point,)
    assert again.record.scores == SCORES
    again.keep_score(point, SCORES)
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
    entry = Entry(trial)
    entry.keep(spec=spec, cost=COST, features={"x": 1.0}, run="r")
    entry.keep_score(CurvePoint(24, 0.5), SCORES)
    study.tell(trial, 0.5)
    work.add_final(study, results(study)[0], 0, sweep)
    work.add_final(study, results(study)[0], 1, sweep)
    _, first, second = results(study)
    assert (first.state, first.objective, first.run) == ("complete", 0.5, "r")
    assert (first.stage, first.finalist, first.seed) == ("final", 0, 0)
    assert (second.state, second.seed, second.cost) == ("waiting", 1, COST)
    assert second.params == results(study)[0].params


def test_a_finalist_with_a_teacher_is_trained_again_whatever_its_schedule(study, sweep):
    trial = study.ask()
    entry = Entry(trial)
    entry.keep(spec=tiny_spec(), cost=COST, features={"x": 1.0}, run="r")
    entry.keep_score(CurvePoint(24, 0.5), SCORES)
    study.tell(trial, 0.5)
    teacher = Source(
        Path("big"), initial_weights(tiny_spec(), 1), tiny_spec(), ("blue", "red", "x")
    )
    work.add_final(study, results(study)[0], 0, replace(sweep, teacher=teacher))
    assert [(run.stage, run.state) for run in results(study)[1:]] == [("final", "waiting")]


def test_a_control_is_the_network_that_its_record_holds(study, sweep):
    params = reference_params(suggest_detector)
    spec = scaled(8, 1 / 3, 64, 2)
    work.add(study, Record(0, "waiting", params=params, origin=SCALED, spec=spec))
    trial = study.ask()
    assert drawn(Entry(trial), sweep) == spec
    assert Entry(trial).record.spec == spec
    assert trial.params == params, "what the plots of Optuna need"
    study.tell(trial, state=TrialState.PRUNED)
    work.add_final(study, results(study)[0], 0, sweep)
    final = study.ask()
    assert drawn(Entry(final), sweep) == spec
    assert results(study)[1].finalist == 0


def test_what_the_space_draws_is_what_it_is_asked_for(study, sweep):
    params = reference_params(suggest_detector)
    work.add(study, Record(0, "waiting", params=params))
    spec = drawn(Entry(study.ask()), sweep)
    assert spec == replace(suggest_detector(FixedTrial(params)), num_classes=2)
    assert results(study)[0].spec == spec


def test_a_control_that_stops_at_a_rung_is_not_behind(study, sweep):
    history = [{"epoch": 3, "objective": 0.25}]
    facts = {"cost": COST.to_dict(), "history": history, "paused": 3, "origin": SCALED}
    study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=facts))
    compared = replace(sweep, spending=replace(sweep.spending, controls=True))
    with at_desk(sweep.folder, 0) as desk:
        work.close(desk, results(study)[0], compared)
    assert results(study)[0].reason == "a control, 3 of 24 epochs as a candidate"


def test_one_scaled_yolov8_is_added_and_where_none_fits_that_is_kept(study, sweep, monkeypatch):
    compared = replace(sweep, spending=replace(sweep.spending, controls=True))
    proposer = Proposer(compared, Gate("test", sweep.folder))
    controls = [Record(0, "waiting", origin=SCALED, spec=scaled(8, 1 / 3, 64, 2))] * 2 + [None]
    monkeypatch.setattr(Proposer, "scaled", lambda self, found: controls.pop(0))
    with at_desk(sweep.folder, 0) as desk:
        for _ in range(2):
            work.add_scaled(desk, [], compared, proposer)
        assert [record.origin for record in results(study)] == [SCALED]
        assert work.NONE_SCALED not in desk.study.user_attrs
        work.add_scaled(desk, [], compared, proposer)
        assert desk.study.user_attrs[work.NONE_SCALED]


@pytest.mark.parametrize(
    ("outcome", "state"), [(0.5, "complete"), (optuna.TrialPruned("over"), "pruned")]
)
def test_what_a_busy_machine_left_open_is_measured_before_the_end(
    study, sweep, monkeypatch, outcome, state
):
    """The only candidate has trained its whole schedule, and waits to be measured again."""
    few = replace(sweep, spending=replace(sweep.spending, trials=1))
    record = Record(
        0, "waiting", cost=COST, looks=1, paused=24, features={"x": 1.0},
        history=(CurvePoint(24, 0.5),),
    )  # fmt: skip
    work.add(study, record)
    taken = []

    def run_trial(trial, *, until, **_):
        taken.append((trial.number, until))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(work, "run_trial", run_trial)
    proposer = Proposer(few, Gate("test", few.folder))
    with at_desk(few.folder, 0) as desk:
        assert work.work(
            desk, Task.of(few, None, Ranges(()), 1, inf), few, proposer, crew_programs.Programs()
        )
    assert taken == [(0, 24)]
    assert results(study)[0].state == state


def test_what_a_calm_device_would_not_have_thrown_out_is_added_once_more(study, sweep, monkeypatch):
    here = conditions()
    then, now = Reference(1.2, 1.3, 1.6), Reference(1.0, 1.04, 1.2)
    cost = replace(
        COST,
        latency_ms_p95=11.0,
        device=here["device"],
        dtype=here["dtype"],
        versions=here["versions"],
        reference_ms=1.5,
        reference_calls=1,
        reference_best=then,
        floor_ms=6.0,
    )
    trial = study.ask()
    entry = Entry(trial)
    entry.keep(spec=tiny_spec(), cost=cost)
    entry.constrain({"latency_ms": 0.1})
    study.tell(trial, state=TrialState.PRUNED)
    monkeypatch.setenv("FLAXYOLO_CACHE", str(sweep.folder))
    proposer = Proposer(sweep, Gate("test", sweep.folder))
    assert not work.judge_anew(study, results(study), sweep, proposer)
    best_reference(now)
    proposer = Proposer(sweep, Gate("test", sweep.folder))
    assert work.judge_anew(study, results(study), sweep, proposer)
    assert not work.judge_anew(study, results(study), sweep, proposer)
    dead, again = results(study)
    assert (again.again, again.state, again.trial) == (0, "waiting", 0)
    assert (dead.duplicate_of, dead.trial) == (1, 0)
    # It is no duplicate of the one that it stands for.
    entry = Entry(study.ask())
    entry.keep(spec=tiny_spec())
    prune_duplicate(entry)


def test_a_note_of_the_progress_is_whole_whenever_it_is_read(tmp_path):
    with at_desk(tmp_path, 0) as desk:
        Reporter(desk, 3)(Stage("training", 0.5, 24))
    assert json.loads(desk.status.read_text()) == {
        "trial": 3, "name": "training", "done": 0.5, "total": 24, "note": "",
    }  # fmt: skip


def test_of_workers_that_come_to_the_same_candidate_one_adds_it(study, sweep):
    proposal = Record(0, "waiting", {"x": 1}, screened=60)
    for _ in range(2):
        work.add_wanted(study, sweep.spending, proposal)
    work.add_wanted(study, sweep.spending, replace(proposal, params={"x": 2}))
    assert [dict(each.params) for each in results(study)] == [{"x": 1}, {"x": 2}]
