"""Ranges that fill the budget, on devices that are made up."""

import json
import math
import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks.made_up_devices import H100, ORIN_NANO, TWO_CORES, latencies, piece_ms
from flaxyolo.config import read_config
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.table import file as latency_file
from flaxyolo.cost.table import table as latency
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.search import ranges as screening
from flaxyolo.search.ranges import (
    LADDER,
    USUAL,
    choose_ranges,
    enough_sizes,
    screened_ranges,
    store_ranges,
    stored_ranges,
    worth_climbing,
)
from flaxyolo.search.screen import draw
from flaxyolo.search.space import (
    REFERENCE,
    Ranges,
    image_sizes_for,
    reference_params,
    suggest_detector,
    with_ranges,
)
from tests.cost.test_measure import MEASUREMENT

ROOT = Path(__file__).parents[2]
CLASSES = 10


def chosen(device, budget_ms, longest, suggest=suggest_detector):
    judge = latencies(device)
    return choose_ranges(
        suggest, image_sizes_for(longest), lambda specs: judge(specs) / budget_ms, classes=CLASSES
    )


def shares(device, budget_ms, ranges, suggest=suggest_detector):
    """What share of the budget fresh draws use."""
    pool = draw(with_ranges(suggest, ranges), 200, 7)
    specs = [replace(each.spec, num_classes=CLASSES) for each in pool.drawn]
    return latencies(device)(specs) / budget_ms


def in_band(used):
    return np.mean((used >= 0.7) & (used <= 1))


CASES = [
    (TWO_CORES, 2, 192),
    (TWO_CORES, 8, 192),
    (TWO_CORES, 200, 192),
    (TWO_CORES, 8, 640),
    (TWO_CORES, 40, 640),
    (TWO_CORES, 1000, 640),
    (TWO_CORES, 1000, 1280),
    (ORIN_NANO, 2, 192),
    (ORIN_NANO, 8, 640),
    (ORIN_NANO, 30, 640),
    (ORIN_NANO, 30, 1280),
    (H100, 2, 640),
]


@pytest.mark.parametrize(
    ("device", "budget_ms", "longest"),
    CASES,
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_tenth_of_random_draws_uses_the_budget(device, budget_ms, longest):
    ranges = chosen(device, budget_ms, longest)
    assert in_band(shares(device, budget_ms, ranges)) >= 0.1
    assert f"at {', '.join(map(str, ranges.image_sizes))} px" in ranges.why


def test_the_baseline_is_the_same_network_where_it_fits():
    suggest = with_ranges(suggest_detector, chosen(TWO_CORES, 3.5, 192))
    assert reference_params(suggest) == REFERENCE


def test_the_largest_size_is_one_at_which_the_baseline_fits():
    ranges = chosen(TWO_CORES, 8, 640)
    usual = with_ranges(suggest_detector, Ranges(image_sizes_for(640)))
    baseline = replace(usual(optuna.trial.FixedTrial(reference_params(usual))), num_classes=CLASSES)
    sizes = image_sizes_for(640)
    larger = sizes[sizes.index(ranges.image_sizes[-1]) + 1]
    at = partial(replace, baseline)
    fits, over = latencies(TWO_CORES)(
        [at(image_size=ranges.image_sizes[-1]), at(image_size=larger)]
    )
    assert fits <= 8 < over
    assert f"at {larger} px the baseline alone would exceed it" in ranges.why
    assert chosen(TWO_CORES, 40, 640).image_sizes[-1] == 640


def test_the_ladder_ends_at_the_size_of_yolov8x():
    low, high, _ = LADDER[-1].widths
    largest = read_config(ROOT / "configs" / "yolov8x.yaml").detector.backbone.stages
    assert low == high == largest[0].width
    assert LADDER[-1].cap * high == largest[-1].width
    assert LADDER[-1].max_depths == tuple(stage.depth for stage in largest)
    ranges = chosen(H100, 30, 192)
    assert replace(ranges, image_sizes=(), why="") == LADDER[-1]
    assert ranges.why.endswith("nothing larger is tried")


def test_a_budget_that_nothing_keeps_gets_the_smallest():
    ranges = chosen(TWO_CORES, 0.05, 640)
    assert replace(ranges, image_sizes=(), why="") == LADDER[0]
    assert ranges.image_sizes == (64,)


@pytest.mark.parametrize("name", ["edge_cpu", "gpu", "small_objects"])
def test_narrow_spaces_grow_too(name):
    suggest = runpy.run_path(str(ROOT / "sweeps" / f"{name}.py"))["suggest"]
    device, budget_ms = (ORIN_NANO, 20) if name == "gpu" else (TWO_CORES, 100)
    usual = shares(device, budget_ms, Ranges((384, 512, 640)), suggest)
    ranges = chosen(device, budget_ms, 640, suggest)
    assert in_band(usual) < in_band(shares(device, budget_ms, ranges, suggest))
    assert in_band(shares(device, budget_ms, ranges, suggest)) >= 0.1


def test_what_a_space_has_decided_stays():
    suggest = partial(suggest_detector, image_sizes=(96, 128), max_depths=(1,))
    ranges = chosen(TWO_CORES, 20, 640, suggest)
    specs = [each.spec for each in draw(with_ranges(suggest, ranges), 60, 0).drawn]
    assert {spec.image_size for spec in specs} == {96, 128} == set(ranges.image_sizes)
    assert all(stage.depth == 1 for spec in specs for stage in spec.backbone.stages)
    assert min(spec.backbone.stages[0].width for spec in specs) >= 32
    sizes_only = chosen(TWO_CORES, 20, 640, lambda trial, image_sizes: suggest_detector(
        trial, image_sizes=image_sizes))  # fmt: skip
    assert replace(sizes_only, image_sizes=(), why="") == USUAL


def test_input_sizes_are_given_up_only_for_a_band_that_is_inhabited():
    assert enough_sizes({1: 0.4, 2: 0.3, 3: 0.3, 4: 0.25, 5: 0.21, 6: 0.19}) == 5
    assert enough_sizes({1: 0.4, 2: 0.3, 3: 0.25, 4: 0.15, 5: 0.13, 6: 0.1}) == 4
    assert enough_sizes({1: 0.4, 2: 0.15, 3: 0.05, 4: 0.01}) == 2
    assert enough_sizes({1: 0.08, 2: 0.02, 3: 0.0, 4: 0.0}) == 1
    assert enough_sizes({1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.0}) == 4
    assert enough_sizes({1: 0.0, 2: 0.0}) == 2


def test_ranges_are_kept_with_a_study():
    study = optuna.create_study()
    assert stored_ranges(study) is None
    ranges = Ranges((64, 96), (8, 16, 8), 6, (1, 2), "so")
    store_ranges(study, ranges)
    json.dumps(study.user_attrs)
    assert stored_ranges(study) == ranges


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A device of which nothing is known, on which calls cost more alone than in a network."""
    here = latency_file.conditions()
    judge = latencies(TWO_CORES)

    def measure(spec, **limits):
        (p50,) = judge([spec])
        same = {"device": here["device"], "dtype": here["dtype"], "versions": here["versions"]}
        return replace(MEASUREMENT, latency_ms_p50=p50, latency_ms_p95=1.2 * p50, **same)

    monkeypatch.setattr(screening, "measure", measure)
    # A batch for each rung, however fast the machine is.
    monkeypatch.setattr(screening, "LEARN_S", 0.0)
    monkeypatch.setattr(screening, "LEARN_IN_ALL_S", math.inf)
    monkeypatch.setattr(
        latency, "time_pieces", lambda batch: [1.8 * piece_ms(TWO_CORES, each) for each in batch]
    )
    return LatencyTable(tmp_path / "table.json")


@pytest.mark.parametrize("budget_ms", [4.0, 40.0])
def test_a_new_table_learns_what_it_needs(table, budget_ms):
    budget = Budget(latency_ms=budget_ms)
    made = partial(
        screened_ranges, suggest_detector, image_sizes_for(640), budget, table, classes=CLASSES
    )
    ranges = made()
    assert in_band(1.2 * shares(TWO_CORES, budget_ms, ranges)) >= 0.1
    assert len(table.contents.networks) == 1
    assert len(table.contents.pieces) <= 7 + screening.LEARN_BATCH * len(LADDER)


@pytest.mark.parametrize(
    ("budget", "count"), [(Budget(gflops=0.2), count_gflops), (Budget(params=3e5), count_params)]
)
def test_other_limits_are_screened_by_counting(table, monkeypatch, budget, count):
    monkeypatch.setattr(screening, "COUNTED_LADDER", LADDER[::4])
    monkeypatch.setattr(screening, "COUNTED_DRAWS", 12)
    monkeypatch.setattr(screening, "TRACED_DRAWS", 4)
    ranges = screened_ranges(suggest_detector, (128, 160), budget, table, classes=CLASSES)
    pool = draw(with_ranges(suggest_detector, ranges), 12, 3).drawn
    (limit,) = budget.limits.values()
    used = [count(replace(each.spec, num_classes=CLASSES)) / limit for each in pool]
    assert 0.25 < np.median(used) < 2.5
    assert not table.contents.pieces


def test_an_ignorant_table_chooses_nothing_far_from_what_it_measured(table, monkeypatch):
    monkeypatch.setattr(screening, "LEARN_IN_ALL_S", 0.0)
    ranges = screened_ranges(
        suggest_detector, image_sizes_for(192), Budget(latency_ms=8.0), table, classes=CLASSES
    )
    assert len(table.contents.pieces) <= 16 + screening.LEARN_BATCH
    assert np.median(1.2 * shares(TWO_CORES, 8.0, ranges)) < 2


def test_rungs_that_cannot_fill_the_budget_are_left_out():
    assert worth_climbing(1.0) == list(LADDER[1:])
    assert worth_climbing(0.01) == list(LADDER[11:])
    assert worth_climbing(1e-4) == LADDER[-1:]


def test_a_limit_of_memory_keeps_the_usual_ranges(table):
    ranges = screened_ranges(
        suggest_detector, image_sizes_for(320), Budget(vram_mib=50.0), table, classes=CLASSES
    )
    assert replace(ranges, image_sizes=(), why="") == USUAL
    assert len(ranges.image_sizes) == screening.SIZES
    assert not table.contents.pieces


def test_a_space_of_its_own_ranges_is_left_as_it_is(table):
    suggest = runpy.run_path(str(ROOT / "sweeps" / "tiny.py"))["suggest"]
    ranges = screened_ranges(
        suggest, image_sizes_for(640), Budget(latency_ms=8.0), table, classes=CLASSES
    )
    assert ranges.image_sizes == (64,)
    assert with_ranges(suggest, ranges) is suggest
    assert not table.contents.pieces
