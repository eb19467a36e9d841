"""A study that an earlier version wrote still opens, is reported, and goes on."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flaxyolo import sweep
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import device_name
from flaxyolo.crew.storage import read_runs, read_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import results
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import Report, markdown, rows
from tests.tiny_data import SPACE, write_coco

WRITTEN = Path(__file__).resolve().parents[1] / "studies" / "sweep"


@pytest.fixture
def folder(tmp_path):
    """The study's folder in one of all studies."""
    shutil.copytree(WRITTEN, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def test_it_is_read_and_reported_as_it_was(folder):
    study = read_runs(folder)
    facts = study.user_attrs["facts"]
    standings = Standings(
        results(study), Budget.from_dict(facts["budget"]), Objective(facts["objective"])
    )
    before = json.loads((WRITTEN / "trials.json").read_text())
    now = json.loads(json.dumps(rows(standings)))
    # The last was at work then, and was let go of when the sweep was interrupted.
    for row, known in zip(now[:-1], before[:-1], strict=True):
        for key in ("number", "state", "origin", "objective", "epochs", "spec", "params"):
            assert row[key] == known[key]
        # What is measured since is not known of it; there was one engine then.
        new = {key: None for key in row["cost"] if key not in known["cost"]} | {"engine": "jax"}
        assert row["cost"] == known["cost"] | new
        assert row["runs"][0]["history"] == known["history"]
        assert row["runs"][0]["scores"] == known["scores"]
    assert (now[-1]["number"], now[-1]["state"], now[-1]["epochs"]) == (3, "running", 0)
    assert now[-1]["cost"]["latency_ms_p95"] > 0
    assert standings.best is standings.records[2]
    assert "| explore: complete, 9 epochs |" in markdown(Report(standings, facts["source"]))


@pytest.mark.slow
def test_it_goes_on_to_its_end(folder, tmp_path, monkeypatch, capsys):
    write_coco(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    # It was begun on another machine.
    log = folder / "study.log"
    text = log.read_text().replace("a device, 2 cores", device_name())
    fingerprint = read_dataset("coco:data").fingerprint
    text = re.sub(r'"fingerprint":"\w+"', f'"fingerprint":"{fingerprint}"', text)
    log.write_text(text)
    before = results(read_runs(folder))
    assert "facts" in read_study(folder).user_attrs, "its runs are in the study of its name"
    command = [
        *("--budget-ms", "10000", "--space", str(SPACE), "--data", "coco:data"),
        *("--trials", "4", "--epochs", "9", "--finalists", "1", "--seeds", "1"),
        *("--study", "tiny", "--out", "runs", "--no-preflight", "--no-controls"),
    ]
    assert sweep.main(command) == 0
    after = results(read_runs(folder))
    assert after[:3] == before[:3], "what was finished stays"
    assert after[3].spec == before[3].spec
    assert (after[3].state, after[3].epochs) == ("complete", 9)
    assert [(run.stage, run.state) for run in after[4:]] == [("final", "complete")]
    front = read_study(folder)
    assert len(front.trials) == 4, "one for each network"
    assert front.best_trial.number == after[4].trial
    assert "| trial |" in (folder / "trials.md").read_text()
