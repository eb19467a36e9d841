import numpy as np
import pytest

from flaxyolo.search.surrogate import matern, one_scale, predict


def places(*numbers):
    return np.array(numbers, int)


def test_features_come_to_one_scale():
    nan = np.nan
    features = np.array([[1.0, 7, 0, nan], [3.0, 7, 0, 2], [5.0, 7, 1, 4], [7.0, 7, 0, nan]])
    scaled = one_scale(features)
    step = 2 / np.sqrt(5)
    np.testing.assert_allclose(scaled[:, 0], [-1.5 * step, -0.5 * step, 0.5 * step, 1.5 * step])
    np.testing.assert_allclose(scaled[:, 1], [-0.25, -0.25, 0.75, -0.25])
    np.testing.assert_allclose(scaled[:, 2], [0, -1, 1, 0])
    assert scaled.shape == (4, 3)


def test_an_outlier_is_cut_off():
    features = np.append(np.linspace(0, 1, 99), 1e6)[:, None]
    assert one_scale(features).max() == 4.0


def test_columns_of_nothing_known_or_no_change_are_left_out():
    assert one_scale(np.array([[np.nan, 2.0], [np.nan, 2.0]])).shape == (2, 0)


def test_the_kernel_at_known_distances():
    # (1 + sqrt(5) + 5/3) exp(-sqrt(5)) at a distance of one length scale.
    np.testing.assert_allclose(matern(np.array([0.0, 1.0])), [1.0, 0.5239941088318203])


def test_a_line_is_continued():
    features = np.linspace(0, 1, 12)[:, None]
    fit = predict(features, np.arange(8), 10 + 4 * features[:8, 0], places(9, 11))
    np.testing.assert_allclose(fit.mean, 10 + 4 * features[[9, 11], 0], atol=0.4)
    assert fit.spread[1] > fit.spread[0] > 0


def test_a_hill_is_seen_where_a_line_would_miss_it():
    features = np.linspace(-1, 1, 13)[:, None]
    scores = -(features[:, 0] ** 2)
    seen = places(0, 1, 3, 5, 7, 9, 11, 12)
    fit = predict(features, seen, scores[seen], np.arange(13))
    assert int(fit.mean.argmax()) == 6


def test_the_spread_holds_most_of_the_errors():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(20):
        features = rng.normal(size=(60, 8))
        scores = (
            features @ rng.normal(size=8) + np.sin(2 * features[:, 0]) + rng.normal(size=60) / 4
        )
        fit = predict(features, np.arange(20), scores[:20], np.arange(20, 60))
        inside += list(np.abs(fit.mean - scores[20:]) < 2 * fit.spread)
    assert 0.85 < np.mean(inside) < 0.995


def test_unit_and_offset_of_the_scores_do_not_matter():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(20, 5))
    scores = features @ rng.normal(size=5)
    one = predict(features, np.arange(10), scores[:10], np.arange(10, 20))
    other = predict(features, np.arange(10), 1000 * scores[:10] + 7, np.arange(10, 20))
    np.testing.assert_allclose(other.mean, 1000 * one.mean + 7, rtol=1e-6)
    np.testing.assert_allclose(other.spread, 1000 * one.spread, rtol=1e-6)


@pytest.mark.parametrize("noise", [None, 1 + np.arange(6.0)])
def test_one_form_agrees_with_the_textbook(monkeypatch, noise):
    monkeypatch.setattr("flaxyolo.search.surrogate.LENGTHS", (1.0,))
    monkeypatch.setattr("flaxyolo.search.surrogate.LINEAR", (0.5,))
    monkeypatch.setattr("flaxyolo.search.surrogate.NOISE", (0.05,))
    rng = np.random.default_rng(2)
    features, scores = rng.normal(size=(9, 3)), rng.normal(size=6)
    fit = predict(features, np.arange(6), scores, places(6, 7, 8), noise=noise)
    scaled = (features - features.mean(0)) / features.std(0)
    apart = ((scaled[:, None] - scaled[None]) ** 2).sum(2) / 6
    root = np.sqrt(5 * apart)
    kernel = (1 + root + root**2 / 3) * np.exp(-root) / 2 + scaled @ scaled.T / 3 / 2 + 1
    inner = kernel[:6, :6] + 0.05 * np.diag(np.ones(6) if noise is None else noise)
    targets = (scores - scores.mean()) / scores.std()
    mean = kernel[6:, :6] @ np.linalg.solve(inner, targets)
    np.testing.assert_allclose(fit.mean, scores.mean() + scores.std() * mean)
    amplitude = (targets @ np.linalg.solve(inner, targets) + 4) / 10
    left = kernel[6:, 6:] - kernel[6:, :6] @ np.linalg.solve(inner, kernel[:6, 6:])
    np.testing.assert_allclose(fit.spread, scores.std() * np.sqrt(amplitude * np.diag(left)))


def test_scores_that_do_not_differ_say_nothing():
    features = np.arange(6.0)[:, None]
    fit = predict(features, np.arange(3), np.full(3, 0.25), places(4, 5))
    np.testing.assert_array_equal(fit.mean, [0.25, 0.25])


def test_without_features_the_mean_is_predicted():
    fit = predict(np.ones((5, 2)), np.arange(3), np.array([1.0, 2, 3]), places(4))
    assert fit.mean[0] == pytest.approx(2.0)


def test_another_study_helps_as_far_as_it_agrees():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(70, 4))
    truth = features @ np.array([2.0, -1, 1, 0.5])
    study = np.repeat([1, 0], [40, 30])
    at = np.arange(60, 70)

    def error(runs, others=None):
        rows, scores = np.arange(40, 40 + runs), truth[40 : 40 + runs]
        if others is not None:
            rows, scores = np.append(np.arange(40), rows), np.append(others, scores)
        fit = predict(features, rows, scores, at, study=study)
        return float(np.abs(fit.mean - truth[at]).mean())

    assert error(6, truth[:40]) < error(6) / 2
    # What 20 runs say of their own is not lost to a study that says something else.
    wrong = rng.permutation(truth[:40])
    assert error(20, wrong) < np.abs(truth[at] - truth.mean()).mean() / 2
    assert error(20, wrong) < error(6, wrong) / 2
