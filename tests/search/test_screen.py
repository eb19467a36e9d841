"""Drawing thousands of specs, moving to neighbours, and judging them without compiling."""

import random
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.table import table as latency
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.search.screen import Drawn, RandomTrial, draw, judge, neighbours
from flaxyolo.search.space import load_space, reference_params, suggest_detector
from tests.cost.table.test_table import law
from tests.small import tiny_spec

SPACES = sorted((Path(__file__).parents[2] / "sweeps").glob("*.py"))


def one_number(trial):
    """A space of three points, two of them alike and two invalid ones beside."""
    depth = trial.suggest_int("depth", -1, 3)
    return replace(
        tiny_spec(),
        head=replace(tiny_spec().head, depth=depth if depth < 1 else 1 + depth // 3),
    )


def test_draws_are_different_and_the_same_for_a_seed():
    drawn = draw(suggest_detector, 200, 3).drawn
    assert len({each.spec for each in drawn}) == 200
    assert draw(suggest_detector, 200, 3).drawn == drawn
    assert draw(suggest_detector, 200, 4).drawn != drawn


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_study_makes_the_same_spec_from_drawn_parameters(path):
    suggest = load_space(path)
    study = optuna.create_study()
    for params, spec in draw(suggest, 10, 0).drawn:
        assert suggest(optuna.trial.FixedTrial(params)) == spec
        study.enqueue_trial(params)
        trial = study.ask()
        assert suggest(trial) == spec
        assert trial.params == params


def test_invalid_and_repeated_draws_are_counted_and_named():
    pool = draw(one_number, 10, 0)
    assert sorted(each.spec.head.depth for each in pool.drawn) == [1, 2]
    assert len(pool.invalid) == 2
    assert all(reason.startswith("depth: Input should be greater") for reason in pool.invalid)
    assert all(number > 50 for number in pool.invalid.values())
    assert pool.duplicates > 100


def test_a_draw_is_finished_as_the_sweep_wants_it():
    pool = draw(suggest_detector, 5, 0, finish=lambda spec: replace(spec, num_classes=7))
    assert {each.spec.num_classes for each in pool.drawn} == {7}


def test_numbers_lie_on_their_grid_and_reach_both_ends():
    seen = {"i": set(), "f": set(), "odd": set()}
    for seed in range(300):
        trial = RandomTrial(random.Random(seed))
        seen["i"].add(trial.suggest_int("i", 8, 24, step=8))
        seen["f"].add(trial.suggest_float("f", 1.5, 2.0, step=0.25))
        # 9 is above the last place of the grid.
        seen["odd"].add(trial.suggest_int("odd", 1, 9, step=3))
        assert 1 <= trial.suggest_int("log", 1, 1000, log=True) <= 1000
        assert 1e-4 <= trial.suggest_float("rate", 1e-4, 1e-1, log=True) <= 1e-1
        assert trial.suggest_int("i", 8, 24, step=8) == trial.params["i"]
    assert seen == {"i": {8, 16, 24}, "f": {1.5, 1.75, 2.0}, "odd": {1, 4, 7}}


def test_a_logarithmic_number_is_as_often_small_as_large():
    draws = [
        RandomTrial(random.Random(seed)).suggest_float("x", 0.01, 100.0, log=True)
        for seed in range(400)
    ]
    assert 0.4 < sum(value < 1 for value in draws) / 400 < 0.6


def test_neighbours_differ_in_one_or_two_answers():
    rng = random.Random(0)
    start = reference_params(suggest_detector)
    found = neighbours(start, suggest_detector, rng, 40)
    assert len(found) == len({each.spec for each in found}) == 40
    for params, spec in found:
        assert suggest_detector(optuna.trial.FixedTrial(params)) == spec
        shared = [name for name in start if name in params]
        assert sum(start[name] != params[name] for name in shared) <= 2
        # Without P5 there is no depth for it, and with P5 there is.
        assert ("c5.depth" in params) == (params["plan"] in ("P3-P5", "P2-P5"))
    assert {each.params["plan"] for each in found} > {"P3-P5"}


def test_a_neighbour_has_the_answers_that_a_change_asks_for():
    start = reference_params(suggest_detector, {"plan": "P3-P4"})
    assert "c5.depth" not in start
    found = neighbours(start, suggest_detector, random.Random(1), 60)
    deeper = [each.params for each in found if each.params["plan"] == "P3-P5"]
    assert deeper
    assert all(1 <= params["c5.depth"] <= 2 for params in deeper)


def test_a_space_of_one_point_has_no_neighbours():
    assert neighbours({}, lambda trial: tiny_spec(), random.Random(0), 3) == []


def test_judging_gives_latency_and_exact_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "time_pieces", lambda batch: [law(p.key) for p in batch])
    table = LatencyTable(tmp_path / "table.json")
    drawn = [Drawn({"a": 1}, tiny_spec()), Drawn({"a": 2}, tiny_spec(image_size=128))]
    judged = judge(drawn, table)
    assert [each.params for each in judged] == [{"a": 1}, {"a": 2}]
    assert judged[0].latency.p50_ms < judged[1].latency.p50_ms
    assert judged[1].parameters == count_params(tiny_spec())
    assert judged[1].gflops == count_gflops(tiny_spec(image_size=128))
    assert judge(drawn, table, counts=False)[0].gflops is None


@pytest.mark.slow
def test_two_thousand_draws_are_judged_within_a_minute(tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "time_pieces", lambda batch: [law(p.key) for p in batch])
    table = LatencyTable(tmp_path / "table.json")
    began = time.monotonic()
    drawn = draw(suggest_detector, 2000, 0).drawn
    assert len(judge(drawn, table, counts=False)) == 2000
    assert time.monotonic() - began < 60
