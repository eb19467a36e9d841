import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.cost import Budget, Measurement
from flaxyolo.errors import InputError
from flaxyolo.search import limits
from flaxyolo.search.limits import measure_for, overrun
from flaxyolo.search.results import (
    INTERRUPTED,
    best_result,
    count_finished,
    importances,
    results,
)
from flaxyolo.search.space import REFERENCE, suggest_detector
from flaxyolo.search.storage import (
    claim,
    drop_torn_line,
    locked,
    open_study,
    read_study,
    take_up_interrupted,
)
from flaxyolo.search.study import (
    OutOfTimeError,
    Record,
    first_rung,
    prune_duplicate,
    run_study,
    rungs,
)
from flaxyolo.spec import to_dict
from flaxyolo.training import DivergedError

COST = Measurement(
    latency_ms_p50=5.0,
    latency_ms_p95=9.3,
    network_ms_p50=4.0,
    fps=200.0,
    vram_mib=64.0,
    train_vram_mib=None,
    params=1000,
    gflops=0.5,
    device="a device",
    dtype="float32",
    image_size=192,
    batch_size=1,
    train_batch_size=None,
    versions={"jax": "0"},
)


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "s", epochs=10)


def run(study, objective, trials):
    run_study(study, objective, trials=trials, worker="me", after=lambda trial: None)


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, (1,)), (2, (1, 2)), (10, (3, 6, 10)), (30, (9, 18, 30))]
)
def test_trials_are_scored_where_halving_decides_and_at_the_end(epochs, expected):
    assert rungs(epochs) == expected
    pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=first_rung(epochs), reduction_factor=2
    )
    study = optuna.create_study(direction="maximize", pruner=pruner)
    leader, follower = study.ask(), study.ask()
    for number in range(1, epochs):
        leader.report(1.0, number)
        assert not leader.should_prune()
    pruned_at = None
    for number in range(1, epochs):
        follower.report(0.5, number)
        if follower.should_prune():
            pruned_at = number
            break
    assert pruned_at == (expected[0] if len(expected) > 1 else None)


def test_an_overrun_is_told_in_the_unit_of_its_limit():
    assert overrun(Budget(8.0), COST) == "over budget by 1.30 ms"
    assert overrun(Budget(8.0, 60.0), COST) == "over budget by 1.30 ms and 4.0 MiB"
    assert overrun(Budget(20.0, 60.0), COST) == "over budget by 4.0 MiB"


def test_outcomes_are_stored_and_failures_do_not_stop_the_study(study):
    outcomes = [
        0.5,
        optuna.TrialPruned("over budget by 1 ms"),
        DivergedError("epoch 1"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore"),
    ]

    def objective(trial):
        outcome = outcomes[trial.number]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    run(study, objective, 4)
    found = results(study)
    assert [result.state for result in found] == ["complete", "pruned", "fail", "fail"]
    assert [result.reason for result in found] == [
        "",
        "over budget by 1 ms",
        "diverged: epoch 1",
        "out of memory: RESOURCE_EXHAUSTED: Out of memory",
    ]
    assert study.best_value == 0.5


def test_another_error_stops_the_study_and_the_trial_is_taken_up_again(study, tmp_path):
    def objective(trial):
        trial.suggest_int("x", 0, 1000)
        if trial.number == 1:
            trial.set_user_attr("cost", COST.to_dict())
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        run(study, objective, 3)
    drawn = study.trials[1].params
    assert count_finished(study) == 1

    again = open_study(tmp_path / "s", epochs=10)
    assert take_up_interrupted(again, "another") == 0
    assert take_up_interrupted(again, "me") == 1
    assert take_up_interrupted(again, "me") == 0
    assert again.trials[1].state == TrialState.FAIL
    assert again.trials[1].user_attrs["reason"] == INTERRUPTED
    run(again, objective, 3)
    assert count_finished(again) == 3
    assert [trial.number for trial in again.trials] == [0, 1, 2, 3]
    assert again.trials[2].params == drawn
    assert results(again)[2].cost == COST
    assert again.trials[3].params != drawn


def test_what_an_interrupted_trial_reported_counts_for_its_successor(study):
    def objective(trial):
        record = Record(trial)
        record.replay()
        value = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        return max(value.values())

    history = [{"epoch": 3, "objective": 0.25, "map": 0.2}, {"epoch": 6, "objective": 0.5}]
    study.enqueue_trial({}, user_attrs={"history": history})
    run(study, objective, 1)
    trial = study.trials[0]
    assert trial.intermediate_values == {3: 0.25, 6: 0.5}
    assert [trial.system_attrs[f"completed_rung_{rung}"] for rung in (0, 1)] == [0.25, 0.5]


def test_the_same_detector_is_not_trained_twice(study):
    trained = []

    def objective(trial):
        trial.set_user_attr("spec", {"width": trial.suggest_categorical("width", [8])})
        prune_duplicate(trial)
        trained.append(trial.number)
        trial.set_user_attr("cost", COST.to_dict())
        trial.set_constraint("latency_ms", -0.5)
        trial.report(0.75, 10)
        return 0.75

    run(study, objective, 3)
    assert trained == [0]
    twin = study.trials[2]
    assert twin.state == TrialState.PRUNED
    assert twin.user_attrs["reason"] == "the same detector as trial 0"
    assert twin.user_attrs["duplicate_of"] == 0
    assert twin.user_attrs["cost"] == COST.to_dict()
    assert twin.constraints == {"latency_ms": -0.5}
    assert twin.intermediate_values == {10: 0.75}


def test_a_sampler_that_goes_on_does_not_repeat_its_first_draws(tmp_path):
    drawn = []
    for _ in range(4):
        study = open_study(tmp_path / "s", epochs=10)
        run(
            study,
            lambda trial: float(trial.suggest_int("x", 0, 10**6)),
            count_finished(study) + 1,
        )
        drawn.append(study.trials[-1].params["x"])
    assert len(set(drawn)) == 4


def test_results_come_from_the_storage_alone(study, tmp_path):
    spec = suggest_detector(optuna.trial.FixedTrial(REFERENCE))

    def objective(trial):
        trial.set_user_attr("spec", to_dict(spec))
        trial.set_user_attr("cost", COST.to_dict())
        history = [{"epoch": 10, "objective": 0.5 + trial.number, "map": 0.2}]
        trial.set_user_attr("history", history)
        trial.set_constraint("latency_ms", -0.1)
        return 0.5 + trial.number

    run(study, objective, 2)
    found = results(read_study(tmp_path / "s"))
    best = best_result(found)
    assert best is not None
    assert (best.number, best.objective, best.epochs, best.cost) == (1, 1.5, 10, COST)
    assert best.spec == spec
    assert not best.over_budget
    assert best_result([replace(best, state="pruned")]) is None
    quicker = replace(COST, latency_ms_p95=COST.latency_ms_p95 / 2)
    equal_but_faster = replace(best, number=7, cost=quicker)
    assert best_result([best, equal_but_faster]) is equal_but_faster


def test_importances_need_a_few_complete_trials(study):
    def objective(trial):
        trial.suggest_float("idle", 0, 1)
        return trial.suggest_float("x", 0, 1)

    run(study, objective, 3)
    assert importances(study) == {}
    run(study, objective, 20)
    shares = importances(study)
    assert next(iter(shares)) == "x"
    assert sum(shares.values()) == pytest.approx(1)


def test_a_study_is_about_one_thing(study):
    claim(study, {"budget": 8, "sizes": (1, 2)}, "runs/s")
    claim(study, {"budget": 8, "sizes": (1, 2)}, "runs/s")
    with pytest.raises(InputError, match=r"^runs/s: .*budget was 8, now 9; name another with --s"):
        claim(study, {"budget": 9, "sizes": (1, 2)}, "runs/s")


def test_a_torn_line_is_dropped_and_the_study_goes_on(study, tmp_path):
    run(study, lambda trial: 1.0, 2)
    path = tmp_path / "s" / "study.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    drop_torn_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(whole + b'{"op_code": 4, "wor')
    again = open_study(tmp_path / "s", epochs=10)
    run(again, lambda trial: 1.0, 3)
    assert len(read_study(tmp_path / "s").trials) == 3


def test_a_folder_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path):
    code = (
        "import sys, os, signal\nfrom pathlib import Path\n"
        "from flaxyolo.search.storage import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(InputError, match=f"another sweep .*process {process.pid}"),
            locked(tmp_path),
        ):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass


def test_a_missing_study_and_a_bad_database_are_named(tmp_path):
    with pytest.raises(InputError, match="expected the study of a sweep, found no such file"):
        read_study(tmp_path / "nothing")
    with pytest.raises(InputError, match="--storage no-url: expected a database URL"):
        open_study(tmp_path / "s", storage="no-url")


def test_a_study_lives_in_a_database_as_well(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    study = open_study(tmp_path / "s", storage=url, epochs=10)
    run(study, lambda trial: 1.0, 1)
    assert json.dumps(read_study(tmp_path / "s", url).best_value) == "1.0"
    assert not (tmp_path / "s" / "study.log").exists()


def test_time_that_is_up_ends_the_study_and_leaves_its_trial_to_the_next_run(study):
    def objective(trial):
        trial.suggest_int("width", 1, 9)
        raise OutOfTimeError

    with pytest.raises(OutOfTimeError):
        run(study, objective, 3)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING"]
    assert take_up_interrupted(study, "me") == 1
    assert count_finished(study) == 0


def test_no_trial_begins_after_the_deadline(study):
    with pytest.raises(OutOfTimeError):
        run_study(study, pytest.fail, trials=3, worker="me", after=pytest.fail, deadline=0.0)
    assert not study.get_trials()


@pytest.mark.parametrize(
    ("trained", "measured", "expected", "calls"),
    [
        (False, [7.0], 7.0, 1),
        (False, [9.0, 7.5], 7.5, 2),
        (False, [9.0, 9.5], 9.0, 2),
        (False, [20.0], 20.0, 1),
        (True, [20.0, 12.0, 7.9], 7.9, 3),
        (True, [20.0, 12.0, 13.0, 11.0], 11.0, 4),
    ],
)
def test_a_latency_over_the_budget_is_measured_again_where_that_pays(
    monkeypatch, trained, measured, expected, calls
):
    left = list(measured)
    monkeypatch.setattr(
        limits, "measure", lambda *_, **__: replace(COST, latency_ms_p95=left.pop(0))
    )
    images = np.zeros((1, 32, 32, 3), np.uint8)
    spec = suggest_detector(optuna.trial.FixedTrial(REFERENCE))
    cost = measure_for(Budget(8.0, None), spec, images, None, trained=trained)
    assert cost.latency_ms_p95 == expected
    assert len(measured) - len(left) == calls
