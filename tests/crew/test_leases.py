import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.crew import leases
from flaxyolo.crew.alive import is_free, stale, workers_folder
from flaxyolo.crew.custody import custody, keep_custody
from flaxyolo.crew.leases import (
    LostLeaseError,
    adopt,
    at_work,
    bury,
    claim,
    is_own_fault,
    remove_free_locks,
    take_up,
)
from tests.crew.held import attrs, dead_holder, open_view, state


@pytest.fixture
def study(tmp_path):
    """A study of three trials that wait, and a second view of it as from another process."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = open_view(tmp_path)
    for number in range(3):
        found.enqueue_trial({"x": number}, user_attrs={"origin": "test"})
    return found


def test_a_claimed_trial_is_no_one_elses(study, tmp_path):
    other = open_view(tmp_path)
    with at_work(tmp_path) as worker, at_work(tmp_path) as second:
        lease = claim(study, 0, worker)
        assert lease is not None
        assert claim(other, 0, second) is None
        assert claim(study, 0, worker) is None
        assert state(other) == TrialState.RUNNING
        with lease:
            study.tell(lease.trial, 1.0)
        assert claim(other, 0, second) is None
    assert state(other) == TrialState.COMPLETE


def test_what_a_trial_knows_outlives_its_release(study, tmp_path):
    other = open_view(tmp_path)
    with at_work(tmp_path) as worker:
        lease = claim(study, 1, worker)
        assert lease is not None
        with lease:
            assert lease.trial.suggest_int("x", 0, 9) == 1
            lease.trial.report(0.5, 3)
            lease.release(paused=3)
    assert state(other, 1) == TrialState.WAITING
    with at_work(tmp_path) as worker:
        lease = claim(other, 1, worker)
        assert lease is not None
        with lease:
            assert lease.trial.suggest_int("x", 0, 9) == 1
            assert lease.trial.user_attrs["paused"] == 3
            assert lease.trial.user_attrs["origin"] == "test"
            lease.trial.report(0.7, 9)
            other.tell(lease.trial, 0.7)
    trial = study.get_trials()[1]
    assert trial.intermediate_values == {3: 0.5, 9: 0.7}
    assert trial.value == 0.7
    assert "interruptions" not in trial.user_attrs


def test_a_previous_holder_does_not_take_its_trial_for_its_own(study, tmp_path):
    # Optuna's journal alone lets this claim succeed for both.
    other = open_view(tmp_path)
    with at_work(tmp_path) as worker:
        lease = claim(study, 0, worker)
        assert lease is not None
        lease.release()
        backend = study._storage._backend
        append = backend.append_logs

        def append_late(logs):
            if logs[0].get("state") == TrialState.RUNNING:
                backend.append_logs = append
                assert claim(other, 0, worker) is not None
            append(logs)

        backend.append_logs = append_late
        assert claim(study, 0, worker) is None


def test_a_trial_of_a_dead_worker_waits_again(study, tmp_path):
    dead_holder(tmp_path)
    assert [trial.number for trial in stale(study, tmp_path)] == [0]
    assert take_up(study, tmp_path) == [0]
    assert take_up(study, tmp_path) == []
    assert state(study) == TrialState.WAITING
    assert attrs(study)["interruptions"] == 1
    assert custody(study.get_trials()[0]).lease.worker is None


def test_a_killed_process_is_dead_at_once(study, tmp_path):
    program = f"""
import time
from pathlib import Path
from flaxyolo.crew.leases import at_work, claim
from tests.crew.held import open_view
folder = Path({str(tmp_path)!r})
with at_work(folder) as worker, claim(open_view(folder), 0, worker):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    assert take_up(study, tmp_path) == []
    process.send_signal(signal.SIGSTOP)
    assert take_up(study, tmp_path) == []
    process.kill()
    process.wait()
    process.stdout.close()
    assert take_up(study, tmp_path) == [0]


def test_a_worker_of_another_machine_is_dead_after_a_silence(study, tmp_path):
    lease = dead_holder(tmp_path, host="elsewhere", at=time.time() - 80)
    assert take_up(study, tmp_path, silence=90.0) == []
    started = study._storage._replay_result._trials[0]
    # The start counts as a sign of life too.
    started.datetime_start = started.datetime_start.fromtimestamp(time.time() - 80)
    assert take_up(study, tmp_path, silence=90.0) == []
    lease.trial.set_user_attr("beat", time.time() - 75)
    assert take_up(study, tmp_path, silence=77.0) == []
    assert take_up(study, tmp_path, silence=70.0) == [0]


def test_the_parent_has_the_first_word(study, tmp_path):
    with leases.held_lock(tmp_path / "parent.lock") as parent:
        dead_holder(tmp_path, parent=parent)
        assert take_up(study, tmp_path) == []
        assert take_up(study, tmp_path, silence=0.0) == [0]
        dead_holder(tmp_path, parent=parent)
    assert take_up(study, tmp_path) == [0]


def test_a_trial_that_was_claimed_and_not_yet_signed_is_left_alone(study, tmp_path):
    study._storage.set_trial_state_values(0, TrialState.RUNNING)
    assert take_up(study, tmp_path) == []
    assert take_up(study, tmp_path, silence=0.0) == [0]


def test_a_worker_that_died_before_it_signed_its_claim_is_dead_at_once(study, tmp_path):
    study._storage.set_trial_state_values(0, TrialState.RUNNING)
    with at_work(tmp_path) as failed:
        failed.lock.write_text("0")
        (workers_folder(tmp_path) / "dead.lock").write_text("0")
        assert take_up(study, tmp_path) == []
    assert take_up(study, tmp_path) == [0]


def test_a_trial_half_released_is_no_ones_until_its_worker_is_dead(study, tmp_path):
    dead_holder(tmp_path)
    study._storage.set_trial_state_values(0, TrialState.WAITING)
    with at_work(tmp_path) as worker:
        assert claim(study, 0, worker) is None
        assert take_up(study, tmp_path) == [0]
        assert claim(study, 0, worker) is not None


def test_only_one_of_two_takes_up(study, tmp_path, monkeypatch):
    dead_holder(tmp_path)
    other = open_view(tmp_path)
    seen = stale(study, tmp_path)
    assert take_up(other, tmp_path) == [0]
    with at_work(tmp_path) as worker:
        lease = claim(other, 0, worker)
        assert lease is not None
        monkeypatch.setattr(leases, "stale", lambda study, folder, silence: seen)
        assert take_up(study, tmp_path) == []
        lease.check()
    assert attrs(study)["interruptions"] == 1


def test_a_trial_set_back_by_a_latecomer_is_mended_by_its_holder(study, tmp_path):
    other = open_view(tmp_path)
    with at_work(tmp_path) as worker:
        lease = claim(study, 0, worker)
        assert lease is not None
        other._storage.set_trial_state_values(0, TrialState.WAITING)
        assert claim(other, 0, worker) is None
        lease.check()
        assert state(other) == TrialState.RUNNING


def test_a_worker_that_was_given_up_lets_go(study, tmp_path):
    other = open_view(tmp_path)
    with at_work(tmp_path) as worker, at_work(tmp_path) as second:
        lost = claim(study, 0, worker)
        assert lost is not None
        bury(other, tmp_path, worker.name, crash=None)
        mine = claim(other, 0, second)
        assert mine is not None
        with pytest.raises(LostLeaseError), lost:
            lost.check()
        mine.check()
    assert custody(other.get_trials()[0]).lease.worker == second.name


def test_a_worker_shows_signs_of_life(study, tmp_path):
    with at_work(tmp_path, silence=0.3) as worker:
        lease = claim(study, 0, worker)
        assert lease is not None
        with lease:
            time.sleep(0.25)
            first = attrs(study)["beat"]
            assert abs(first - time.time()) < 1
            time.sleep(0.2)
            assert attrs(study)["beat"] > first
            study.tell(lease.trial, 1.0)


def test_a_trial_that_crashes_twice_fails_with_its_reason_and_log(study, tmp_path, monkeypatch):
    monkeypatch.setenv(leases.WORKER_LOG, "/runs/a/workers/0.log")
    for attempt in range(2):
        with at_work(tmp_path) as worker:
            lease = claim(study, 0, worker)
            assert lease is not None
            with pytest.raises(ZeroDivisionError), lease:
                raise ZeroDivisionError(f"attempt {attempt}\nand more")
        expected = TrialState.WAITING if attempt == 0 else TrialState.FAIL
        assert state(study) == expected
    known = attrs(study)
    assert known["crashes"] == ["ZeroDivisionError: attempt 0", "ZeroDivisionError: attempt 1"]
    assert known["reason"] == (
        "failed 2 times, last by ZeroDivisionError: attempt 1; log: /runs/a/workers/0.log"
    )
    assert known["interruptions"] == 2


def test_a_stop_does_not_speak_against_a_trial(study, tmp_path):
    for error in (KeyboardInterrupt, StorageInternalError, InputError):
        with at_work(tmp_path) as worker:
            lease = claim(study, 0, worker)
            assert lease is not None
            with suppress(error), lease:
                raise error
        assert state(study) == TrialState.WAITING
    assert not {"crashes", "interruptions"} & set(attrs(study))


def test_a_parent_tells_how_its_worker_died(study, tmp_path):
    for _ in range(2):
        with at_work(tmp_path) as worker:
            assert claim(study, 2, worker) is not None
            log = tmp_path / "0.log"
            reason = "SIGSEGV (Segmentation fault)"
            assert bury(study, tmp_path, worker.name, crash=reason, log_file=log) == [2]
            assert bury(study, tmp_path, worker.name, crash=reason, log_file=log) == []
    assert state(study, 2) == TrialState.FAIL
    assert attrs(study, 2)["reason"] == f"failed 2 times, last by {reason}; log: {log}"
    assert [state(study, number) for number in (0, 1)] == [TrialState.WAITING] * 2


def test_kills_fail_a_trial_only_when_it_never_gets_further(study, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "MAX_FRUITLESS", 3)
    for attempt in range(6):
        with at_work(tmp_path) as worker:
            lease = claim(study, 0, worker)
            assert lease is not None
            if attempt in (0, 2, 3):
                lease.saved()
            bury(study, tmp_path, worker.name, crash=None)
        assert state(study) == TrialState.WAITING, attempt
        if attempt == 4:
            break
    with at_work(tmp_path) as worker:
        assert claim(study, 0, worker) is not None
        bury(study, tmp_path, worker.name, crash=None)
    assert state(study) == TrialState.FAIL
    assert re.match("its worker was ended 3 times", attrs(study)["reason"])


def test_a_trial_that_ends_in_the_same_moment_is_not_disturbed(study, tmp_path, monkeypatch):
    lease = dead_holder(tmp_path)
    seen = stale(study, tmp_path)
    study.tell(lease.trial, 4.0)
    monkeypatch.setattr(leases, "stale", lambda study, folder, silence: seen)
    assert take_up(study, tmp_path) == []
    assert state(study) == TrialState.COMPLETE
    assert "interruptions" not in attrs(study)


def test_a_new_trial_can_be_held(tmp_path):
    study = open_view(tmp_path)
    with at_work(tmp_path) as worker:
        trial = study.ask()
        with adopt(study, trial, worker) as lease:
            lease.release()
        assert state(study) == TrialState.WAITING
        assert worker.name.startswith(socket.gethostname())
        assert is_free(worker.lock) is False
    assert is_free(worker.lock) is None


def test_old_locks_are_swept_up(study, tmp_path):
    folder = workers_folder(tmp_path)
    (folder / "old.lock").touch()
    os.utime(folder / "old.lock", (0, 0))
    (folder / "new.lock").touch()
    dead_holder(tmp_path)
    take_up(study, tmp_path)
    assert {path.name for path in folder.glob("*.lock")} == {"new.lock", "gone.lock"}


def test_whose_fault_an_error_is():
    assert is_own_fault(ValueError("a bug"))
    assert is_own_fault(MemoryError())
    assert not is_own_fault(OSError(28, "No space left on device"))
    assert not is_own_fault(ConnectionResetError())
    assert not is_own_fault(SystemExit(1))


def test_locks_that_nobody_holds_or_needs_are_removed(study, tmp_path):
    folder, host = workers_folder(tmp_path), socket.gethostname()
    dead, elsewhere = folder / f"{host}-worker0-1.lock", folder / "another-worker0-1.lock"
    claimant = folder / f"{host}-worker0-2.lock"
    for path in (dead, elsewhere):
        path.touch()
    claimant.write_text("1")
    with at_work(tmp_path) as worker:
        assert remove_free_locks(study, tmp_path) == 1
        assert not dead.exists()
        # One that died after its claim and before it signed is known by its file alone.
        assert {worker.lock, claimant, elsewhere} == set(folder.glob("*.lock"))


def test_the_lock_of_a_dead_worker_stays_until_its_trial_is_taken_up(study, tmp_path):
    lease = dead_holder(tmp_path)
    lock = workers_folder(tmp_path) / f"{socket.gethostname()}-worker0-9.lock"
    lock.touch()
    hold = replace(custody(open_view(tmp_path).get_trials()[0]).lease, lock=str(lock))
    keep_custody(study, lease.trial, lease=hold)
    assert is_free(lock)
    assert remove_free_locks(study, tmp_path) == 0
    assert take_up(study, tmp_path) == [0]
    assert remove_free_locks(study, tmp_path) == 1
    assert not lock.exists()
