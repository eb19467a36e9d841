import numpy as np
import pytest

from flaxyolo.search.funnel import (
    DEFAULTS,
    Candidates,
    FunnelSettings,
    expected_improvement,
    in_band,
    merits,
    next_finalist,
    next_finalists,
    promoted,
    propose,
    reliability,
)
from flaxyolo.search.units import Runs, fitted_on, in_one_unit

NO_CHANCE = FunnelSettings(explore=0.0)


def runs(features, scores, shares=None):
    features = np.array(features, float).reshape(len(scores), -1)
    scores = np.array(scores, float)
    return Runs(features, scores, np.ones(len(scores)) if shares is None else np.array(shares))


NONE = Runs(np.zeros((0, 1)), np.zeros(0), np.zeros(0))


def candidates(features, latency_ms=None):
    features = np.array(features, float).reshape(len(features), -1)
    latency = np.full(len(features), 9.0) if latency_ms is None else np.array(latency_ms, float)
    return Candidates(features, latency)


def choose(those, done, *, turn=10, seed=0, settings=NO_CHANCE, **more):
    rng = np.random.default_rng(seed)
    return propose(those, done, budget_ms=10.0, turn=turn, rng=rng, settings=settings, **more)


def test_the_band_is_closed_and_falls_back_to_all_that_fit():
    latency = np.array([3.0, 6.9, 7.0, 10.0, 10.1])
    np.testing.assert_array_equal(in_band(latency, 10.0, (0.7, 1.0)), [2, 3])
    np.testing.assert_array_equal(in_band(latency[:2], 10.0, (0.7, 1.0)), [0, 1])


def test_nothing_that_fits_is_an_error():
    with pytest.raises(ValueError, match="none of 2 candidates is within 10 ms"):
        choose(candidates([[1], [2]], [11, 12]), NONE)


def test_unknown_latency_does_not_fit():
    np.testing.assert_array_equal(in_band(np.array([np.nan, 8.0]), 10.0, (0.7, 1.0)), [1])


def test_the_first_candidates_are_drawn_in_the_band():
    those = candidates([[1], [2], [3], [4]], [1, 8, 9, 20])
    drawn = [choose(those, NONE, turn=0, seed=seed) for seed in range(20)]
    assert {choice.place for choice in drawn} == {1, 2}
    assert {choice.origin for choice in drawn} == {"explore"}
    assert drawn[0].predicted is None


def test_the_surrogate_follows_the_scores():
    done = runs([[0], [1], [2], [3], [4]], [0.1, 0.2, 0.3, 0.4, 0.5])
    choice = choose(candidates([[-1], [0.5], [5], [2.5]]), done)
    assert (choice.place, choice.origin) == (2, "surrogate")
    assert choice.predicted == pytest.approx(0.6, abs=0.05)


def test_every_tenth_candidate_is_drawn_at_random():
    done = runs([[0], [1], [2], [3], [4]], [0.1, 0.2, 0.3, 0.4, 0.5])
    those = candidates([[-1], [0.5], [5]])
    origins = [choose(those, done, turn=turn, settings=FunnelSettings()) for turn in range(10, 30)]
    explored = [turn for turn, choice in enumerate(origins, 10) if choice.origin == "explore"]
    assert explored == [19, 29]


@pytest.mark.parametrize("scores", [[0.0] * 5, [np.nan] * 5, [0.2, 0.3, np.nan, np.nan, np.nan]])
def test_scores_that_tell_nothing_leave_it_to_chance(scores):
    choice = choose(candidates([[-1], [0.5], [5]]), runs([[0], [1], [2], [3], [4]], scores))
    assert choice.origin == "explore"


def test_features_that_are_unknown_are_no_hindrance():
    nan = np.nan
    done = runs([[0, nan], [1, 2], [2, nan], [3, 1], [4, nan]], [0.1, 0.2, 0.3, 0.4, 0.5])
    choice = choose(candidates([[0.5, nan], [5, nan], [nan, nan]]), done)
    assert (choice.place, choice.origin) == (1, "surrogate")
    assert np.isfinite(choice.predicted)


def test_a_run_under_way_sends_the_next_elsewhere():
    features = np.array([[x, y] for x in range(6) for y in range(6)], float)
    top = np.array([features[:, 0] > 2, features[:, 1] > 2]).all(0)
    seen = np.flatnonzero(~top)[::3]
    scores = -((features - 4.2) ** 2).sum(1)
    rest = np.setdiff1d(np.arange(36), seen)
    done = runs(features[seen], scores[seen])
    first = choose(candidates(features[rest]), done)
    begun = rest[first.place]
    both = runs(features[[*seen, begun]], [*scores[seen], np.nan])
    left = np.setdiff1d(rest, [begun])
    second = choose(candidates(features[left]), both)
    unaware = choose(candidates(features[left]), done)
    apart = np.abs(features[left[second.place]] - features[begun]).sum()
    # A neighbour looks best to one who does not know of the run.
    assert apart >= np.abs(features[left[unaware.place]] - features[begun]).sum()
    assert second.origin == "surrogate"


def test_an_earlier_study_counts_from_the_first_turn():
    before = runs([[0], [1], [2], [3], [4]], [10, 20, 30, 40, 50])
    those = candidates([[-1], [0.5], [5]])
    choice = choose(those, NONE, turn=0, earlier=[before])
    assert (choice.place, choice.origin, choice.predicted) == (2, "surrogate", None)
    few = runs([[4.5]], [0.01])
    assert choose(those, few, turn=1, earlier=[before]).place == 2


def test_expected_improvement_of_a_sure_and_of_an_even_chance():
    gain = expected_improvement(np.array([1.0, 3.0, 2.0]), np.array([0.0, 0.0, 1.0]), 2.0)
    np.testing.assert_allclose(gain, [0.0, 1.0, 1 / np.sqrt(2 * np.pi)], atol=1e-9)


def test_runs_that_went_on_keep_their_lead():
    # Rung 1/3 had 0.1 to 0.4; the two best went on, and the better of them fell behind the other.
    features = [[0], [1], [2], [3], [2], [3]]
    own = in_one_unit(runs(features, [0.1, 0.2, 0.3, 0.4, 0.7, 0.6], [1 / 3] * 4 + [1.0] * 2))
    # The two keep the mean and the spread they had, in steps of 0.1 from 0.1.
    steps = (own.scores - own.scores[0]) / (own.scores[1] - own.scores[0])
    np.testing.assert_allclose(steps, [0, 1, 3, 2])
    np.testing.assert_allclose(own.noise, [3, 3, 1, 1])
    np.testing.assert_array_equal(own.rows, [0, 1, 4, 5])
    np.testing.assert_allclose(own.centre + own.unit * own.scores[2:], [0.7, 0.6])
    assert own.scores.mean() == pytest.approx(0)
    assert own.scores.std() == pytest.approx(1)


def test_without_a_common_run_those_that_went_on_are_ahead():
    own = in_one_unit(runs([[0], [1], [2], [3]], [0.3, 0.2, 0.1, 0.05], [1 / 9, 1 / 9, 1 / 9, 1]))
    assert own.scores[3] == own.scores.max()


def test_finalists_come_in_the_order_of_their_scores_where_nothing_is_shared():
    done = runs([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [0.2, 0.6, 0.4])
    first = next_finalist(done)
    second = next_finalist(done, [first])
    assert (first, second, next_finalist(done, [first, second])) == (1, 2, 0)
    with pytest.raises(ValueError, match="no run with a score is left beside 3 taken"):
        next_finalist(done, [0, 1, 2])


def test_a_lucky_run_among_poor_ones_is_no_finalist():
    x = np.linspace(0, 1, 13)
    scores = x.copy()
    scores[1] = 1.01
    done = runs(x[:, None], scores)
    assert int(scores.argmax()) == 1
    assert next_finalist(done) == 12


def test_finalists_are_of_the_runs_that_went_furthest():
    features = [[0], [1], [2], [1]]
    done = runs(features, [0.1, 0.2, 0.15, 0.1], [1 / 3, 1 / 3, 1 / 3, 1.0])
    assert next_finalist(done) == 3
    # Row 1 is the same run as row 3.
    assert next_finalist(done, [3]) == 2


def test_a_run_without_a_score_is_no_finalist():
    done = runs([[0], [1], [2]], [0.1, np.nan, np.nan])
    assert next_finalist(done) == 0
    with pytest.raises(ValueError, match="no run"):
        next_finalist(done, [0])


@pytest.mark.parametrize(
    ("scores", "round_up", "ahead"),
    [
        ([], False, []),
        ([0.5], False, []),
        ([0.5, 0.6], False, []),
        ([0.5, 0.6], True, [1]),
        ([0.5, 0.6, 0.4], False, [1]),
        ([0.5, 0.6, 0.4, 0.7], False, [3]),
        ([0.5, 0.6, 0.4, 0.7], True, [1, 3]),
        ([0.5, 0.5, 0.5], False, [0]),
        ([np.nan, 0.2, 0.1], False, [1]),
        ([np.nan, np.nan, 0.1, np.nan, np.nan, np.nan], False, [2]),
        ([np.nan, np.nan, np.nan], False, []),
        ([0.0, 0.001, 0.0], False, [0, 1, 2]),
        ([0.0, np.nan], False, [0]),
        ([0.0, 0.01, 0.0], False, [1]),
    ],
)
def test_one_in_three_goes_on(scores, round_up, ahead):
    found = promoted(np.array(scores, float), 3, round_up=round_up)
    np.testing.assert_array_equal(np.flatnonzero(found), ahead)


@pytest.mark.parametrize(
    ("scores", "noise", "round_up", "ahead"),
    [
        # The variance is 0.01: noise of 0.07 leaves half of it, of 0.08 less.
        ([0.4, 0.5, 0.6], 0.07, False, [2]),
        ([0.4, 0.5, 0.6], 0.08, False, [0, 1, 2]),
        ([0.4, 0.5, np.nan, 0.6], 0.08, False, [0, 1, 3]),
        ([0.5, 0.5, 0.5], 0.001, False, [0, 1, 2]),
        # Two are too few to say so, unless no more come.
        ([0.50, 0.51], 0.1, False, []),
        ([0.50, 0.51], 0.1, True, [0, 1]),
        ([0.4, 0.5, 0.6], np.nan, False, [2]),
    ],
)
def test_a_rung_whose_scores_differ_by_their_noise_drops_nobody(scores, noise, round_up, ahead):
    noises = np.full(len(scores), noise)
    found = promoted(np.array(scores), 3, noise=noises, round_up=round_up)
    np.testing.assert_array_equal(np.flatnonzero(found), ahead)


@pytest.mark.parametrize(
    ("scores", "box_loss", "order"),
    [
        # The first leads in both; of equal scores the box loss tells, and outweighs a score.
        ([0.3, 0.1, 0.1], [0.4, 0.5, 0.6], [0, 1, 2]),
        ([0.2, 0.2, 0.1], [0.6, 0.5, 0.1], [2, 1, 0]),
        # Of equal losses the score does.
        ([0.1, 0.3, 0.2], [0.5, 0.5, 0.5], [1, 2, 0]),
        # Nobody has learnt yet.
        ([0.002, 0.001, 0.0], [0.6, 0.5, 0.4], [2, 1, 0]),
        # Nothing to tell by, and something unknown.
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5], [2, 1, 0]),
        ([0.1, 0.2, 0.3], [0.1, np.nan, 0.5], [2, 1, 0]),
    ],
)
def test_fresh_runs_are_told_apart_by_score_and_box_loss(scores, box_loss, order):
    merit = merits(np.array(scores), np.array(box_loss))
    np.testing.assert_array_equal(np.argsort(-merit, kind="stable"), order)


def test_the_box_loss_of_the_first_epoch_counts_where_it_is_known():
    scores, last = np.array([0.2, 0.2, 0.2]), np.array([0.5, 0.5, 0.4])
    first = np.array([0.9, 0.6, 0.9])
    assert list(np.argsort(-merits(scores, last), kind="stable")) == [2, 0, 1]
    merit = merits(scores, last, first)
    assert list(np.argsort(-merit, kind="stable")) == [2, 1, 0], "the last one counts more"
    assert merit[1] - merit[0] == pytest.approx(DEFAULTS.merit[1] * 3 / 2**0.5)
    unknown = merits(scores, last, np.array([0.9, np.nan, 0.9]))
    np.testing.assert_array_equal(unknown, merits(scores, last))


def test_what_has_no_score_has_no_merit():
    merit = merits(np.array([0.3, np.nan, 0.1]), np.array([0.5, 0.1, 0.6]))
    assert np.isnan(merit[1])
    assert merit[0] > merit[2]
    assert np.isnan(merits(np.array([np.nan, 0.0]), np.array([0.5, 0.1]))[0])


def test_those_of_most_merit_go_on():
    scores = np.array([0.1, 0.2, 0.3])
    found = promoted(scores, 3, merit=np.array([2.0, 1.0, 0.0]))
    np.testing.assert_array_equal(np.flatnonzero(found), [0])


def test_the_reliability_of_scores_is_what_noise_leaves_of_their_variance():
    rng = np.random.default_rng(0)
    true, noise = rng.normal(0, 0.3, 4000), np.full(4000, 0.4)
    seen = true + rng.normal(0, 0.4, 4000)
    assert reliability(seen, noise) == pytest.approx(0.09 / 0.25, abs=0.03)
    assert reliability(true, np.zeros(4000)) == 1
    assert reliability(true / 10, noise) == 0
    assert reliability(np.array([0.1, np.nan]), np.array([0.5, 0.5])) == 1, "one is no spread"


def test_the_same_draws_give_the_same_choice():
    done = runs([[0], [1], [2], [3]], [0.1, 0.4, 0.3, 0.2])
    those = candidates([[0.5], [1.5], [2.5]])
    assert choose(those, done, seed=3) == choose(those, done, seed=3)


def many(count, seed=0):
    """Runs of which a third went to the end; a feature tells of the score, the other does not."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(0, 1, (count, 2))
    shares = np.where(np.arange(count) % 3 == 0, 1.0, 1 / 3)
    return Runs(features, features[:, 0] + rng.normal(0, 0.05, count), shares)


def test_a_long_study_is_fitted_on_the_best_the_last_and_some_of_the_others():
    own = in_one_unit(many(900))
    kept = fitted_on(own, 200)
    assert len(kept) == 200
    assert (np.diff(kept) > 0).all()
    assert np.array_equal(kept, fitted_on(own, 200)), "every worker takes the same"
    assert own.scores.argmax() in kept
    assert set(range(850, 900)) <= set(kept.tolist()), "the last"
    assert own.scores[kept].min() == own.scores.min(), "the worst too"
    assert np.array_equal(fitted_on(own, 900), np.arange(900))


def test_few_runs_tell_as_much_as_all():
    """The predicted scores of a long study agree with those of all its runs."""
    done, rng = many(600), np.random.default_rng(1)
    new = Candidates(rng.uniform(0, 1, (50, 2)), np.full(50, 0.9))
    found = []
    for most in (200, 600):
        settings = FunnelSettings(most_own=most)
        chosen = propose(new, done, budget_ms=1.0, turn=1, rng=rng, settings=settings)
        found.append(new.features[chosen.place, 0])
        rows = next_finalists(done, 3, settings=settings)
        assert (done.shares[rows] == 1).all()
        assert done.features[rows, 0].min() > 0.85
    assert min(found) > 0.9


def test_finalists_one_by_one_are_those_asked_for_at_once():
    done = many(60)
    taken = []
    for _ in range(5):
        taken.append(next_finalist(done, taken))
    assert taken == next_finalists(done, 5)
    with pytest.raises(ValueError, match="no run with a score is left beside 60 taken"):
        next_finalists(done, 61)
