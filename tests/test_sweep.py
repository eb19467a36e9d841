import csv
import json
import math
import re
import shutil

import cv2
import numpy as np
import pytest

import flaxyolo
from flaxyolo import sweep
from flaxyolo.base.errors import InputError
from flaxyolo.config import read_config
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import CHEAP, FINAL
from flaxyolo.crew.storage import read_runs, read_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.controls import SCALED
from flaxyolo.search.family import scaled
from flaxyolo.search.results import results
from flaxyolo.search.setting import Sweep, sweep_training
from flaxyolo.search.space import suggest_detector
from flaxyolo.spec import to_dict
from flaxyolo.trials import flags as sweep_flags
from flaxyolo.trials import run as trials_run
from flaxyolo.trials import standings
from flaxyolo.trials.answer import nothing_learnt
from flaxyolo.trials.flags import (
    HOURS,
    Flags,
    hours_of,
    load_space,
    objective_of,
    schedules,
    spending_of,
    study_name,
)
from flaxyolo.trials.run import tell_objective
from flaxyolo.weights.checkpoint import source_of
from tests.search.made import result
from tests.tiny_data import flags, tiny_command, tiny_study, write_coco


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    return tiny_study(tmp_path_factory)


@pytest.mark.slow
def test_a_sweep_leaves_the_table_the_best_detector_its_config_and_pictures(study):
    table = json.loads((study / "trials.json").read_text())
    assert len(table) == 2, "one row for each network"
    best = table[0]
    assert best["state"] == "complete"
    assert [run["stage"] for run in best["runs"]] == ["cheap", "final"]
    assert best["cost"]["latency_ms_p95"] > 0
    assert best["cost"]["train_vram_mib"] > 0
    assert {"map", "map_50", "map_small", "map_medium", "map_large"} <= set(best["scores"])
    assert best["scores"]["map_large"] is None
    assert {"measure", "compile", "train", "evaluate"} <= set(best["seconds"])
    assert {row["number"] for row in table} == {0, 1}
    for point in (run["history"][-1] for run in best["runs"]):
        assert point["val_loss"] > 0
        assert point["objective_se"] >= 0
    assert best["objective_se"] == best["runs"][-1]["objective_se"]

    detector = flaxyolo.load(study / "best")
    assert to_dict(detector.spec) == best["spec"]
    assert flaxyolo.load(str(study)).spec == detector.spec
    assert source_of(study / "best") == f"coco:{study.parents[1] / 'data'}"
    assert detector.class_names == ("blue", "red")
    assert len(detector(np.zeros((50, 80, 3), np.uint8)).boxes) >= 0
    config = read_config(study / "best.yaml")
    assert config.detector == detector.spec
    assert config.training == sweep_training(2)
    for picture in ("detections.png", "pareto.png"):
        assert cv2.imread(str(study / picture)).size > 0
    text = (study / "trials.md").read_text()
    assert text.count("\n| ") == 2 + 2
    assert "measured" in text
    errors = json.loads((study / "errors.json").read_text())
    assert set(errors) == {"errors", "confusion", "calibration"}
    confirmed = read_runs(study).user_attrs["confirmed"]
    assert [again["inside"] for again in confirmed.values()] == [True]
    assert not list(study.glob("trials/*/state"))


@pytest.mark.slow
def test_the_same_command_goes_on_to_a_larger_total_and_heals_the_outputs(
    study, capsys, monkeypatch
):
    base = study.parents[1]
    before = {result.number: result for result in results(read_runs(study))}
    (study / "trials.md").unlink()
    assert sweep.main(tiny_command(base)) == 0
    assert (study / "trials.md").exists()
    shown = capsys.readouterr()
    assert "trial 0:" not in shown.err
    assert "Nothing has learnt: trial 0 is first" in shown.out
    assert "python -m flaxyolo.stats coco:" in shown.out
    # As if two epochs had taught it something.
    monkeypatch.setattr(standings, "LEARNT", 0.0)
    assert sweep.main(tiny_command(base)) == 0
    shown = capsys.readouterr()
    told = shown.out.splitlines()
    assert told[0].startswith("Best: trial 0 (baseline), mAP "), "the answer comes first"
    assert re.match(r"It takes [0-9.]+ of 10000 ms p95 \(0%\), ", told[1])
    assert "python -m flaxyolo.train" in shown.out
    assert "the points of AP50 that each kind costs: " in shown.out
    assert f"python -m flaxyolo.dashboard {study}" in shown.out
    after = {result.number: result for result in results(read_runs(study))}
    assert after == before


@pytest.mark.slow
def test_a_study_that_is_complete_is_logged_by_the_same_command(study):
    command = [*tiny_command(study.parents[1]), "--log", "csv"]
    try:
        assert sweep.main(command) == 0
        tables = sorted(path.name for path in (study / "metrics").iterdir())
        # The finalist's run is the candidate's own.
        assert tables == ["trial-0.csv", "trial-1.csv"]
        table = list(csv.DictReader((study / "metrics" / "trial-0.csv").read_text().splitlines()))
        assert [row["epoch"] for row in table] == ["1", "2"], "those that were scored"
        assert all(float(row["train/box_loss"]) > 0 for row in table)
        assert table[0]["latency_ms_p50"] == ""
        assert float(table[1]["latency_ms_p50"]) > 0
    finally:
        shutil.rmtree(study / "metrics", ignore_errors=True)


@pytest.mark.slow
def test_a_study_is_not_mixed_with_another_budget(study, capsys):
    assert sweep.main([*tiny_command(study.parents[1]), "--budget-ms", "9999"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "the study was begun with other settings: budget was" in line


@pytest.mark.slow
def test_the_baseline_and_a_yolov8_are_trained_whole_and_compared_with(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(standings, "LEARNT", 0.0)
    write_coco(tmp_path / "data")
    command = flags(tmp_path, "--trials", "2", "--budget-params", "1000000", "--epochs", "1")
    command.remove("--no-controls")
    assert sweep.main([*command, "--final-epochs", "7"]) == 0
    shown = capsys.readouterr()
    assert "the best is meant to be trained for 7 epochs" in shown.err
    assert " --epochs 7 " in shown.out
    found = results(read_runs(tmp_path / "runs" / "tiny"))
    (control,) = (each for each in found if each.stage == CHEAP and each.origin == SCALED)
    assert control.spec == scaled(8, 1 / 3, 64, 2)
    finals = {each.finalist: each for each in found if each.stage == FINAL}
    assert {0, control.number} < set(finals)
    assert len(finals) == 3
    assert all(each.state == "complete" for each in finals.values())
    assert finals[control.number].spec == control.spec
    study = read_study(tmp_path / "runs" / "tiny")
    assert len(study.trials) == 3, "two candidates and the YOLOv8"
    assert study.user_attrs["final_epochs"] == 7
    line = study.user_attrs["lead"]
    assert "one seed each" in line
    told = shown.out.splitlines()
    assert told[0].startswith("Best: trial ")
    assert told.index(line) == 2, "with the answer, before the table"


def test_only_the_first_command_has_a_limit_of_its_own():
    assert hours_of(Flags(8.0)) == HOURS
    for more in ({"trials": 8}, {"epochs": 24}, {"data": "coco:x"}):
        assert hours_of(Flags(8.0, **more)) == math.inf
    assert hours_of(Flags(8.0, hours=2.0)) == 2.0


@pytest.mark.slow
def test_out_of_time_it_goes_on_and_what_nothing_meets_ends_with_the_fastest(tmp_path, capsys):
    write_coco(tmp_path / "data")
    command = flags(tmp_path, "--budget-ms", "0.001", "--study", "none", "--trials", "2")
    assert sweep.main([*command, "--hours", "1e-9"]) == 2
    shown = capsys.readouterr().err
    assert "the time is up after 0 of 2 candidates; the same command goes on" in shown
    assert "Traceback" not in shown

    code = sweep.main([*command, "--hours", "1"])
    shown = capsys.readouterr()
    assert code == 2
    assert "over budget by" in shown.out
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("error: no candidate met the budget (at most 0.001 ms (p95)): ")
    assert "ms p95" in last
    assert "Traceback" not in shown.err
    folder = tmp_path / "runs" / "none"
    assert {"trials.md", "trials.json", "pareto.png", "study.log"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "best").exists()
    rows = json.loads((folder / "trials.json").read_text())
    assert len(rows) == 2
    assert all(row["cost"] and row["scores"] is None for row in rows)
    assert all(
        trial.constraints["latency_ms"] > 0
        for trial in read_runs(folder).get_trials()
        if "duplicate_of" not in trial.user_attrs
    )


def test_a_bad_sweep_file_is_named_in_one_line(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_of_that_name\n")
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    for path, words in (
        (broken, "cannot be run: ModuleNotFoundError: No module named"),
        (empty, "expected a function 'suggest' that takes a trial, got none"),
        (tmp_path / "absent.py", "expected a Python file, found none"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_space(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ('blocks=("residul",)', r"block must be one of .*, got 'residul' .*'residual'"),
        ('plans=("P3-P9",)', r"plan must be one of .*, got 'P3-P9'"),
        ('activations=("sulu",)', r"activation.* 'sulu'"),
    ],
)
def test_a_wrong_name_in_a_space_is_named_in_one_line(tmp_path, capsys, named, words):
    space = tmp_path / "space.py"
    space.write_text(
        "from functools import partial\n"
        "from flaxyolo.search.space import suggest_detector\n"
        f"suggest = partial(suggest_detector, image_sizes=(64,), {named})\n"
    )
    data = f"coco:{write_coco(tmp_path / 'data')}"
    command = ["--data", data, "--budget-ms", "50", "--space", str(space)]
    assert sweep.main([*command, "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"^error: --space {space}: .*{words}", error)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_in_which_nothing_has_learnt_calls_nothing_best():
    lines = nothing_learnt(result(3, rungs=[(9, 0.0)]), Budget(10.0), "coco:here", 2)
    assert lines[0].startswith("Nothing has learnt: trial 3 is first")
    assert "--epochs 20" in lines[1]
    assert "python -m flaxyolo.stats coco:here" in lines[2]
    assert not any("best" in line.lower() for line in lines)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "digits-8ms"),
        ({"budget_ms": 7.5, "budget_vram_mib": 64.0}, "digits-7.5ms-64mib"),
        ({"data": "coco:/a/bccd/"}, "bccd-8ms"),
        ({"data": "yolo:/a/cells/data.yaml"}, "cells-8ms"),
        ({"data": "yolo:/a/cars/data.yaml"}, "cars-8ms"),
        ({"study": "mine"}, "mine"),
        ({"engine": "onnxruntime"}, "digits-8ms-onnxruntime"),
    ],
)
def test_a_study_is_named_after_its_data_and_budget(given, name):
    assert study_name(Flags(**{"budget_ms": 8.0, **given})) == name


def test_a_study_of_the_name_before_is_pointed_at(tmp_path, capsys):
    (tmp_path / "runs" / "data.yaml-8ms").mkdir(parents=True)
    command = ["--budget-ms", "8", "--out", str(tmp_path / "runs")]
    assert sweep.main([*command, "--data", f"yolo:{tmp_path / 'a' / 'data.yaml'}"]) == 2
    assert "--study data.yaml-8ms goes on with it" in capsys.readouterr().err


def test_a_study_that_goes_on_keeps_the_epochs_that_no_flag_gives():
    before = {"short_epochs": 9, "epochs": 30}
    assert schedules(Flags(), before) == (9, 30)
    assert schedules(Flags(short_epochs=30), before) == (30, 30)
    assert schedules(Flags(epochs=12), before) == (9, 12)
    new = spending_of(Flags(epochs=81))
    assert (new.short_epochs, new.epochs) == schedules(Flags(epochs=81), {}) == (27, 81)
    with pytest.raises(InputError, match="--short-epochs: expected at most --epochs 8, got 9"):
        schedules(Flags(epochs=8), before)


def test_the_first_command_tries_a_dozen_and_has_one_finalist_beside_its_controls():
    first = spending_of(Flags(8.0))
    assert (first.trials, first.finalists, first.seeds) == (12, 1, (0, 1, 2))
    assert spending_of(Flags(8.0, data="coco:x")).finalists == 2
    assert first.controls
    assert not spending_of(Flags(8.0, no_controls=True)).controls


def test_the_objective_is_the_users_or_the_studys_or_follows_from_the_validation_boxes(tmp_path):
    data = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    assert objective_of(Flags(), data, {}).text == "0.06 * map_small + 0.06 * map_medium"
    before = {"objective": "map_small + map_medium + map_large"}
    assert objective_of(Flags(), data, before).text == before["objective"]
    assert objective_of(Flags(objective="2*map"), data, before).text == "2 * map"


WEIGHTED = (
    "objective: 0.06 * map_small + 0.06 * map_medium (6 small, 6 medium and no large boxes in "
    "validation; below 100 a size counts in proportion)"
)
LUCK = "objective: 6 small boxes in validation, so map_small is mostly luck; it is taken as written"


def test_an_objective_of_full_support_is_told_as_it_is(tmp_path, caplog, monkeypatch):
    data = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    many = {"small": 200, "medium": 150, "large": 100}
    for module in (sweep_flags, trials_run):
        monkeypatch.setattr(module, "support", lambda examples: many)
    setting = Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0),
        data=data,
        source="tiny",
        folder=tmp_path,
        spending=spending_of(Flags()),
        objective=objective_of(Flags(), data, {}),
    )
    with caplog.at_level("INFO"):
        tell_objective(setting)
    assert [record.getMessage() for record in caplog.records] == [
        "objective: map_small + map_medium + map_large"
    ]


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (None, [WEIGHTED]),
        ("map_small+map", ["objective: map_small + map", LUCK]),
        ("map", ["objective: map"]),
    ],
)
def test_the_plan_tells_the_objective_and_what_it_has_few_boxes_of(
    written, lines, tmp_path, caplog
):
    data = read_dataset(f"coco:{write_coco(tmp_path / 'data')}")
    objective = objective_of(Flags(objective=written), data, {})
    setting = Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0),
        data=data,
        source="tiny",
        folder=tmp_path,
        spending=spending_of(Flags()),
        objective=objective,
    )
    with caplog.at_level("INFO"):
        tell_objective(setting)
    assert [record.getMessage() for record in caplog.records] == lines
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"][: len(lines)]


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--final-epochs", "1", "--final-epochs: expected at least --epochs 2, got 1"),
        ("--budget-ms", "0", "expected a number above 0"),
        ("--budget-params", "-1", "expected a number above 0"),
        ("--objective", "map_smal", "did you mean 'map_small'?"),
        ("--finalists", "0", "--finalists: expected at least 1, got 0"),
        ("--short-epochs", "5", "--short-epochs: expected at most --epochs 2, got 5"),
        ("--trials", "0", "--trials: expected at least 1, got 0"),
        ("--engine-command", "sh", "--engine-command is for --engine command, got --engine jax"),
        ("--epochs", "0", "--epochs: expected at least 1, got 0"),
        ("--seed", "-1", "--seed: expected 0"),
        ("--study", "a/b", "--study: expected a name without slashes"),
        ("--data", "coco:/no/such", "/no/such"),
        ("--data", "pictures", "--data: expected one of"),
    ],
)
def test_bad_flags_get_one_line_and_leave_nothing(flag, value, words, tmp_path, capsys):
    assert sweep.main(flags(tmp_path, "--data", "digits", flag, value)) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_time_of_measuring_that_is_none_ends_the_command_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_MEASURE_SECONDS", "soon")
    assert sweep.main(flags(tmp_path, "--data", "digits")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == "error: FLAXYOLO_MEASURE_SECONDS: expected a number of seconds from 0, got 'soon'"
    )
    assert not any(tmp_path.iterdir())


def test_a_limit_must_be_given(capsys):
    assert sweep.main([]) == 2
    assert "expected at least one limit, such as --budget-ms 8" in capsys.readouterr().err
