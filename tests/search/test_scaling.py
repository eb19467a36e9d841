"""The YOLOv8 that a budget holds, by a table whose times are known."""

import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.table.file import Count
from flaxyolo.cost.table.table import LatencyTable, Prediction
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.controls import SCALED
from flaxyolo.search.family import DEPTHS, WIDTHS, scaled
from flaxyolo.search.scaling import scaled_control, wanted_size
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.statistics.rules import Advice
from tests.search.made import result
from tests.tiny_data import write_coco


def work(spec):
    """Of all stages, in the unit of multiply-adds of a thousand per pixel."""
    stages = spec.backbone.stages
    return spec.image_size**2 * sum(stage.depth * stage.width for stage in stages)


class Known(LatencyTable):
    """A device whose milliseconds are the work, and twice that once it was looked at closely."""

    slower = 1.0

    def count(self, specs):
        return [Count(work(spec) // spec.image_size, 1000 * work(spec)) for spec in specs]

    def predict(self, specs):
        times = [self.slower * work(spec) / 1e6 for spec in specs]
        return [Prediction(each, 1.5 * each, 0.05, 0.05, 10.0) for each in times]


@pytest.fixture
def table(tmp_path):
    return Known(tmp_path / "table.json")


def sweep_of(tmp_path, advised=None, **limits):
    if not (tmp_path / "data").exists():
        write_coco(tmp_path / "data")
    source = f"coco:{tmp_path / 'data'}"
    advice = () if advised is None else (Advice("image_size", advised, "", 0.0, ""),)
    return Sweep(
        suggest=suggest_detector,
        budget=Budget(**limits),
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "runs" / "s",
        spending=Spending(9, 9, 9, 1, (0,), controls=True),
        advice=advice,
    )


def none(drawn, seed):
    """Fills nothing."""


def largest(size, limit):
    """The work of the largest member that takes so many milliseconds (p50)."""
    family = [scaled(width, depth, size, 2) for width in WIDTHS for depth in DEPTHS]
    return max(work(spec) for spec in family if work(spec) / 1e6 <= limit)


def test_it_is_the_largest_member_inside_the_budget_at_the_advised_size(tmp_path, table):
    sweep = sweep_of(tmp_path, advised=160, latency_ms=60.0, latency_stat="p50")
    record = scaled_control(sweep, [], table, none)
    assert record.origin == SCALED
    assert record.spec.image_size == 160
    assert work(record.spec) == largest(160, 60.0)
    assert record.predicted_ms == work(record.spec) / 1e6
    assert record.params["image_size"] == 160
    assert record.spec.num_classes == 2
    by_p95 = scaled_control(sweep_of(tmp_path, 160, latency_ms=60.0), [], table, none)
    assert work(by_p95.spec) == largest(160, 40.0)


def test_without_advice_its_size_is_the_baselines(tmp_path):
    assert wanted_size(sweep_of(tmp_path, latency_ms=1.0)) == 128
    assert wanted_size(sweep_of(tmp_path, advised=170, latency_ms=1.0)) == 160


def test_where_none_fits_at_that_size_the_next_smaller_one_is_taken(tmp_path, table):
    narrowest = scaled(8, 1 / 3, 128, 2)
    limit = 0.99 * work(narrowest) / 1e6
    sweep = sweep_of(tmp_path, advised=160, latency_ms=limit, latency_stat="p50")
    assert scaled_control(sweep, [], table, none).spec.image_size == 96
    assert scaled_control(sweep_of(tmp_path, latency_ms=1e-6), [], table, none) is None


def test_it_is_chosen_again_once_its_blocks_were_measured(tmp_path, table):
    def fill(drawn, seed):
        assert drawn, "the members that seemed to fit"
        table.slower = 2.0

    sweep = sweep_of(tmp_path, advised=160, latency_ms=60.0, latency_stat="p50")
    assert work(scaled_control(sweep, [], table, fill).spec) == largest(160, 30.0)


def test_one_that_was_over_the_budget_is_followed_by_one_smaller_by_as_much(tmp_path, table):
    sweep = sweep_of(tmp_path, advised=160, latency_ms=60.0, latency_stat="p50")
    first = scaled_control(sweep, [], table, none)
    over = result(
        0, "pruned", origin=SCALED, spec=first.spec, constraints={"latency_ms": 0.25, "params": -1}
    )
    second = scaled_control(sweep, [over], table, none)
    assert 0.5 * work(first.spec) < work(second.spec) < work(first.spec) / 1.25


def test_limits_of_parameters_and_gflops_are_kept(tmp_path, table):
    limit = 2 * 1000 * largest(160, 20.0) / 1e9
    sweep = sweep_of(tmp_path, advised=160, gflops=limit)
    assert work(scaled_control(sweep, [], table, none).spec) == largest(160, 20.0)
    sweep = sweep_of(tmp_path, advised=160, params=work(scaled(16, 1 / 3, 160, 2)) / 160)
    record = scaled_control(sweep, [], table, none)
    assert work(record.spec) <= work(scaled(16, 1 / 3, 160, 2))
