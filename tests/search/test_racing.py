"""Seeds by racing: who gets another full run, and when it ends."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from scipy import stats

from flaxyolo.crew.curve import CurvePoint
from flaxyolo.search.racing import contested, next_runs
from tests.search.made import OVER, final

SEEDS = (0, 1, 2)


def runs(**values):
    """Full runs of candidates `c0`, `c1` and so on, one for each value."""
    groups = [(int(name[1:]), group) for name, group in values.items()]
    return [
        final(100 * number + seed, number, seed, value)
        for number, group in groups
        for seed, value in enumerate(group)
    ]


def test_all_have_the_first_seed_before_anyone_has_the_second():
    assert next_runs([3, 1], [], SEEDS) == [(3, 0), (1, 0)]
    assert next_runs([3, 1], runs(c3=[0.5]), SEEDS) == [(1, 0)]
    assert next_runs([], [], SEEDS) == []


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_nobody_is_judged_before_every_run_has_ended(state):
    begun = runs(c1=[0.5], c2=[0.5])
    assert next_runs([1, 2], begun, SEEDS) == [(1, 1), (2, 1)]
    assert next_runs([1, 2], [begun[0], replace(begun[1], state=state)], SEEDS) == []


def test_with_one_seed_the_prior_tells_apart():
    # 1.96 * sqrt(2) * 0.05 = 0.139
    assert next_runs([1, 2], runs(c1=[0.50], c2=[0.37]), SEEDS) == [(1, 1), (2, 1)]
    assert next_runs([1, 2], runs(c1=[0.50], c2=[0.36]), SEEDS) == []
    assert next_runs([1, 2], runs(c1=[0.50], c2=[0.36]), SEEDS, highest=3.0) == [(1, 1), (2, 1)]


def test_with_one_seed_a_known_error_over_images_stands_for_the_prior():
    def known(number, value, error):
        point = CurvePoint(24, value, objective_se=error)
        return replace(final(number, number, 0, value), history=(point,))

    reach = 1.96 * np.hypot(0.01, 0.02)
    for gap, close in ((0.99 * reach, {1, 2}), (1.01 * reach, set())):
        pair = {1: [known(1, 0.5, 0.01)], 2: [known(2, 0.5 - gap, 0.02)]}
        assert contested(pair, prior=1.0) == close


def test_further_seeds_are_for_those_that_the_pooled_spread_does_not_tell_apart():
    begun = {"c1": [0.50, 0.54], "c2": [0.49, 0.51], "c3": [0.20]}
    spread = np.sqrt((2 * 0.02**2 + 2 * 0.01**2) / 2)
    reach = stats.t.ppf(0.975, 2) * spread
    assert 0.02 < reach < 0.52 - 0.20
    assert next_runs([1, 2, 3], runs(**begun), SEEDS) == [(1, 2), (2, 2)]
    # After all the seeds that there may be, it is left at that.
    begun |= {"c1": [0.50, 0.54, 0.52], "c2": [0.49, 0.51, 0.50]}
    assert next_runs([1, 2, 3], runs(**begun), SEEDS) == []


def test_whoever_lacks_a_seed_of_the_leaders_gets_it_first():
    begun = runs(c1=[0.5, 0.6], c2=[0.5, 0.6], c3=[0.5])
    assert next_runs([1, 2, 3], begun, SEEDS) == [(3, 1)]


def test_finalists_of_an_earlier_command_are_still_in_the_race():
    assert next_runs([1], runs(c1=[0.5], c2=[0.55]), SEEDS) == [(1, 1), (2, 1)]
    assert next_runs([1], runs(c1=[0.5], c2=[0.9]), SEEDS) == []


def test_a_finalist_over_the_budget_is_out_of_the_race():
    begun = runs(c1=[0.5], c2=[0.5])
    begun[1] = replace(begun[1], state="pruned", constraints=OVER)
    assert next_runs([1, 2], begun, SEEDS) == []


def test_a_round_that_the_time_does_not_pay_for_is_not_begun():
    begun = runs(c1=[0.5], c2=[0.5])
    assert next_runs([1, 2], begun, SEEDS, affordable=1.9) == []
    assert len(next_runs([1, 2], begun, SEEDS, affordable=2.0)) == 2
    assert next_runs([1, 2], [], SEEDS, affordable=-inf) == [(1, 0), (2, 0)], "the first all have"


def test_a_race_costs_less_than_all_seeds_and_finds_as_good_a_winner():
    rng = np.random.default_rng(0)
    spent, raced, whole = 0, [], []
    for _ in range(300):
        true = rng.normal(0.5, 0.1, 4)
        noise = rng.normal(0, 0.03, (4, len(SEEDS)))
        begun = []
        while more := next_runs(range(4), begun, SEEDS):
            begun += [
                final(10 * number + seed, number, seed, true[number] + noise[number, seed])
                for number, seed in more
            ]
        spent += len(begun)
        means = [
            np.mean([run.objective for run in begun if run.finalist == number])
            for number in range(4)
        ]
        raced.append(true[np.argmax(means)])
        whole.append(true[np.argmax(true + noise.mean(1))])
    assert spent < 0.8 * 300 * 4 * len(SEEDS)
    assert np.mean(raced) > np.mean(whole) - 0.003
