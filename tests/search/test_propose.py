"""Candidates in the band under the budget, by a table whose times are known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FixedTrial

from benchmarks.made_up_devices import TWO_CORES, latency, piece_ms
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops
from flaxyolo.cost.table import table as latency_table
from flaxyolo.cost.table.file import Count, conditions
from flaxyolo.cost.table.table import LatencyTable, Prediction
from flaxyolo.data.sources import read_dataset
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.detector import initial_weights
from flaxyolo.search import propose, shortlist
from flaxyolo.search.features import features
from flaxyolo.search.propose import Proposer
from flaxyolo.search.setting import Sweep
from flaxyolo.search.shortlist import CONFIDENCE, fullest, likely_first, short_list
from flaxyolo.search.space import (
    Ranges,
    load_space,
    reference_params,
    suggest_detector,
    with_ranges,
)
from flaxyolo.search.spending import Spending
from flaxyolo.weights.transfer import Source
from tests.cost.test_measure import MEASUREMENT
from tests.search.made import result
from tests.small import tiny_spec
from tests.tiny_data import SPACE, write_coco


class Known(LatencyTable):
    """A device on which a network takes a millisecond for each eighth of a million pixels."""

    def fill(self, specs, most, seed=0, batch=0):
        self.filled = len(specs)
        return 0

    def count(self, specs):
        widths = [sum(stage.width for stage in spec.backbone.stages) for spec in specs]
        return [Count(1000 * each, 10_000 * each) for each in widths]

    def predict(self, specs):
        times = [spec.image_size**2 / 125_000 * len(spec.backbone.stages) for spec in specs]
        return [Prediction(each, 1.2 * each, 0.05, 0.05, 10.0) for each in times]


class Counted(Known):
    """The same, and parameters and GFLOPs are the networks' own."""

    count = LatencyTable.count


class Learning(LatencyTable):
    """A table that learns from what it measures; only the counts are not the networks' own."""

    count = Known.count


def made(tmp_path, monkeypatch, suggest=suggest_detector, table=Known, **limits):
    write_coco(tmp_path / "data")
    source = f"coco:{tmp_path / 'data'}"
    table = table(tmp_path / "table.json")
    monkeypatch.setattr(propose.LatencyTable, "open", lambda **_: table)
    monkeypatch.setattr(propose, "POOL", 60)
    sweep = Sweep(
        suggest=suggest,
        budget=Budget(**limits),
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "runs" / "s",
        spending=Spending(trials=9, short_epochs=9, epochs=9, finalists=1, seeds=(0,)),
    )
    return Proposer(sweep, Gate("test", tmp_path)), table


def test_a_proposal_is_in_the_band_with_confidence(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, latency_ms=1.4)
    for turn in range(3):
        found = [result(number) for number in range(turn)]
        proposal = proposer.propose(found)
        spec = suggest_detector(FixedTrial(proposal.params))
        (latency,) = table.predict([spec])
        assert 0.7 * 1.4 <= latency.upper("p95", CONFIDENCE) <= 1.4
        assert proposal.predicted_ms == latency.p95_ms
        assert proposal.origin == "surrogate", "other data tell it something before any run"
        assert 0 < proposal.screened <= 60
    assert table.filled > 0


def test_of_its_own_data_a_study_is_told_nothing(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=1.4)
    assert [each.data for each in proposer.experience] == ["digits", "nuclei", "bccd"]
    proposer, _ = made(tmp_path / "more", monkeypatch, latency_ms=1.4)
    proposer.sweep = replace(proposer.sweep, source="digits")
    assert [each.data for each in proposer.experience] == ["nuclei", "bccd"]


def test_a_search_at_random_takes_any_of_the_band_and_learns_nothing(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, latency_ms=1.4)
    blind = replace(proposer.sweep.spending, blind=True)
    proposer.sweep = replace(proposer.sweep, spending=blind)
    assert blind.rungs == (9,), "all are trained to the end"
    drawn = []
    for turn in range(8):
        proposal = proposer.propose([result(number) for number in range(turn)])
        spec = suggest_detector(FixedTrial(proposal.params))
        (latency,) = table.predict([spec])
        assert 0.7 * 1.4 <= latency.upper("p95", CONFIDENCE) <= 1.4
        assert proposal.origin == propose.RANDOM
        drawn.append(proposal.params)
    again = proposer.propose([result(number, rungs=[(9, 0.9)]) for number in range(7)])
    assert again.params == drawn[7], "it does not ask what the others have scored"
    assert len({str(params) for params in drawn}) == 8


def test_a_search_at_random_keeps_to_the_band_of_what_is_limited(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, gflops=4e-3)
    proposer.sweep = replace(proposer.sweep, spending=replace(proposer.sweep.spending, blind=True))
    for turn in range(4):
        proposal = proposer.propose([result(number) for number in range(turn)])
        spec = suggest_detector(FixedTrial(proposal.params))
        widths = sum(stage.width for stage in spec.backbone.stages)
        assert 0.7 * 4e-3 <= 20_000 * widths / 1e9 <= 4e-3


def shares_used(proposer, device, turns, rng):
    """What share of the budget each of so many proposals takes; the baseline is measured first."""
    sweep, here = proposer.sweep, conditions()
    params, found = reference_params(sweep.suggest), []
    for number in range(turns + 1):
        spec = proposer._finish(sweep.suggest(FixedTrial(params)))
        p50 = latency(device, spec) * math.exp(rng.normal(0, 0.06))
        cost = replace(
            MEASUREMENT,
            latency_ms_p50=p50,
            latency_ms_p95=1.2 * p50,
            device=here["device"],
            dtype=here["dtype"],
            versions=here["versions"],
        )
        found.append(result(number, spec=spec, params=params, cost=cost, features={}))
        params = proposer.propose(found).params
    return [sweep.budget.latency_of(each.cost) / sweep.budget.latency_ms for each in found[1:]]


@pytest.mark.parametrize("factor", [0.7, 1.8])
def test_proposals_use_the_budget_from_the_first_on(tmp_path, monkeypatch, factor):
    """The sum of the pieces is far off, each by itself too, and no two calls are alike.

    Both seeds begin with a table that takes every network for the same. The mean of 24 proposals
    is about 0.9, and moves by 0.035 with what is drawn.
    """
    suggest = with_ranges(
        suggest_detector, Ranges((96, 128, 160, 192), (16, 32, 8), 6, (2, 4, 4, 2))
    )
    monkeypatch.setattr(propose, "FILL", 24)
    monkeypatch.setattr(propose, "FILL_BATCH", 24)
    used = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)

        def time_pieces(batch, rng=rng):
            known = [piece_ms(TWO_CORES, piece) for piece in batch]
            return [factor * each * math.exp(rng.normal(0, 0.15)) for each in known]

        monkeypatch.setattr(latency_table, "time_pieces", time_pieces)
        folder = tmp_path / str(seed)
        proposer, _ = made(folder, monkeypatch, suggest, Learning, latency_ms=6.0)
        monkeypatch.setattr(propose, "POOL", 300)
        used += shares_used(proposer, TWO_CORES, 12, rng)
    shares = np.array(used)
    assert shares.mean() >= 0.8
    assert (shares > 1).mean() <= 0.4


def test_the_fullest_of_the_band_are_listed():
    latency_ms = np.array([0.5, 0.72, 0.8, 0.92, 0.95, 1.0, 1.1])
    assert set(fullest(latency_ms, 1.0, 2)) == {3, 4, 5}
    assert set(fullest(latency_ms, 1.0, 4)) == {2, 3, 4, 5}
    assert set(fullest(latency_ms, 1.0, 9)) == {1, 2, 3, 4, 5}
    assert set(fullest(latency_ms, math.inf, 2)) == set(range(7))


def test_what_other_workers_measured_is_learnt_before_a_proposal(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, latency_ms=2.0)
    here = conditions()
    same = {"device": here["device"], "dtype": here["dtype"], "versions": here["versions"]}
    cost = replace(MEASUREMENT, **same)
    proposer.propose([result(0, cost=cost, spec=tiny_spec())])
    assert [each.spec for each in table.contents.networks.values()] == [tiny_spec()]


def test_where_none_is_expected_to_fit_the_nearest_is_tried(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=0.01)
    proposal = proposer.propose([])
    assert suggest_detector(FixedTrial(proposal.params)).image_size == 128


def test_other_limits_hold_before_anything_is_measured(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, table=Counted, gflops=0.1)
    monkeypatch.setattr(propose, "POOL", 12)
    proposal = proposer.propose([])
    spec = proposer._finish(suggest_detector(FixedTrial(proposal.params)))
    assert count_gflops(spec) <= 0.1
    assert not hasattr(table, "filled"), "nothing is timed without a limit of time"


@pytest.mark.parametrize("limit", ["gflops", "params"])
def test_what_is_limited_beside_the_latency_is_used_from_the_first_proposal_on(
    tmp_path, monkeypatch, limit
):
    proposer, _ = made(tmp_path, monkeypatch, **{limit: 4e-3 if limit == "gflops" else 2e5})
    monkeypatch.setattr(Proposer, "experience", ())
    found = []
    for turn in range(8):
        proposal = proposer.propose(found)
        assert proposal.origin in ("surrogate", "explore")
        spec = suggest_detector(FixedTrial(proposal.params))
        widths = sum(stage.width for stage in spec.backbone.stages)
        share = 20_000 * widths / 4e6 if limit == "gflops" else widths / 200
        assert 0.7 <= share <= 1
        (seen,) = propose.judge([propose.Drawn(proposal.params, spec)], proposer.table)
        found.append(
            result(
                turn, "complete", [(9, 0.1 + 0.05 * turn)], spec=spec, params=proposal.params,
                features=proposer._features(seen), screened=60,
            )
        )  # fmt: skip


def test_those_are_counted_first_that_are_likely_near_the_limit(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, gflops=2.0)
    judged = propose.judge(proposer._pool([], 0), proposer.table, counts=False)
    cost = replace(MEASUREMENT, gflops=1.0, latency_ms_p50=0.7)
    places = np.random.default_rng(0).permutation(len(judged))
    ordered = likely_first(places, judged, proposer.sweep.budget, [cost])
    near = [0.7 <= judged[place].latency.p50_ms <= 0.7 * 2 * 1.3 for place in ordered]
    assert near == sorted(near, reverse=True)
    assert 0 < sum(near) < len(near)
    for kind in (True, False):
        assert [place for place, of in zip(ordered, near, strict=True) if of == kind] == [
            place for place in places if (0.7 <= judged[place].latency.p50_ms <= 1.82) == kind
        ]
    assert likely_first(places, judged, proposer.sweep.budget, []) is places


def test_the_surrogate_takes_over_and_finds_what_scores(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=2.0)
    found = []
    for number in range(16):
        proposal = proposer.propose(found)
        spec = suggest_detector(FixedTrial(proposal.params))
        # Here the only thing that counts is the kind of neck.
        score = 0.5 if spec.neck.kind == "pan" else 0.1
        seen = features(spec, latency_ms=1.0, params=1e6, gflops=0.1)
        found.append(
            result(
                number, "complete", [(1, score), (3, score), (9, score)], spec=spec,
                params=proposal.params, features=seen, origin=proposal.origin,
            )
        )  # fmt: skip
    late = [each for each in found[4:] if each.origin == "surrogate"]
    assert len(late) >= 5
    assert sum(each.objective == 0.5 for each in late) >= 0.75 * len(late)


def test_a_space_that_was_tried_whole_has_no_proposal(tmp_path, monkeypatch):
    suggest = load_space(SPACE)
    proposer, _ = made(tmp_path, monkeypatch, suggest, latency_ms=1e4)
    monkeypatch.setattr(propose, "POOL", 500)
    found = []
    while (proposal := proposer.propose(found)) is not None:
        spec = proposer._finish(suggest(FixedTrial(proposal.params)))
        assert spec not in {each.spec for each in found}
        found += [result(len(found), spec=spec, params=proposal.params, features={})]
        found += [
            result(len(found) + place, spec=each.spec, params=each.params, features={})
            for place, each in enumerate(proposer._pool(found, 1)[5:])
        ]
    assert len({each.spec for each in found}) > 10


def test_results_of_an_earlier_study_of_the_same_data_count(tmp_path, monkeypatch):
    from flaxyolo.crew.storage import open_study

    proposer, _ = made(tmp_path, monkeypatch, latency_ms=2.0)
    sweep = proposer.sweep
    for name, fingerprint in (("same", sweep.data.fingerprint), ("other", "x")):
        study = open_study(tmp_path / "runs" / name)
        facts = {"fingerprint": fingerprint, "objective": sweep.objective.text}
        study.set_user_attr("facts", facts | {"schedule": {"short_epochs": 9}})
        for value in (0.1, 0.3):
            trial = study.ask()
            trial.set_user_attr("features", {"log_latency_ms": value})
            trial.set_user_attr("history", [{"epoch": 9, "objective": value}])
            study.tell(trial, value)
    (earlier,) = proposer.earlier
    assert [(each.score, each.share) for each in earlier] == [(0.1, 1.0), (0.3, 1.0)]


def test_a_trial_without_a_cost_teaches_nothing(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, latency_ms=2.0)
    proposer.learn(result(0, "running", cost=None, spec=tiny_spec()))
    assert table.contents.networks == {}


def with_parent(proposer, monkeypatch):
    """The same, in a sweep whose networks begin with the baseline's weights."""
    spec = proposer._finish(suggest_detector(FixedTrial(reference_params(suggest_detector))))
    parent = Source(Path("parent"), initial_weights(spec, 0), spec, ("a", "b"))
    proposer.sweep = replace(proposer.sweep, initial=parent)
    monkeypatch.setattr(propose, "RELATIVES", 60)
    return reference_params(suggest_detector)


def test_with_a_parent_two_of_three_proposals_grow_from_it(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=1.4)
    params = with_parent(proposer, monkeypatch)
    baseline = result(0, origin="baseline", params=params)
    for turn in range(1, 7):
        found = [baseline, *(result(number) for number in range(1, turn))]
        proposal = proposer.propose(found)
        near = proposal.origin.endswith(propose.RELATIVE)
        assert near == bool(turn % propose.WIDE_EACH)
        if near:
            other = [name for name, value in params.items() if isinstance(value, str)]
            assert sum(proposal.params[name] != params[name] for name in other) <= 1
            assert proposal.params["width"] >= params["width"]


def test_where_no_relative_comes_near_the_budget_the_whole_space_is_asked(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=1.4)
    with_parent(proposer, monkeypatch)
    for near in ("relatives", "neighbours"):
        monkeypatch.setattr(propose, near, lambda *given, **named: [])
    assert proposer.propose([result(0)]).origin == "explore"


def test_relatives_of_the_best_so_far_are_drawn_too(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=1.4)
    params = with_parent(proposer, monkeypatch)
    other = reference_params(suggest_detector, {"neck.kind": "pan", "late.block": "c2f"})
    found = [
        result(0, "complete", [(1, 0.4)], origin="baseline", params=params),
        result(1, "complete", [(1, 0.5)], params=other),
    ]
    kin = proposer._kin(found, 0)
    assert any(
        each.params["neck.kind"] == "pan" and each.params["late.block"] == "c2f" for each in kin
    )
    assert any(each.params["neck.kind"] == "fpn" for each in kin)


def test_relatives_are_proposed_without_a_limit_of_latency_too(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, table=Counted, gflops=1.0)
    with_parent(proposer, monkeypatch)
    assert proposer.propose([result(0)]).origin.endswith(propose.RELATIVE)


def scored(count):
    """Candidates of the default space that were scored, one of them not proposed."""
    found = []
    for number, each in enumerate(propose.draw(suggest_detector, count, 3).drawn):
        seen = features(each.spec, latency_ms=1.0 + number, params=1e6, gflops=0.1)
        found.append(
            result(
                number, "complete", [(9, (0.3, 0.1, 0.5)[number % 3])], spec=each.spec,
                params=each.params, features=seen, screened=60 * (number > 0),
            )
        )  # fmt: skip
    return found


def test_proposals_follow_from_the_study_and_apart_from_each_other_by_worker(tmp_path, monkeypatch):
    pools, proposals = [], []
    for place, index in enumerate((0, 0, 1)):
        proposer, _ = made(tmp_path / str(place), monkeypatch, latency_ms=1.4)
        proposer.index = index
        found = scored(6)
        proposal = proposer.propose(found)
        assert proposal.origin == "surrogate"
        proposals.append(proposal.params)
        # As after a restart: nothing hangs on how many proposals a process has made.
        assert proposer.propose(found).params == proposals[-1]
        pools.append({each.spec for each in proposer._pool(found, index + 1)})
    assert proposals[0] == proposals[1]
    assert proposals[0] != proposals[2]
    assert pools[0] == pools[1] != pools[2]


def test_the_table_is_filled_before_every_fourth_proposal_of_the_study(tmp_path, monkeypatch):
    filled = []
    for proposals in range(9):
        proposer, table = made(tmp_path / str(proposals), monkeypatch, latency_ms=1.4)
        proposer.propose([result(number, screened=60) for number in range(proposals)])
        filled.append(hasattr(table, "filled"))
    assert filled == [not proposals % propose.FILL_EACH for proposals in range(9)]


def test_the_short_list_ends_by_its_pieces(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, gflops=1e6)
    monkeypatch.setattr(shortlist, "LEAST_LIST", 5)
    judged = propose.judge(proposer._pool([], 0), proposer.table, counts=False)

    def length(most):
        return len(
            short_list(
                judged, proposer.sweep.budget, proposer.table, np.random.default_rng(0), most
            )
        )

    assert length(1) == 5, "a part at least"
    assert 5 < length(60) < length(10**6) == len(judged)
