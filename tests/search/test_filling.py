"""What the data advise, grown into the budget, by a table whose times are known."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from optuna.trial import FixedTrial

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.table.table import LatencyTable, Prediction
from flaxyolo.search import filling
from flaxyolo.search.filling import filled
from flaxyolo.search.space import Ranges, reference_params, suggest_detector, with_ranges
from tests.search.made import COST
from tests.search.test_propose import Counted, Known, made

SUGGEST = with_ranges(suggest_detector, Ranges((96, 128), (16, 64, 8), 6, (2, 3, 3, 2)))


class ByWidth(Known):
    """A network takes half a millisecond for each eight channels of C2 and for each layer."""

    def measure(self, specs):
        return 0

    def predict(self, specs):
        stages = [spec.backbone.stages for spec in specs]
        times = [each[0].width / 16 + sum(stage.depth for stage in each) / 2 for each in stages]
        return [Prediction(each, 1.2 * each, 0.05, 0.05, 10.0) for each in times]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, SUGGEST, ByWidth, latency_ms=6.0)
    monkeypatch.setattr(filling.LatencyTable, "open", lambda **_: table)
    return proposer.sweep


@pytest.fixture
def looks(monkeypatch):
    """What was measured; every network takes so many times what the table says."""
    seen, factors = [], [1.0]

    def measure(sweep, spec):
        (expected,) = LatencyTable.open().predict([spec])
        ms = expected.p95_ms * factors[min(len(seen), len(factors) - 1)]
        seen.append((spec, ms))
        return replace(COST, latency_ms_p50=ms / 1.2, latency_ms_p95=ms)

    monkeypatch.setattr(filling, "_measured", measure)
    return SimpleNamespace(seen=seen, factors=factors)


def test_what_leaves_room_grows_into_the_band(sweep, looks):
    before = reference_params(SUGGEST, {"neck.kind": "pan", "image_size": 96})
    after, cost, over = filled(sweep, before)
    assert 0.8 * 6 <= cost.latency_ms_p95 <= 0.9 * 6
    assert not over
    assert len(looks.seen) == 1
    same = ("image_size", "plan", "neck.kind", "neck.block", "early.block", "late.block")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert filled(sweep, before).params == after, "the same each time"


def test_of_those_that_were_measured_the_fullest_that_fits_is_taken(sweep, looks):
    looks.factors[:] = [1.4, 1.35]
    after, cost, ((too_large, its_cost),) = filled(sweep, reference_params(SUGGEST))
    (_, first), (spec, second) = looks.seen
    assert first > 6 > second
    assert (cost.latency_ms_p95, its_cost.latency_ms_p95) == (second, first)
    assert SUGGEST(FixedTrial(too_large)).backbone == looks.seen[0][0].backbone
    assert replace(SUGGEST(FixedTrial(after)), num_classes=spec.num_classes) == spec


def test_what_does_not_fit_at_all_stays(sweep, looks):
    looks.factors[:] = [9.0]
    before = reference_params(SUGGEST)
    after, cost, over = filled(sweep, before)
    assert (after, cost, len(over)) == (before, None, filling.LOOKS)
    assert len(looks.seen) == filling.LOOKS


def test_the_same_is_measured_once(sweep, looks):
    fill = filling.Filler(sweep)
    assert fill(reference_params(SUGGEST)) == fill(reference_params(SUGGEST))
    assert len(looks.seen) == 1


def test_without_a_limit_of_what_is_known_nothing_grows(sweep, looks):
    before = reference_params(SUGGEST)
    assert filled(replace(sweep, budget=Budget(vram_mib=9.0)), before) == (before, None, ())
    assert not looks.seen


def test_gflops_and_parameters_are_used_without_measuring(tmp_path, monkeypatch):
    proposer, table = made(tmp_path, monkeypatch, SUGGEST, Counted, gflops=0.4, params=2e6)
    monkeypatch.setattr(filling.LatencyTable, "open", lambda **_: table)
    sweep, before = proposer.sweep, reference_params(SUGGEST)
    after, cost, over = filled(sweep, before)
    assert cost is None
    assert not over
    spec = SUGGEST(FixedTrial(after))
    used = count_gflops(spec) / 0.4, count_params(spec) / 2e6
    assert 0.85 <= max(used) <= 1.0
    assert spec.image_size == SUGGEST(FixedTrial(before)).image_size
    tight = replace(sweep, budget=Budget(gflops=0.01))
    assert filled(tight, before) == (before, None, ()), "nothing fits"


def test_beside_a_latency_parameters_are_kept(sweep, looks):
    before, table = reference_params(SUGGEST, {"image_size": 96}), LatencyTable.open()
    most = 1.2 * table.count([SUGGEST(FixedTrial(before))])[0].params
    for budget in (Budget(latency_ms=9.0), Budget(latency_ms=9.0, params=most)):
        filled(replace(sweep, budget=budget), before)
    alone, *limited = table.count([spec for spec, _ in looks.seen])
    assert alone.params > most
    assert limited
    assert all(each.params <= most for each in limited)


def test_pieces_of_what_would_be_measured_are_known_first(sweep, looks, monkeypatch):
    table, asked = LatencyTable.open(), []

    def measure(specs):
        asked.extend(specs)
        return 3 if len(asked) == 1 else 0

    monkeypatch.setattr(table, "measure", measure)
    filled(sweep, reference_params(SUGGEST))
    assert len(asked) == 2
    assert asked[-1] == looks.seen[0][0]
