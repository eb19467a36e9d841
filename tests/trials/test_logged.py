"""The trainings of a sweep, as loggers see them."""

import csv

import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import FINAL, CurvePoint, Record
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.training.follow import Followers
from flaxyolo.trials.logged import figures, follow, name, rows, settings
from tests.search.made import COST
from tests.small import tiny_spec
from tests.trials.test_published import SCORES

LOSS = {"box": 1.0, "cls": 1.0, "dfl": 1.0}


@pytest.fixture
def sweep(tmp_path):
    from flaxyolo.data.sources import read_dataset
    from tests.tiny_data import write_coco

    return Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0),
        data=read_dataset(f"coco:{write_coco(tmp_path / 'data')}"),
        source="coco:data",
        folder=tmp_path / "study",
        spending=Spending(trials=2, short_epochs=3, epochs=9, finalists=1, seeds=(0,)),
    )


def record(number, *epochs, state="running", **facts):
    points = tuple(
        CurvePoint(e, 0.1 * e, LOSS, map=0.01 * e, map_50=0.02 * e, epoch_seconds=2.0, val_loss=5.0)
        for e in epochs
    )
    known = {"spec": tiny_spec(), "cost": COST, "scores": SCORES if points else None}
    return Record(number, state, history=points, network=number, **(known | facts))


def test_an_epoch_has_the_names_of_a_single_training(sweep):
    (first, early), (last, late) = rows(record(0, 1, 3), sweep)
    assert (first, last) == (1, 3)
    assert early["val/map"] == 0.01
    assert "val/map_small" not in early, "only the last scores are kept whole"
    assert late["val/map_small"] == 0.25
    assert late["train/box_loss"] == late["train/class_loss"] == 1.0
    assert late["images_per_second"] == 6.0
    assert (late["val/loss"], late["val/objective"]) == (5.0, pytest.approx(0.3))


def test_what_a_network_costs_has_the_studys_names():
    known = figures(record(0, 1))
    assert {"latency_ms_p50", "vram_mib", "params", "gflops"} <= known.keys()


def test_settings_tell_where_a_training_comes_from(sweep):
    told = settings(record(0, origin="advised", params={"width": 8}), sweep)
    assert told["origin"] == "advised"
    assert told["params"] == {"width": 8}
    assert told["budget"] == sweep.budget.describe()


def tables(sweep):
    folder = sweep.folder / "metrics"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_each_training_is_a_run_and_each_only_once(sweep):
    sweep.folder.mkdir()
    found = [
        record(0, 1, 3, state="complete", run="a"),
        record(1, state="pruned"),
        record(2),
        record(3, 1, duplicate_of=0, state="pruned"),
        record(4, 9, stage=FINAL, finalist=0, seed=0, run="b"),
        # The candidate's own run, which counts as a finalist's too.
        record(5, 3, stage=FINAL, finalist=0, seed=1, run="a", state="complete"),
    ]
    with Followers(["csv"], sweep.folder, "study") as logs:
        for _ in range(2):
            follow(logs, found, sweep, shared=False)
        assert not logs.failed
    assert tables(sweep) == ["trial-0.csv", "trial-1.csv", "trial-4-seed-0.csv"]
    lines = (sweep.folder / "metrics" / "trial-0.csv").read_text().splitlines()
    table = list(csv.DictReader(lines))
    assert [row["epoch"] for row in table] == ["1", "3"]
    assert [row["gflops"] for row in table] == ["", str(COST.gflops)]
    # One that was over the budget was never trained, and has its cost.
    (row,) = csv.DictReader((sweep.folder / "metrics" / "trial-1.csv").read_text().splitlines())
    assert row == {"epoch": "0", **{key: str(value) for key, value in figures(found[1]).items()}}


def test_of_a_shared_study_each_machine_logs_what_it_trained(sweep):
    (sweep.runs / "here").mkdir(parents=True)
    found = [record(0, 1, run="here"), record(1, 1, run="elsewhere"), record(2, state="pruned")]
    with Followers(["csv"], sweep.folder, "study") as logs:
        follow(logs, found, sweep, shared=True)
    assert tables(sweep) == ["trial-0.csv"]


def test_a_finalists_run_is_named_by_its_network_and_its_seed():
    assert name(record(7)) == "trial-7"
    assert name(record(7, stage=FINAL, seed=2)) == "trial-7-seed-2"
