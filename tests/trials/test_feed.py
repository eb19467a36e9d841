"""What a dashboard shows: a copy of a study with notes and pictures, which leaves it alone."""

import hashlib
import json
import shutil
import time
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.crew.custody import keep_custody
from flaxyolo.crew.record import Entry
from flaxyolo.crew.storage import locked, open_runs, read_study
from flaxyolo.search.controls import SCALED
from flaxyolo.search.objective import DEFAULT
from flaxyolo.trials import feed as feed_module
from flaxyolo.trials.notes import spec_text
from tests.small import tiny_spec
from tests.trials.test_published import BUDGET, tried

dashboard = pytest.importorskip("optuna_dashboard")

FACTS = {"budget": BUDGET.to_dict(), "objective": DEFAULT, "source": "coco:x", "device": "a CPU"}


@pytest.fixture
def folder(tmp_path):
    """A study with two finalists, of which one is a control, and one that stopped."""
    folder = tmp_path / "runs" / "s"
    runs = open_runs(folder)
    runs.set_user_attr("facts", FACTS)
    runs.tell(tried(runs, (3, 0.2), (9, 0.5), origin="advised", inherited=0.84, mended=0.4), 0.5)
    runs.tell(tried(runs, (3, 0.1), reason="behind"), state=TrialState.PRUNED)
    runs.tell(tried(runs, (9, 0.4), origin=SCALED), 0.4)
    for number, value in ((0, 0.7), (2, 0.6)):
        runs.tell(tried(runs, (27, value), final_of=number, seed=0, run=f"r{number}"), value)
    waiting = tried(runs, (3, 0.3))
    Entry(waiting).keep(paused=3, seconds={"train": 7.0})
    runs._storage.set_trial_state_values(waiting._trial_id, TrialState.WAITING)
    for name in (feed_module.FRONT, feed_module.SEEN):
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))
    return folder


def made(folder, tmp_path):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    feed = feed_module.Feed(folder, tmp_path / "pictures")
    assert feed.refresh()
    return feed


def shown(feed):
    return optuna.load_study(study_name=feed.name, storage=feed.storage)


def digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_looking_at_a_study_changes_nothing_in_its_folder(folder, tmp_path):
    before = digests(folder)
    feed = made(folder, tmp_path)
    assert not feed.refresh(), "nothing has happened"
    assert digests(folder) == before
    assert len(shown(feed).trials) == 4


def test_only_what_was_trained_fully_has_a_value_and_the_rest_its_curve(folder, tmp_path):
    first, stopped, control, waiting = shown(made(folder, tmp_path)).trials
    assert (first.state, first.value) == (TrialState.COMPLETE, 0.7)
    assert (control.state, control.value) == (TrialState.COMPLETE, 0.6)
    for trial, curve in ((stopped, {3: 0.1}), (waiting, {3: 0.3})):
        assert (trial.state, trial.values) == (TrialState.PRUNED, None)
        assert trial.intermediate_values == curve
    marks = [trial.user_attrs["trained_as"] for trial in (first, stopped, control, waiting)]
    assert marks == ["finalist", "candidate", "control", "candidate"]


def test_optuna_itself_gives_sensible_answers(folder, tmp_path):
    study = shown(made(folder, tmp_path))
    assert study.best_trial.number == 0
    assert study.best_value == 0.7
    assert study.metric_names == [DEFAULT]
    frame = study.trials_dataframe()
    assert frame[f"value_{DEFAULT}"].notna().tolist() == [True, False, True, False]
    constraints = [trial.system_attrs["constraints"] for trial in study.trials]
    assert all(len(one) == 1 and one[0] < 0 for one in constraints), "as the dashboard reads them"


def test_a_trial_tells_in_its_note_what_it_is_and_what_became_of_it(folder, tmp_path):
    feed = made(folder, tmp_path)
    study = shown(feed)
    attributes = feed.storage.get_study_system_attrs(0)
    notes = [
        dashboard._note.get_note_from_system_attrs(attributes, trial._trial_id)["body"]
        for trial in study.trials
    ]
    best, stopped, _, waiting = notes
    assert best.startswith("## Trial 0: the best\n")
    assert "advised: 1 seed, 27 epochs." in best
    assert "Objective **0.700** after 27 epochs" in best
    assert "| mAP | mAP50 | mAP_s | mAP_m | mAP_l |\n|" in best
    assert "84% near to those of the detector it began from" in best
    assert "missed 40%" in best
    assert "inside the budget (at most 10 ms (p95))" in best
    assert "Neck: fpn over P3, P4" in best
    assert "behind" in stopped
    assert "paused after 3 epochs" in waiting
    whole = dashboard._note.get_note_from_system_attrs(attributes, None)["body"]
    assert whole.startswith("## Trial 0 is the best of 4 networks\n")
    assert "data: coco:x" in whole


def test_pictures_lie_with_the_best_trial_and_the_study(folder, tmp_path):
    from optuna_dashboard.artifact._backend import list_study_artifacts, list_trial_artifacts

    feed = made(folder, tmp_path)
    attributes = feed.storage.get_study_system_attrs(0)
    (front,) = list_study_artifacts(attributes)
    assert front["filename"] == "pareto.png"
    found = [
        list_trial_artifacts(attributes, trial.system_attrs, trial) for trial in shown(feed).trials
    ]
    assert [[one["filename"] for one in each] for each in found] == [["detections.png"], [], [], []]
    name = found[0][0]["artifact_id"]
    with feed.store.open_reader(name) as picture:
        assert picture.read() == (folder / "detections.png").read_bytes()
    note = dashboard._note.get_note_from_system_attrs(attributes, 0)["body"]
    assert f"![what it detects](/artifacts/0/0/{name})" in note


def test_the_copy_follows_a_sweep_and_keeps_its_number(folder, tmp_path):
    feed = made(folder, tmp_path)
    runs = open_runs(folder)
    with locked(folder):
        assert feed.refresh(), "a sweep is at work"
        states = [trial.state.name for trial in shown(feed).trials]
        assert states == ["COMPLETE", "PRUNED", "COMPLETE", "RUNNING"]
        # Who asks is given the one that waits.
        runs.tell(tried(runs, (9, 0.9)), 0.9)
        assert feed.refresh()
        assert not feed.refresh()
        assert shown(feed).trials[3].intermediate_values == {3: 0.3, 9: 0.9}
        assert [study._study_id for study in feed.storage.get_all_studies()] == [0]
    assert len(list((tmp_path / "pictures").iterdir())) == 2, "old copies are removed"


def test_what_waits_has_ended_when_it_did_and_not_now(folder, tmp_path):
    waiting = shown(made(folder, tmp_path)).trials[3]
    assert waiting.datetime_start is not None
    assert (waiting.datetime_complete - waiting.datetime_start).total_seconds() == pytest.approx(7)
    runs = open_runs(folder)
    beat = time.time() - 3600
    keep_custody(runs, runs.trials[-1], beat=beat)
    waiting = shown(made(folder, tmp_path)).trials[3]
    assert waiting.datetime_complete == datetime.fromtimestamp(beat)


def test_a_beat_from_another_machine_says_that_a_sweep_is_at_work(folder):
    runs = open_runs(folder)
    assert not feed_module.at_work(runs, folder)
    keep_custody(runs, runs.trials[-1], beat=time.time())
    assert feed_module.at_work(runs, folder)


def test_a_sweep_goes_on_in_a_study_that_is_looked_at(folder, tmp_path):
    feed = made(folder, tmp_path)
    feed.storage.set_study_system_attr(0, "dashboard:note_ver", 7)
    runs = open_runs(folder)
    runs.tell(tried(runs, (9, 0.9)), 0.9)
    assert runs.trials[-1].value == 0.9
    with pytest.raises(InputError, match="holds no study 's'"):
        read_study(folder)


def test_a_study_of_an_earlier_version_is_shown(tmp_path):
    written = Path(__file__).resolve().parents[1] / "studies" / "sweep"
    shutil.copytree(written, tmp_path / "tiny")
    feed = made(tmp_path / "tiny", tmp_path)
    known = json.loads((written / "trials.json").read_text())
    trials = shown(feed).trials
    assert 0 < len(trials) <= len(known)
    for trial in trials:
        (row,) = (row for row in known if row["number"] == trial.number)
        assert trial.params == row["params"]


def test_a_folder_without_the_study_of_a_sweep_is_said_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match="expected the study of a sweep, found no such file"):
        feed_module.Feed(tmp_path, tmp_path)
    other = tmp_path / "other"
    open_runs(other).set_user_attr("facts", {"data": "x"})
    with pytest.raises(InputError, match="found one without a budget"):
        feed_module.Feed(other, tmp_path)
    shutil.rmtree(other)
    assert folder.exists()


def test_a_network_is_told_stage_by_stage():
    text = spec_text(tiny_spec())
    assert "| stem |  | conv3 | 8 |  |" in text.replace("| |", "|  |")
    assert "| C3 | 8 | 1 x plain | 16 | - |" in text
    assert "- Input: 64 px, 3 classes" in text
