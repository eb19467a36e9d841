"""What all records together tell: numbers of networks, and which parameters mattered."""

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from flaxyolo.crew.record import attributes
from flaxyolo.crew.storage import open_runs
from flaxyolo.search import results as records
from flaxyolo.search.results import NO_DRAWS, importances
from tests.search.made import result

KINDS = {"x": IntDistribution(0, 20), "idle": IntDistribution(0, 3), "same": IntDistribution(0, 3)}


def networks(count, **facts):
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        x = (7 * number) % 20
        params = {"x": x, "idle": number % 4, "same": 1}
        scores = {3: x / 20} if number % 2 else {3: x / 20, 9: 5.0}
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED if number % 2 else TrialState.COMPLETE,
                value=None if number % 2 else 5.0,
                params=params,
                distributions=KINDS,
                intermediate_values=scores,
                **facts,
            )
        )
    return study


def test_the_importance_is_over_what_varied_among_all_networks_with_a_score():
    found = importances(networks(20))
    assert (found.networks, found.epoch) == (20, 3), "the epoch that all of them have"
    assert list(found.shares) == ["x", "idle"]
    assert found.shares["x"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1)


def test_a_network_that_its_parameters_do_not_make_tells_nothing_of_them():
    study = networks(20)
    study.set_user_attr(NO_DRAWS, [0, 19])
    assert importances(study).networks == 18


def test_too_few_networks_or_those_over_the_budget_tell_nothing():
    assert importances(networks(3)).shares == {}
    assert importances(networks(0)) == ({}, 0, None)
    assert importances(networks(20, constraints={"latency_ms": 0.1})).networks == 0


def test_only_what_has_changed_is_read_again(tmp_path, monkeypatch):
    study = open_runs(tmp_path / "s")
    for number in range(3):
        study.add_trial(
            create_trial(state=TrialState.WAITING, user_attrs=attributes(result(number)))
        )
    read, asked = records.read, []

    def counted(trial):
        asked.append(trial.number)
        return read(trial)

    monkeypatch.setattr(records, "read", counted)
    first = records.results(study)
    assert asked == [0, 1, 2]
    trial = study.ask()
    trial.set_user_attr("origin", "test")
    second = records.results(study)
    assert asked == [0, 1, 2, trial.number]
    assert second[trial.number].origin == "test"
    assert second[trial.number].state == "running"
    assert second[2] == first[2]
    # Another view of the study sees what the first has written.
    assert records.results(open_runs(tmp_path / "s")) == second
