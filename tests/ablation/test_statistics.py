import numpy as np
import pytest
from scipy import stats

from flaxyolo.ablation.statistics import (
    compare,
    detectable_by_both,
    holm,
    residuals,
    spread,
)
from flaxyolo.base.errors import InputError


def test_one_arm_is_the_plain_paired_t_test():
    scores = np.random.default_rng(0).normal(0.5, 0.01, (2, 5))
    one = compare(scores).arms[0]
    expected = stats.ttest_rel(scores[1], scores[0])
    assert one.difference == pytest.approx(float((scores[1] - scores[0]).mean()))
    assert one.p == pytest.approx(float(expected.pvalue))
    low, high = expected.confidence_interval(0.95)
    assert (one.low, one.high) == pytest.approx((float(low), float(high)))
    assert one.freedom == 4
    assert one.holm == one.p


def test_noise_is_pooled_over_the_two_way_layout():
    # Worked out by hand: means of arms 2, 4, 3 and of seeds 2.33, 3.67 leave these residuals.
    scores = np.array([[1.0, 3.0], [4.0, 4.0], [2.0, 4.0]])
    left = np.array([[-1, 1], [2, -2], [-1, 1]]) / 3
    np.testing.assert_allclose(residuals(scores), left, atol=1e-15)
    found = compare(scores)
    # Their squares sum to 4/3; over (3 - 1)(2 - 1) degrees of freedom that is a variance of 2/3.
    assert found.noise == pytest.approx((2 / 3) ** 0.5)
    assert found.freedom == 2
    second = found.arms[1]
    # Standard error sqrt(2 x 2/3 / 2); the 97.5 % point of t with 2 degrees is 4.3027.
    half = 4.302653 * (2 / 3) ** 0.5
    assert (second.low, second.high) == pytest.approx((1 - half, 1 + half))
    assert second.noise == pytest.approx((4 / 3) ** 0.5)


def test_an_arm_that_scatters_more_than_the_pool_is_judged_by_its_own_scatter():
    found = compare(np.array([[1.0, 3.0], [4.0, 4.0], [2.0, 4.5]]))
    first = found.arms[0]
    # Differences 3 and 1: a variance of 2, above twice the pooled 7/8.
    assert first.own_noise == pytest.approx(2**0.5)
    assert found.noise == pytest.approx((7 / 8) ** 0.5)
    assert first.noise == first.own_noise
    assert first.freedom == 2


def test_seeds_that_shift_all_arms_alike_are_no_noise():
    random = np.random.default_rng(1)
    scores = random.normal(0.5, 0.01, (4, 3))
    shifted = scores + np.array([0.3, -0.2, 0.1])
    for one, other in zip(compare(scores).arms, compare(shifted).arms, strict=True):
        assert one.p == pytest.approx(other.p)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.2, never falling.
    assert holm(np.array([0.02, 0.2, 0.01, 0.03])) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])


def test_arms_with_one_noisy_arm_are_doubtful_and_it_stands_alone():
    random = np.random.default_rng(2)
    scores = random.normal(0, 0.01, (5, 4))
    assert not compare(scores).doubtful
    scores[2] += np.array([0.5, -0.4, 0.3, -0.4])
    found = compare(scores)
    assert found.doubtful
    assert found.noisiest == 2
    assert [one.freedom for one in found.arms] == [12, 3, 12, 12]
    assert found.arms[1].p == pytest.approx(float(stats.ttest_rel(scores[2], scores[0]).pvalue))


def test_equal_noise_is_called_unequal_in_a_twentieth():
    random = np.random.default_rng(3)
    draws = random.normal(size=(2000, 4, 3))
    assert np.mean([compare(scores).doubtful for scores in draws]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("arms", "seeds"), [(2, 2), (2, 3), (5, 3), (3, 2)])
def test_the_detectable_effect_is_found_with_its_power(arms, seeds):
    # Against simulation of the t-test at 5 % over the number of arms, with the noise known.
    freedom = (arms - 1) * (seeds - 1)
    scores = np.random.default_rng(4).normal(size=(arms, seeds))
    found = compare(scores)
    effect = found.detectable / (found.noise * (2 / seeds) ** 0.5)
    random = np.random.default_rng(5)
    draws = random.standard_normal(100_000) + effect
    t = draws / np.sqrt(random.chisquare(freedom, 100_000) / freedom)
    border = stats.t.ppf(1 - 0.025 / (arms - 1), freedom)
    assert np.mean(np.abs(t) > border) == pytest.approx(0.8, abs=0.006)


def test_images_raise_what_can_be_detected():
    found = compare(np.random.default_rng(6).normal(0, 0.01, (5, 3)))
    one = found.arms[0]
    assert detectable_by_both(one, 4, 3, 0.0) == one.detectable
    assert detectable_by_both(one, 4, 3, 1e-6) == pytest.approx(one.detectable, rel=1e-3)
    # Where images decide alone: 80 % power at 5 % is 1.96 + 0.84 standard errors.
    assert detectable_by_both(one, 4, 3, 1.0) == pytest.approx(2.8016, abs=1e-3)
    middle = detectable_by_both(one, 4, 3, one.detectable / 2.8016)
    assert one.detectable < middle < 2 * one.detectable


def test_no_noise_shows_nothing():
    scores = np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.6]])
    for one in compare(scores).arms:
        assert one.p == one.holm == 1.0
    # Nothing but rounding.
    assert compare(np.array([[0.1, 0.2], [0.1 + 0.2, 0.4]])).arms[0].p == 1.0


def test_one_seed_is_refused():
    with pytest.raises(InputError, match="at least 2 seeds"):
        compare(np.zeros((3, 1)))
    with pytest.raises(InputError, match="one arm alone"):
        compare(np.zeros((1, 3)))


def test_spread_of_scores_that_are_not_there():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert spread([1.0, None]) is None
    assert spread([]) is None
