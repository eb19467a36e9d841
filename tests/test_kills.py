"""A sweep that is killed again and again, at any moment, loses nothing that was finished."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from flaxyolo.search.results import is_finished, results
from flaxyolo.search.storage import read_study
from tests.tiny_data import ROOT, flags, write_coco

KILLS = 20
TRIALS = 6


def workers_of(parent):
    """Process ids of the children of a process."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def finished(folder):
    """State and value of every finished trial, by number."""
    if not (folder / "study.log").exists():
        return {}
    trials = read_study(folder).get_trials(deepcopy=False)
    return {t.number: (t.state, t.values) for t in trials if is_finished(t)}


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_trial(tmp_path):
    write_coco(tmp_path / "data")
    command = [sys.executable, "-m", "flaxyolo.sweep"]
    command += flags(
        tmp_path, "--trials", str(TRIALS), "--epochs", "9", "--finalists", "2", "--seeds", "2",
        "--workers", "2",
    )  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "runs" / "tiny"
    log = tmp_path / "log"
    drawn = random.Random(0)
    known, killed_parents, process = {}, 0, None
    try:
        for _ in range(KILLS):
            if process is None or process.poll() is not None:
                with log.open("a") as file:
                    process = subprocess.Popen(
                        command,
                        cwd=tmp_path,
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=file,
                    )
            time.sleep(drawn.uniform(4, 14))
            workers = workers_of(process.pid)
            if drawn.random() < 0.4 or not workers:
                process.kill()
                process.wait()
                killed_parents += 1
            else:
                os.kill(drawn.choice(workers), signal.SIGKILL)
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
    found = results(read_study(folder))
    cheap = [each for each in found if each.stage == "cheap"]
    finals = [each for each in found if each.stage == "final"]
    assert len(cheap) == TRIALS
    assert len({(each.finalist, each.seed) for each in finals}) == len(finals) == 4
    assert all(each.is_over and each.state != "fail" for each in found)
    assert all(each.state == "complete" and each.epochs == 9 for each in finals)
    resumed = sum(
        trial.user_attrs.get("interruptions", 0) > 0 for trial in read_study(folder).get_trials()
    )
    print(f"{KILLS} kills, {killed_parents} of parents; {resumed} trials were taken up again")
    assert resumed > 0
