"""What all records together tell: numbers of networks, and which parameters mattered."""

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from flaxyolo.search.results import NO_DRAWS, importances

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
