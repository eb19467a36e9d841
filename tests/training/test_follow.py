"""Loggers follow runs: nothing twice, nothing left out, and no failure ends the work."""

import csv
import json
from typing import ClassVar

import pytest

from flaxyolo.training import writers
from flaxyolo.training.follow import STATE_FILE, Followers, flat
from tests.small import tiny_spec

ROWS = [(epoch, {"train/loss": 1.0 / epoch, "val/map": 0.1 * epoch}) for epoch in (1, 2, 3)]


class Made:
    """A writer that keeps what it was given in `kept`, and can be broken."""

    kept: ClassVar[list] = []
    broken_at = None

    def start(self, run, settings):
        self.run = run
        self.kept.append(("start", run.known, run.step, dict(settings)))
        return run.known or f"id of {run.name}"

    def write(self, step, metrics):
        if step == Made.broken_at:
            raise OSError(28, "No space left on device")
        self.kept.append(("write", step, dict(metrics)))

    def end(self, figures):
        self.kept.append(("end", figures))


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(Made, "kept", [])
    monkeypatch.setattr(Made, "broken_at", None)
    monkeypatch.setitem(writers.WRITERS, "mlflow", Made)
    return Made


def begun(folder, *kinds, anew=False):
    logs = Followers(kinds, folder, "flaxyolo")
    logs.begin(anew=anew)
    return logs


def steps(made):
    return [entry[1] for entry in made.kept if entry[0] == "write"]


def test_a_run_that_goes_on_goes_on_in_the_same_run_and_writes_no_step_twice(made, tmp_path):
    with begun(tmp_path, "mlflow") as logs:
        logs.follow("run", ROWS[:1], {"a": 1}, name="x")
        logs.follow("run", ROWS[:2], {"a": 1}, name="x")
    assert made.kept[-1] == ("end", None), "it is not over"
    with begun(tmp_path, "mlflow") as logs:
        logs.follow("run", ROWS, {"a": 1}, name="x")
        logs.follow("run", ROWS, {"a": 1}, name="x", figures={"params": 7.0})
    starts = [entry for entry in made.kept if entry[0] == "start"]
    assert starts == [("start", None, None, {"a": 1}), ("start", "id of x", 2, {"a": 1})]
    assert steps(made) == [1, 2, 3]
    assert made.kept[-1] == ("end", {"params": 7.0})


def test_a_run_that_is_over_is_not_opened_again(made, tmp_path):
    for _ in range(2):
        with begun(tmp_path, "mlflow") as logs:
            logs.follow("run", ROWS, {}, name="x", figures={})
    assert [entry[0] for entry in made.kept].count("start") == 1


def test_a_run_without_an_epoch_is_not_begun_before_there_is_something_to_tell(made, tmp_path):
    with begun(tmp_path, "mlflow") as logs:
        logs.follow("run", [], {}, name="x")
        logs.follow("other", [], {}, name="x", figures={})
        assert made.kept == []
        logs.follow("run", [], {}, name="x", figures={"params": 7.0})
    assert made.kept[-1] == ("end", {"params": 7.0})


def test_a_run_that_begins_anew_is_another(made, tmp_path):
    for _ in range(2):
        with begun(tmp_path, "mlflow", anew=True) as logs:
            logs.follow("run", ROWS, {}, name="x", figures={})
    assert steps(made) == [1, 2, 3, 1, 2, 3]
    assert [entry[1] for entry in made.kept if entry[0] == "start"] == [None, None]


def test_a_logger_that_fails_is_told_once_and_a_later_command_writes_the_rest(
    made, tmp_path, caplog
):
    made.broken_at = 2
    with begun(tmp_path, "mlflow", "csv") as logs:
        for count in (1, 2, 3):
            logs.follow("run", ROWS[:count], {}, name="x")
    told = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(told) == 1
    assert "mlflow failed: [Errno 28] No space left on device; the work goes on" in told[0]
    assert steps(made) == [1]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4, "the other one goes on"
    made.broken_at = None
    with begun(tmp_path, "mlflow") as logs:
        logs.follow("run", ROWS, {}, name="x")
    assert steps(made) == [1, 2, 3]


def test_a_table_has_the_common_names_whatever_was_there(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,box\n1,2\n")
    for _ in range(2):
        with begun(tmp_path, "csv") as logs:
            logs.follow("run", ROWS[:2], {}, name="x")
            logs.follow("run", ROWS, {}, name="x", figures={"params": 7.0})
    table = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert [row["val/map"] for row in table] == ["0.1", "0.2", str(0.1 * 3)]
    assert [row["params"] for row in table] == ["", "", "7.0"]
    assert not (tmp_path / STATE_FILE).exists()


def test_runs_of_a_study_have_a_table_each(tmp_path):
    with begun(tmp_path, "csv") as logs:
        for part in ("trial-0", "trial-1-seed-2"):
            logs.follow(part, ROWS, {}, name=part, part=part)
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == [
        "trial-0.csv",
        "trial-1-seed-2.csv",
    ]


def test_how_far_it_came_is_kept_after_each_epoch(made, tmp_path):
    with begun(tmp_path, "mlflow") as logs:
        logs.follow("run", ROWS[:2], {}, name="x")
    state = json.loads((tmp_path / STATE_FILE).read_text())
    assert state == {"mlflow": {"run": {"id": "id of x", "step": 2, "ended": False}}}


def test_of_two_commands_at_a_folder_the_first_logs_for_both(made, tmp_path, caplog):
    caplog.set_level("INFO", logger="flaxyolo")
    first = begun(tmp_path, "mlflow")
    with begun(tmp_path, "mlflow") as second:
        second.follow("run", ROWS, {}, name="x")
    assert made.kept == []
    assert f"another command logs what is in {tmp_path}" in caplog.text
    with first:
        first.follow("run", ROWS, {}, name="x")
    with begun(tmp_path, "mlflow") as third:
        third.follow("run", [*ROWS, (4, {})], {}, name="x")
    assert steps(made) == [1, 2, 3, 4]


def test_settings_become_one_level():
    found = flat({"data": "x", "spec": tiny_spec()})
    assert found["data"] == "x"
    assert found["spec.backbone.stages.1.width"] == 16
    assert found["spec.image_size"] == 64
