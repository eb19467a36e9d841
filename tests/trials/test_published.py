"""The study that a person opens has one trial for each network, and reads well in Optuna."""

import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import FINAL, Entry
from flaxyolo.crew.storage import move_runs, open_runs, open_study, read_runs, read_study, runs_name
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search.controls import SCALED
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import results
from flaxyolo.trials.published import publish
from flaxyolo.trials.standings import Standings
from tests.search.made import COST
from tests.small import tiny_spec

SCORES = Scores(**dict.fromkeys(KEYS, 0.25), per_class=())
BUDGET = Budget(10.0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "s"


@pytest.fixture
def runs(folder):
    """The runs of a sweep over one number."""
    return open_study(folder, name=runs_name(folder))


def tried(
    runs,
    *rungs,
    final_of=None,
    seed=None,
    cost=COST,
    budget=BUDGET,
    se=None,
    drawn_size=None,
    **facts,
):
    """A trial of the runs that has got this far, as pairs of epoch and objective."""
    trial = runs.ask()
    trial.suggest_int("width", 1, 64)
    if drawn_size is not None:
        trial.suggest_int("image_size", drawn_size, drawn_size)
    entry = Entry(trial)
    if final_of is not None:
        entry.keep(stage=FINAL, finalist=final_of, seed=seed)
    entry.keep(spec=tiny_spec(image_size=32 * (trial.number + 2)), cost=cost, **facts)
    if cost is not None:
        entry.constrain(budget.excess(cost))
    for epoch, value in rungs:
        entry.keep_score(CurvePoint(epoch, value, map=value, objective_se=se), SCORES)
    return trial


def shown(runs, folder, ended=True):
    standings = Standings(results(runs), BUDGET, Objective())
    publish(runs, standings, folder, ended=ended)
    return standings, read_study(folder)


def test_a_network_with_seeds_is_one_trial_with_their_mean_and_its_history(runs, folder):
    runs.tell(tried(runs, (3, 0.2), (9, 0.5)), 0.5)
    runs.tell(tried(runs, (3, 0.1)), state=TrialState.PRUNED)
    runs.tell(tried(runs, (27, 0.6), final_of=0, seed=0, run="r0"), 0.6)
    second = tried(runs, final_of=0, seed=1, run="r1")
    _, study = shown(runs, folder, ended=False)
    assert study.trials[0].intermediate_values == {3: 0.2, 9: 0.5}, "the mean is not known yet"
    Entry(second).keep_score(CurvePoint(27, 0.8, map=0.8), SCORES)
    runs.tell(second, 0.8)
    standings, study = shown(runs, folder)
    first, second = study.trials
    assert first.state == TrialState.COMPLETE
    assert first.value == pytest.approx(0.7)
    assert first.intermediate_values == pytest.approx({3: 0.2, 9: 0.5, 27: 0.7})
    assert second.state == TrialState.PRUNED
    assert second.intermediate_values == {3: 0.1}
    assert study.best_trial.number == standings.best.trial == 0
    assert study.user_attrs["best_trial"] == 0
    assert first.user_attrs["run_folder"] == "trials/r1", "the best of its runs"


def test_figures_are_flat_attributes_with_their_units_and_nothing_else_is(runs, folder):
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    _, study = shown(runs, folder)
    (trial,) = study.trials
    for name in ("latency_ms_p50", "latency_ms_p95", "vram_mib", "params", "gflops", "map_50"):
        assert isinstance(trial.user_attrs[name], int | float)
    assert all(isinstance(value, int | float | str) for value in trial.user_attrs.values())
    assert not {"lease", "beat", "spec", "cost", "paused"} & set(trial.user_attrs)
    assert study.metric_names == ["map_small + map_medium + map_large"]
    frame = study.trials_dataframe()
    assert frame.sort_values("user_attrs_latency_ms_p95").shape[0] == 1


def test_the_error_over_images_is_the_mean_of_its_runs_and_is_not_made_up(runs, folder):
    runs.tell(tried(runs, (9, 0.5), se=0.08), 0.5)
    runs.tell(tried(runs, (3, 0.1)), state=TrialState.PRUNED)
    runs.tell(tried(runs, (27, 0.6), final_of=0, seed=0, run="r0", se=0.03), 0.6)
    runs.tell(tried(runs, (27, 0.7), final_of=0, seed=1, run="r1", se=0.05), 0.7)
    _, study = shown(runs, folder)
    first, second = study.trials
    assert first.user_attrs["objective_se"] == pytest.approx(0.04)
    assert "objective_se" not in second.user_attrs


def test_constraints_are_there_for_optuna_and_for_the_dashboard(runs, folder):
    over = tried(runs, cost=COST, budget=Budget(5.0))
    runs.tell(over, state=TrialState.PRUNED)
    standings = Standings(results(runs), Budget(5.0), Objective())
    publish(runs, standings, folder, ended=True)
    (trial,) = read_study(folder).trials
    assert trial.constraints["latency_ms"] == pytest.approx(0.86)
    assert trial.system_attrs["constraints"] == [pytest.approx(0.86)]


def test_what_waits_is_never_taken_by_ask(runs, folder):
    waiting = tried(runs, (3, 0.2))
    Entry(waiting).keep(paused=3)
    runs._storage.set_trial_state_values(waiting._trial_id, TrialState.WAITING)
    _, study = shown(runs, folder)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    assert study.ask().number == 1


def test_a_network_has_no_outcome_before_it_is_known_whether_it_is_a_finalist(runs, folder):
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    _, study = shown(runs, folder, ended=False)
    assert study.trials[0].state == TrialState.RUNNING
    assert study.trials[0].intermediate_values == {9: 0.5}
    _, study = shown(runs, folder, ended=True)
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 0.5)
    _, study = shown(runs, folder, ended=False)
    assert study.trials[0].state == TrialState.COMPLETE, "the same command again has nothing to do"


def test_a_later_command_that_trains_more_makes_the_study_anew(runs, folder):
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    runs.tell(tried(runs, (9, 0.4)), 0.4)
    shown(runs, folder)
    runs.tell(tried(runs, (27, 0.9), final_of=1, seed=0), 0.9)
    _, study = shown(runs, folder)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE"]
    assert study.trials[0].user_attrs["outcome"] == "complete, 9 epochs, none of the finalists"
    assert study.best_trial.number == 1


def test_a_network_that_its_parameters_do_not_make_is_named(runs, folder):
    for size in (64, 128):
        trial = tried(runs, (9, 0.5), origin="baseline", drawn_size=size)
        runs.tell(trial, 0.5)
    _, study = shown(runs, folder)
    assert study.user_attrs["no_draws"] == [1]


def test_a_control_is_named_and_the_study_says_how_far_the_best_is_ahead(runs, folder):
    runs.tell(tried(runs, (9, 0.4), origin="baseline"), 0.4)
    runs.tell(tried(runs, (9, 0.3), origin=SCALED), 0.3)
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    for number, value in enumerate((0.6, 0.5, 0.8)):
        runs.tell(tried(runs, (27, value), final_of=number, seed=0), value)
    standings, study = shown(runs, folder)
    assert study.user_attrs["lead"] == standings.lead
    assert standings.lead.startswith("Trial 2 is ahead of the baseline by 0.200, and of YOLOv8")
    assert study.user_attrs["no_draws"] == [1]
    controls = [trial.user_attrs.get("control") for trial in study.trials]
    assert controls[0] == "the baseline"
    assert controls[1].startswith("no draw of the space")
    assert controls[2] is None
    assert study.best_trial.number == 2


def test_twice_is_once_and_changes_nothing(runs, folder):
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    running = tried(runs, (3, 0.2))
    shown(runs, folder, ended=False)
    size = (folder / "study.log").stat().st_size
    shown(runs, folder, ended=False)
    assert (folder / "study.log").stat().st_size - size < 400, "a study is opened, nothing more"
    Entry(running).keep(paused=3)
    runs.tell(running, state=TrialState.FAIL)
    _, study = shown(runs, folder)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def test_the_same_detector_twice_is_one_network(runs, folder):
    runs.tell(tried(runs, (9, 0.5)), 0.5)
    runs.tell(tried(runs, duplicate_of=0), state=TrialState.PRUNED)
    runs.tell(tried(runs, (9, 0.6)), 0.6)
    standings, study = shown(runs, folder)
    assert len(study.trials) == 2
    assert study.best_trial.number == standings.best.trial == 1


def test_runs_of_a_version_before_are_moved_once(folder):
    before = open_study(folder)
    before.set_user_attr("facts", {"data": "x"})
    before.tell(tried(before, (9, 0.5)), 0.5)
    tried(before, (3, 0.1))
    assert len(read_runs(folder).trials) == 2
    move_runs(folder)
    moved = open_runs(folder)
    assert [trial.state.name for trial in moved.trials] == ["COMPLETE", "RUNNING"]
    assert moved.user_attrs["facts"] == {"data": "x"}
    with pytest.raises(InputError, match="holds no study 's'"):
        read_study(folder)
    assert len(read_runs(folder).trials) == len(open_runs(folder).trials) == 2


def test_a_move_that_was_interrupted_is_made_again(folder):
    before = open_study(folder)
    before.set_user_attr("facts", {"data": "x"})
    before.tell(tried(before, (9, 0.5)), 0.5)
    # The copy was begun, and its trials are missing.
    optuna.create_study(study_name=runs_name(folder), storage=before._storage)
    move_runs(folder)
    assert len(open_runs(folder).trials) == 1
