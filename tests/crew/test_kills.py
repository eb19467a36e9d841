"""A sweep that is killed again and again, at any moment, loses nothing that was finished."""

import random
import subprocess
import sys
import time

import pytest

import flaxyolo
from flaxyolo.crew.record import read
from flaxyolo.crew.storage import read_runs
from flaxyolo.search.results import results
from tests.tiny_data import flags, kill_something, killable_environment, write_coco


def finished(folder):
    """State and value of every finished trial, by number."""
    if not (folder / "study.log").exists():
        return {}
    trials = read_runs(folder).get_trials(deepcopy=False)
    return {t.number: (t.state, t.values) for t in trials if read(t).is_over}


def killed_in_a_trial(process, folder, log):
    """Kill a sweep as soon as a trial has saved its first epoch."""
    deadline = time.monotonic() + 200
    while not list(folder.glob("trials/*/state")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert finished(folder) == {}
    assert not (folder / "best").exists()
    first = read_runs(folder).trials[0]
    # Its worker lets go of the trial, if it hears of the end in time.
    assert first.state.name in ("RUNNING", "WAITING")
    return first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "trials", "epochs", "finalists"),
    [(3, 2, 2, 1), pytest.param(20, 6, 9, 2, marks=pytest.mark.long)],
)
def test_kills_lose_no_finished_trial(tmp_path, kills, trials, epochs, finalists):
    write_coco(tmp_path / "data")
    command = [sys.executable, "-m", "flaxyolo.sweep"]
    command += flags(
        tmp_path, "--trials", str(trials), "--epochs", str(epochs),
        "--finalists", str(finalists), "--seeds", "2", "--workers", "2",
    )  # fmt: skip
    environment = killable_environment()
    folder = tmp_path / "runs" / "tiny"
    log = tmp_path / "log"
    drawn = random.Random(0)
    known, killed_parents, process, first = {}, 0, None, None
    try:
        for _ in range(kills):
            if process is None or process.poll() is not None:
                with log.open("a") as file:
                    process = subprocess.Popen(
                        command,
                        cwd=tmp_path,
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=file,
                    )
            if first is None:
                first = killed_in_a_trial(process, folder, log)
                killed_parents += 1
                continue
            time.sleep(drawn.uniform(4, 14))
            killed_parents += kill_something(process, drawn, 0.4)
            now = finished(folder)
            assert {number: now.get(number) for number in known} == known, "a trial was lost"
            known = now
    finally:
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
    # What was asked for may be done by now; then this only says so.
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert again.returncode == 0, log.read_text() + again.stderr
    now = finished(folder)
    assert {number: now.get(number) for number in known} == known
    found = results(read_runs(folder))
    cheap = [each for each in found if each.stage == "cheap"]
    # Two workers may have added the same run; then one of them is its trial.
    finals = [each for each in found if each.stage == "final" and each.duplicate_of is None]
    assert len(cheap) == trials
    runs = {(each.finalist, each.seed) for each in finals}
    # A further seed is for those that are not told apart, which one alone is not.
    assert len(runs) == len(finals) == (2 * finalists if finalists > 1 else 1)
    assert all(each.is_over and each.state != "fail" for each in found)
    assert all(each.state == "complete" and each.epochs == epochs for each in finals)
    assert first is not None
    assert found[0].params == first.params
    assert any("going on after epoch" in path.read_text() for path in folder.glob("workers/*.log"))
    assert flaxyolo.load(folder / "best").class_names == ("blue", "red")
    resumed = sum(
        trial.user_attrs.get("interruptions", 0) > 0 for trial in read_runs(folder).get_trials()
    )
    print(f"{kills} kills, {killed_parents} of parents; {resumed} trials were taken up again")
    if kills >= 20:
        assert resumed > 0
