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
    LEAN,
    USUAL,
    advised,
    choose_ranges,
    fillable,
    input_sizes,
    joined,
    nearest,
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


def at_reference(suggest, changed):
    """The space's nearest to the reference network with what is changed of it."""
    spec = suggest(optuna.trial.FixedTrial(reference_params(suggest, changed)))
    return replace(spec, num_classes=CLASSES)


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


@pytest.mark.parametrize(
    ("device", "budget_ms", "longest"),
    [*CASES, (TWO_CORES, 1000, 192), (H100, 8, 640), (H100, 30, 1280)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_what_is_advised_is_inside_the_budget_at_every_size(device, budget_ms, longest):
    ranges = chosen(device, budget_ms, longest)
    suggest, judge = with_ranges(suggest_detector, ranges), latencies(device)
    for size in ranges.image_sizes:
        fpn, pan = (
            at_reference(suggest, {"image_size": size, "plan": "P3-P5", "neck.kind": neck})
            for neck in ("fpn", "pan")
        )
        assert fpn.image_size == pan.image_size == size
        assert (judge([fpn, pan]) <= budget_ms).all()
    # The last of both are the largest.
    assert pan == advised(suggest_detector, ranges, CLASSES)
    usual = nearest(suggest_detector, ranges.image_sizes, CLASSES, at=ranges.image_sizes[-1])
    most = max(LEAN * budget_ms, judge([usual])[0])
    assert judge([fpn])[0] <= most


def test_a_small_input_may_have_wide_networks_where_a_large_one_has_narrow_ones():
    ranges = chosen(TWO_CORES, 40, 640)
    assert ranges.image_sizes == (320, 384, 512, 640)
    low, high, step = ranges.widths
    assert high >= 3 * low
    assert (high - low) % step == 0
    at_largest = chosen(TWO_CORES, 40, 640, partial(suggest_detector, image_sizes=(640,)))
    assert low <= at_largest.widths[0] <= at_largest.widths[1] < high


def test_ranges_are_joined_from_the_narrowest_to_the_largest():
    low, high = Ranges((), (24, 40, 8), 6, (2, 4, 4, 2)), Ranges((), (64, 96, 16), 4, (3, 6, 6, 3))
    assert joined(low, high) == Ranges((), (24, 96, 8), 4, (3, 6, 6, 3))
    assert joined(USUAL, USUAL) == USUAL
    assert joined(LADDER[0], LADDER[0]).max_depths == (2, 2, 2, 2)
    steps = [joined(low, high).widths for low in LADDER for high in LADDER[LADDER.index(low) :]]
    assert all((high - low) % step == 0 for low, high, step in steps)


def test_the_baseline_is_the_same_network_where_it_fits():
    suggest = with_ranges(suggest_detector, chosen(TWO_CORES, 3.5, 192))
    assert reference_params(suggest) == REFERENCE


def test_the_largest_size_leaves_room_beside_the_baseline():
    sizes, ranges = image_sizes_for(640), chosen(TWO_CORES, 8, 640)
    largest = ranges.image_sizes[-1]
    larger = sizes[sizes.index(largest) + 1]
    baseline = partial(nearest, suggest_detector, sizes, CLASSES)
    fits, over = latencies(TWO_CORES)([baseline(at=largest), baseline(at=larger)]) / 8
    assert fits <= 0.7 < over
    assert f"at {largest} px the baseline takes {100 * fits:.0f} %" in ranges.why
    assert f"at {larger} px one of 16 channels {100 * over:.0f} %" in ranges.why
    assert chosen(TWO_CORES, 40, 640).image_sizes[-1] == 640


def test_input_sizes_are_the_largest_that_are_paid_for():
    sizes = image_sizes_for(1280)
    baseline = nearest(suggest_detector, sizes, CLASSES)

    def taken(share_at_640, sizes=sizes):
        def used(specs):
            return np.array([share_at_640 * (spec.image_size / 640) ** 2 for spec in specs])

        return input_sizes(baseline, sizes, used)

    assert taken(0.01) == (640, 768, 960, 1280)
    assert taken(0.6) == (320, 384, 512, 640)
    assert taken(0.75) == (256, 320, 384, 512)
    assert taken(30) == (64, 96)
    assert taken(100) == (64,)
    assert taken(0.1, (96, 128, 160, 192)) == (96, 128, 160, 192)


def test_sizes_at_which_no_network_uses_the_budget_are_left_out():
    assert fillable(np.array([[0.2, 0.6, 0.9], [0.3, 0.65, 1.2]])) == 1
    assert fillable(np.array([[0.2, 0.5], [0.9, 1.4]])) == 2
    small, large = chosen(TWO_CORES, 200, 192), chosen(TWO_CORES, 1000, 192)
    assert small.image_sizes == large.image_sizes == (160, 192)
    assert "nothing larger is tried" not in small.why
    assert large.why.endswith("nothing larger is tried")


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
    assert replace(ranges, image_sizes=(), why="") == replace(LADDER[0], max_depths=(2, 2, 2, 2))
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
    monkeypatch.setattr(screening, "LEARN", screening.LEARN_BATCH)
    monkeypatch.setattr(screening, "LEARN_IN_ALL", math.inf)
    monkeypatch.setattr(
        latency, "time_pieces", lambda batch: [1.8 * piece_ms(TWO_CORES, each) for each in batch]
    )
    return LatencyTable(tmp_path / "table.json")


@pytest.mark.parametrize("budget_ms", [4.0, 40.0])
def test_a_new_table_learns_what_it_needs(table, budget_ms):
    budget = Budget(latency_ms=budget_ms)
    ranges = screened_ranges(suggest_detector, image_sizes_for(640), budget, table, classes=CLASSES)
    assert in_band(1.2 * shares(TWO_CORES, budget_ms, ranges)) >= 0.1
    suggest = with_ranges(suggest_detector, ranges)
    assert latencies(TWO_CORES)([advised(suggest, ranges, CLASSES)])[0] <= budget_ms
    assert 2 <= len(table.contents.networks) <= 1 + screening.CONFIRMED
    assert len(table.contents.pieces) <= 2 * 8 + screening.LEARN_BATCH * len(LADDER[::2])


def test_ranges_follow_from_the_advised_network_as_it_was_measured(table, tmp_path, monkeypatch):
    quick = screening.measure

    def measure(spec, **limits):
        """Twice what the pieces say, but for the first network."""
        made = quick(spec, **limits)
        slower = 2 if spec.image_size > REFERENCE["image_size"] else 1
        return replace(made, latency_ms_p50=slower * made.latency_ms_p50)

    monkeypatch.setattr(screening, "measure", measure)

    def advised_ms(table):
        ranges = screened_ranges(
            suggest_detector, (128, 160, 192), Budget(latency_ms=12.0), table, classes=CLASSES
        )
        return measure(advised(suggest_detector, ranges, CLASSES)).latency_ms_p50

    confirmed = advised_ms(table)
    monkeypatch.setattr(screening, "CONFIRMED", 0)
    believed = advised_ms(LatencyTable(tmp_path / "another.json"))
    assert confirmed <= 0.8 * 12 < believed


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
    monkeypatch.setattr(screening, "LEARN_IN_ALL", 0)
    monkeypatch.setattr(screening, "LEARN_MOST", 0)
    ranges = screened_ranges(
        suggest_detector, image_sizes_for(192), Budget(latency_ms=8.0), table, classes=CLASSES
    )
    assert len(table.contents.pieces) <= 16 + screening.LEARN_BATCH
    assert np.median(1.2 * shares(TWO_CORES, 8.0, ranges)) < 2


@pytest.mark.parametrize("budget_ms", [60.0, 200.0, 1000.0])
def test_where_pieces_take_long_it_climbs_on_while_networks_are_far_too_small(
    table, monkeypatch, budget_ms
):
    monkeypatch.setattr(screening, "LEARN_IN_ALL", 0)
    sizes, budget = image_sizes_for(640), Budget(latency_ms=budget_ms)
    ranges = screened_ranges(suggest_detector, sizes, budget, table, classes=CLASSES)
    used = 1.2 * shares(TWO_CORES, budget_ms, ranges)
    assert np.median(used) >= 0.3 or ranges.widths[1] == LADDER[-1].widths[1]
    assert np.median(used) <= 1.5


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
