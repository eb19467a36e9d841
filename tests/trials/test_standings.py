"""The front against a slow reference, and what decides it."""

import random
from dataclasses import replace
from itertools import product

import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search.objective import Objective
from flaxyolo.trials.progress import best_line
from flaxyolo.trials.standings import LEARNT, Standings, front
from tests.search.made import COST, result


def beaten_by_any(points, index):
    """By the definition: another is no worse in both, and better in one or the same and first."""
    latency, accuracy = points[index]
    for other, (its_latency, its_accuracy) in enumerate(points):
        if its_latency <= latency and its_accuracy >= accuracy:
            better = (its_latency, its_accuracy) != (latency, accuracy)
            if better or other < index:
                return True
    return False


def test_the_front_is_what_no_other_point_beats():
    points = [(5.0, 0.4), (3.0, 0.2), (8.0, 0.9), (6.0, 0.3), (4.0, 0.4)]
    assert front(points) == [1, 4, 2]


def test_of_ties_the_better_and_of_equal_points_the_first_is_on_the_front():
    assert front([(3.0, 0.2), (3.0, 0.5)]) == [1]
    assert front([(4.0, 0.5), (3.0, 0.5)]) == [1]
    assert front([(3.0, 0.5), (3.0, 0.5), (2.0, 0.5), (2.0, 0.5)]) == [2]
    assert front([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_front_of_random_points_is_that_of_the_definition(seed):
    rng = random.Random(seed)
    # Few values, so that ties and duplicates come.
    grid = list(product([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.5]))
    points = [rng.choice(grid) for _ in range(rng.randint(1, 15))]
    expected = [i for i in range(len(points)) if not beaten_by_any(points, i)]
    assert sorted(front(points)) == expected
    assert [points[i] for i in front(points)] == sorted(points[i] for i in expected)


def numbers(records, budget):
    return [record.number for record in Standings(records, budget, Objective()).front]


def measured(number, p95, objective, p50=None):
    cost = replace(COST, latency_ms_p95=p95, latency_ms_p50=p95 / 2 if p50 is None else p50)
    return result(number, rungs=[] if objective is None else [(9, objective)], cost=cost)


def test_a_trial_without_a_score_or_a_latency_is_not_on_the_front():
    records = [
        measured(0, 9.0, 0.7),
        result(1, cost=None),
        measured(2, 2.0, None),
        measured(3, 5.0, 0.5),
    ]
    assert numbers(records, Budget(10.0)) == [3, 0]


def test_the_statistic_of_the_budget_decides_the_front():
    records = [measured(0, 5.0, 0.5), measured(1, 4.0, 0.4, p50=6.0)]
    assert numbers(records, Budget(10.0)) == [1, 0]
    assert numbers(records, Budget(10.0, latency_stat="p50")) == [0]


def scored(map_50):
    values = dict.fromkeys(KEYS, 0.0) | {"map_50": map_50}
    scores = Scores(**values, per_class=())
    return Standings([result(3, rungs=[(9, 0.0)], scores=scores)], Budget(10.0), Objective())


@pytest.mark.parametrize("map_50", [0.0, None, 0.9 * LEARNT])
def test_a_winner_that_knows_nothing_is_no_best(map_50):
    standings = scored(map_50)
    assert standings.best is not None
    assert standings.nothing_learnt
    assert best_line(standings) == "nothing has learnt yet"


def test_whoever_has_learnt_anything_may_be_best():
    assert not scored(LEARNT).nothing_learnt
    assert best_line(scored(LEARNT)).startswith("best: mAP 0.000")
    assert not Standings([], Budget(10.0), Objective()).nothing_learnt
