"""What the data advise is tried first, and judged by the trials that tested it."""

from dataclasses import replace

import optuna
import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.storage import open_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.advised import (
    BASELINE,
    affordable_sizes,
    enqueue_opening,
    learn,
    opening,
    verdicts,
)
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import results
from flaxyolo.search.space import REFERENCE, Ranges, suggest_detector, with_ranges
from flaxyolo.statistics.rules import Advice
from tests.search.made import COST, final, result
from tests.tiny_data import write_coco


def piece(key, value):
    return Advice(key, value, "why", 0.5, "a source")


ADVICE = (
    piece("image_size", 160),
    piece("plan", "P3-P4"),
    piece("next_image_size", 192),
    piece("neck.kind", "pan"),
    piece("slots.boxes", 32),
)


def test_a_study_begins_with_the_baseline_and_what_the_data_advise():
    found = opening(suggest_detector, ADVICE)
    assert list(found) == [
        BASELINE,
        "advised",
        "advised at the next resolution",
        "advised with P2",
    ]
    assert found[BASELINE] == REFERENCE
    advised = {"image_size": 160, "plan": "P3-P4", "neck.kind": "pan"}
    without_p5 = {key: value for key, value in REFERENCE.items() if key != "c5.depth"}
    assert found["advised"] == without_p5 | advised
    assert found["advised with P2"] == without_p5 | advised | {"plan": "P2-P4"}
    assert found["advised at the next resolution"]["image_size"] == 192


def test_what_a_space_does_not_have_makes_no_candidate_of_its_own():
    def narrow(trial):
        trial.suggest_categorical("image_size", [128])

    assert list(opening(narrow, ADVICE)) == [
        "baseline = advised = advised at the next resolution = advised with P2"
    ]
    assert list(opening(suggest_detector, ())) == [BASELINE]


@pytest.fixture
def study(tmp_path):
    made = open_study(tmp_path / "s")
    enqueue_opening(made, suggest_detector, ADVICE)
    return made


def test_the_opening_is_enqueued_once(study):
    enqueue_opening(study, suggest_detector, ADVICE)
    assert len(study.trials) == 4
    trial = study.ask()
    suggest_detector(trial)
    assert trial.user_attrs["origin"] == BASELINE
    assert trial.params == REFERENCE


def test_all_but_the_baseline_are_filled(study, tmp_path):
    def wider(params):
        return {**params, "width": 24}, COST, ()

    made = optuna.create_study()
    enqueue_opening(made, suggest_detector, ADVICE, None, wider)
    told = [trial.user_attrs["origin"] for trial in made.trials]
    widths = [trial.system_attrs["fixed_params"]["width"] for trial in made.trials]
    assert len(told) == len(study.trials)
    assert dict(zip(told, widths, strict=True))[BASELINE] == 16
    assert set(widths[1:]) == {24}
    costs = [result.cost for result in results(made)]
    assert costs == [None, *[COST] * (len(told) - 1)], "what was measured is not measured again"


def test_the_next_smaller_resolution_is_the_grown_one_but_for_its_size():
    made = optuna.create_study()
    advice = (piece("image_size", 160), piece("plan", "P3-P5"), piece("next_image_size", 128))
    enqueue_opening(
        made, suggest_detector, advice, None, lambda params: ({**params, "width": 24}, COST, ())
    )
    asked = {
        trial.user_attrs["origin"]: trial.system_attrs["fixed_params"] for trial in made.trials
    }
    smaller = "advised at the next resolution"
    assert asked[smaller] == asked["advised"] | {"image_size": 128}
    costs = {result.origin: result.cost for result in results(made)}
    assert (costs["advised"], costs[smaller]) == (COST, None)


def test_advice_that_is_the_baseline_is_a_candidate_of_its_own_once_filled():
    made, same = optuna.create_study(), (piece("plan", "P3-P5"),)
    enqueue_opening(
        made, suggest_detector, same, None, lambda params: ({**params, "width": 24}, COST, ())
    )
    told = {trial.user_attrs["origin"]: trial.system_attrs["fixed_params"]["width"]
            for trial in made.trials}  # fmt: skip
    assert told == {BASELINE: 16, "advised": 24, "advised with P2": 24}
    alike = optuna.create_study()
    enqueue_opening(alike, suggest_detector, same)
    assert [trial.user_attrs["origin"] for trial in alike.trials] == [
        "baseline = advised",
        "advised with P2",
    ]


def test_what_was_too_large_on_the_way_is_in_the_study_and_no_advice():
    made, same = optuna.create_study(), (piece("plan", "P3-P5"),)
    large = replace(COST, latency_ms_p95=11.0)

    def fill(params):
        return {**params, "width": 24}, COST, [({**params, "width": 40}, large)]

    enqueue_opening(made, suggest_detector, same, None, fill)
    found = {result.origin: result for result in results(made)}
    assert list(found) == [BASELINE, "advised", "advised, too large", "advised with P2",
                           "advised with P2, too large"]  # fmt: skip
    assert found["advised, too large"].cost == large
    trained = [replace(result, state="pruned", history=(CurvePoint(1, 0.5),))
               for result in found.values()]  # fmt: skip
    assert [one.advice for one in verdicts(trained, Objective())] == [
        "advised beats the baseline", "advised with P2 is no better than advised"
    ]  # fmt: skip


def finish(study, history, reason=None):
    """The next trial, scored after some epochs."""
    trial = study.ask()
    suggest_detector(trial)
    rows = [{"epoch": epoch, "objective": value} for epoch, value in history.items()]
    trial.set_user_attr("history", rows)
    if reason is None:
        study.tell(trial, max(history.values()))
    else:
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def test_advice_is_judged_at_the_last_epoch_that_both_reached(study):
    finish(study, {3: 0.1, 6: 0.5, 10: 0.9})
    finish(study, {3: 0.2, 6: 0.4}, "behind after 6 of 10 epochs")
    finish(study, {3: 0.3, 6: 0.45, 10: 0.6})
    finish(study, {}, "over budget by 1.20 ms")
    lines = [verdict.line() for verdict in verdicts(results(study), Objective())]
    assert lines == [
        "advised beats the baseline: did not hold; trial 1 has 0.400, trial 0 0.500 after epoch 6 "
        "(map_small + map_medium + map_large, one run each)",
        "advised at the next resolution is no better than advised: did not hold; trial 2 has "
        "0.450, trial 1 0.400 after epoch 6 (map_small + map_medium + map_large, one run each)",
        "advised with P2 is no better than advised: not tested; trial 3: over budget by 1.20 ms",
    ]


def test_the_funnels_own_candidates_are_no_advice():
    found = [
        result(number, "complete", [(3, 0.5)], origin=origin)
        for number, origin in enumerate((BASELINE, "advised", "explore", "surrogate"))
    ]
    assert len(verdicts(found, Objective())) == 1


def test_full_runs_count_before_the_short_ones():
    def tried(number, origin, state="pruned"):
        return result(number, state, [(3, 0.5 - 0.1 * number)], origin=origin, paused=3)

    found = [tried(0, BASELINE), tried(1, "advised", "waiting")]
    (verdict,) = verdicts(found, Objective())
    assert "did not hold; trial 1 has 0.400, trial 0 0.500 after epoch 3" in verdict.line()
    found += [final(2, 0, 0, 0.6), final(3, 1, 0, 0.7), final(4, 1, 1, 0.8)]
    (verdict,) = verdicts(found, Objective())
    assert verdict.held
    assert "full runs of trial 1 have 0.750, of trial 0 0.600 (means of 2 and 1)" in verdict.why


def test_scores_of_networks_that_have_learnt_nothing_are_no_verdict(study):
    finish(study, {3: 0.009, 10: 0.03})
    finish(study, {3: 0.002}, "behind after 3 of 10 epochs")
    (verdict,) = verdicts(results(study), Objective())
    assert verdict.held is None
    assert "neither has learnt enough to tell: trial 1 has 0.002" in verdict.line()


def test_advice_that_was_not_tried_yet_has_no_verdict(study):
    assert verdicts(results(study), Objective()) == []
    finish(study, {10: 0.9})
    assert verdicts(results(study), Objective()) == []


def test_advice_that_names_the_baseline_is_not_tested_by_it(tmp_path):
    study = open_study(tmp_path / "s")
    same = (piece("image_size", 128), piece("plan", "P3-P5"))
    enqueue_opening(study, suggest_detector, same)
    finish(study, {10: 0.9})
    (verdict,) = verdicts(results(study), Objective())
    assert verdict.held is None
    assert "the same candidate (trial 0)" in verdict.line()


def test_statistics_are_taken_once_and_again_where_they_are_damaged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    data = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    first = learn(data, (64, 96), 16)
    (kept,) = (tmp_path / "cache").glob("statistics-*.json")
    written = kept.stat().st_mtime_ns
    assert learn(data, (64, 96), 16) == first
    assert kept.stat().st_mtime_ns == written
    kept.write_text("{")
    assert learn(data, (64, 96), 16) == first
    assert "is damaged and is made again" in caplog.text
    assert kept.stat().st_size > 100


def by_pixels(specs):
    """A made-up latency: 4 ms, and 16 more at 640 px."""
    return [4 + 16 * (spec.image_size / 640) ** 2 for spec in specs]


SIZES = (128, 320, 640)


def test_the_share_of_the_budget_is_the_reference_networks_at_each_size():
    suggest = with_ranges(suggest_detector, Ranges(SIZES))
    asked = []

    def predict(specs):
        asked.append(specs)
        return by_pixels(specs)

    found = affordable_sizes(predict, suggest, SIZES, Budget(latency_ms=20.0))
    assert found == {128: pytest.approx(0.232), 320: pytest.approx(0.4), 640: pytest.approx(1)}
    (specs,) = asked
    assert [spec.image_size for spec in specs] == list(SIZES)
    assert {spec.backbone.stages[0].width for spec in specs} == {REFERENCE["width"]}


def test_the_tightest_of_latency_and_operations_counts():
    suggest = with_ranges(suggest_detector, Ranges(SIZES))
    specs = []
    budget = Budget(latency_ms=20.0)
    affordable_sizes(lambda asked: specs.extend(asked) or by_pixels(asked), suggest, SIZES, budget)
    limit = count_gflops(specs[-1])
    operations = affordable_sizes(by_pixels, suggest, SIZES, Budget(gflops=limit))
    assert operations[640] == pytest.approx(1)
    assert operations[320] == pytest.approx(0.25, rel=0.01)
    both = affordable_sizes(by_pixels, suggest, SIZES, Budget(latency_ms=20.0, gflops=limit))
    assert both[320] == pytest.approx(0.4)
    assert affordable_sizes(by_pixels, suggest, SIZES, Budget(params=1e6)) is None
    assert affordable_sizes(by_pixels, suggest, (), budget) is None


def test_a_space_with_sizes_of_its_own_is_asked_for_others_all_the_same():
    own = with_ranges(suggest_detector, Ranges((96,)))
    found = affordable_sizes(by_pixels, own, SIZES, Budget(latency_ms=20.0))
    assert found[640] == pytest.approx(1)


def test_the_budget_changes_the_advice_and_not_the_statistics(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path / "cache"))
    data = read_dataset("digits")
    sizes = (96, 128, 160, 192)
    advised = [
        {each.key: each.value for each in learn(data, sizes, 16, affordable)}["image_size"]
        for affordable in (None, dict.fromkeys(sizes, 0.1), {96: 0.2, 128: 0.5, 160: 0.8, 192: 1})
    ]
    assert advised == [192, 192, 128]
    assert len(list((tmp_path / "cache").glob("statistics-*.json"))) == 1
