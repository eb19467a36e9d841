from dataclasses import replace

import numpy as np
import pytest

from flaxyolo.ablation.analysis import BETTER, NO_EVIDENCE, WORSE, analyse, judge, mean_of
from flaxyolo.ablation.results import Arm
from flaxyolo.ablation.statistics import compare
from flaxyolo.base.errors import InputError
from tests.ablation.runs import made_ablation, renamed

SKILLS = {"baseline": 0.5, "same": 0.5, "good": 1.0, "bad": 0.1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_ablation(tmp_path_factory.mktemp("ablation"), SKILLS)


def test_a_large_effect_is_found_and_none_is_not(made):
    found = analyse(*made, resamples=200)
    words = [one.verdict and one.verdict.word for one in found.arms]
    assert words == [None, NO_EVIDENCE, BETTER, WORSE]
    assert found.seeds == (0, 1, 2)
    assert found.images == 60


def test_the_columns_are_those_of_the_runs(made):
    arms, runs, truth = made
    found = analyse(arms, runs, truth, resamples=50)
    good = found.arms[2]
    scores = [run.scores["map"] for run in runs if run.arm == "good"]
    base = [run.scores["map"] for run in runs if run.arm == "baseline"]
    assert good.scores["map"].mean == pytest.approx(np.mean(scores))
    assert good.scores["map"].std == pytest.approx(np.std(scores, ddof=1))
    assert good.comparison.difference == pytest.approx(np.mean(scores) - np.mean(base))
    assert good.gap.mean == pytest.approx(0.1)
    assert good.cost["latency_ms_p50"] == 11.0
    assert good.cost["train_vram_mib"] is None
    low, high = good.image_intervals["map"]
    assert low < good.comparison.difference < high
    assert good.detectable >= good.comparison.detectable
    assert 0 < found.noise_by_images <= 1
    np.testing.assert_allclose(found.residuals().sum(0), 0, atol=1e-12)


def test_the_error_kinds_are_the_mean_over_seeds(made):
    arms, runs, truth = made
    numbers = iter(range(12))
    found = analyse(arms, runs, truth, resamples=20, error_kinds=lambda *_: {"n": next(numbers)})
    assert [one.errors for one in found.arms] == [{"n": 1}, {"n": 4}, {"n": 7}, {"n": 10}]
    assert analyse(arms, runs, truth, resamples=20, error_kinds=None).arms[0].errors is None


def test_a_size_without_objects_is_none(made):
    arms, runs, truth = made
    runs = [replace(run, scores={**run.scores, "map_small": None}) for run in runs]
    one = analyse(arms, runs, truth, resamples=20).arms[1]
    assert one.scores["map_small"] is None
    assert one.differences["map_small"] is None


def test_seeds_that_an_arm_lacks_are_left_out_and_named(made):
    arms, runs, truth = made
    fewer = [run for run in runs if (run.arm, run.seed) != ("bad", 1)]
    found = analyse(arms, fewer, truth, resamples=20)
    assert found.seeds == (0, 2)
    assert "left out: good with seed 1, which not every arm has run" in found.notes
    with pytest.raises(InputError, match="at least 2 seeds"):
        analyse(arms, [run for run in runs if run.seed == 0], truth)


def test_an_arm_equal_to_the_baseline_is_named(made):
    arms, runs, truth = made
    base = {run.seed: run for run in runs if run.arm == "baseline"}
    runs = [replace(base[run.seed], arm="same") if run.arm == "same" else run for run in runs]
    found = analyse(arms, runs, truth, resamples=20)
    assert any(note.startswith("same equals the baseline") for note in found.notes)
    assert found.arms[1].comparison.difference == 0
    assert found.arms[1].verdict.word == NO_EVIDENCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arms, runs: (arms, runs + runs[:1]), "seed 0: expected one run"),
        (lambda arms, runs: (arms, renamed(runs, "bad", arm="other")), "expected an arm of"),
        (lambda arms, runs: ([*arms, Arm("new", {})], runs), "arm new: expected runs"),
        (lambda arms, runs: ([*arms, arms[0]], runs), "name once"),
        (
            lambda arms, runs: (arms, renamed(runs, "bad", scores={"map": None})),
            "hold no object",
        ),
    ],
)
def test_runs_that_do_not_fit_are_refused(made, change, message):
    arms, runs, truth = made
    with pytest.raises(InputError, match=message):
        analyse(*change(arms, runs), truth)


def test_a_verdict_needs_seeds_and_images():
    random = np.random.default_rng(0)
    scores = random.normal(0, 0.01, (2, 4))
    large, none = scores.copy(), scores.copy()
    large[1] += 0.2
    shown, hidden = compare(large).arms[0], compare(none).arms[0]
    assert judge(shown, (0.1, 0.3)).word == BETTER
    assert judge(compare(-large).arms[0], (-0.3, -0.1)).word == WORSE
    for comparison, images, reason in (
        (shown, (-0.1, 0.3), "images do not"),
        (hidden, (0.1, 0.3), "seeds do not"),
        (hidden, (-0.1, 0.3), "nor do images"),
    ):
        verdict = judge(comparison, images)
        assert verdict.word == NO_EVIDENCE
        assert reason in verdict.reason


def test_means_of_nested_figures():
    parts = [{"a": 1, "b": [2.0, None], "c": "x"}, {"a": 3, "b": [4.0, None], "c": "x"}]
    assert mean_of(parts) == {"a": 2.0, "b": [3.0, None], "c": "x"}
    assert mean_of([{"a": 1.0}, {"a": None}]) == {"a": None}
