"""Which workers are alive, and which trials are held by dead ones.

On one machine a worker lives as long as it holds the lock on its own file, which the system lets
go of however it ends; elsewhere silence decides.
"""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.crew.custody import custody
from flaxyolo.machine.locks import held, lock, open_lock

SILENCE_SECONDS = 90.0
"""After so long without a beat a worker of another machine counts as dead."""


def workers_folder(folder: Path) -> Path:
    """Where locks and logs of a study's workers lie."""
    path = folder.resolve() / "workers"
    path.mkdir(parents=True, exist_ok=True)
    return path


def unique_name(role: str) -> str:
    """A name that no other process has or had: machine, role, and some random digits."""
    return f"{socket.gethostname()}-{role}-{uuid.uuid4().hex[:8]}"


@contextmanager
def held_lock(path: Path) -> Iterator[Path]:
    """Hold a file of one's own locked; it is removed at the end, and free after a crash."""
    with held(path):
        yield path
        path.unlink(missing_ok=True)


def is_free(path: str | Path) -> bool | None:
    """Whether no living process holds a lock file; None where there is no such file."""
    try:
        # The path is a study's, which may be anyone's: nothing is followed or waited for.
        file = open_lock(Path(path), make=False)
    except (OSError, InputError):
        return None
    try:
        return lock(file, wait=False)
    finally:
        os.close(file)


def stale(
    study: optuna.Study, folder: Path, *, silence: float = SILENCE_SECONDS
) -> list[FrozenTrial]:
    """Trials that are held by workers that are dead."""
    states = (TrialState.RUNNING, TrialState.WAITING)
    trials = study.get_trials(deepcopy=False, states=states)
    return [trial for trial in trials if is_stale(trial, folder, silence)]


def is_stale(trial: FrozenTrial, folder: Path, silence: float) -> bool:
    """Whether the worker that holds a trial is dead, as far as can be told from here."""
    kept = custody(trial)
    lease = kept.lease
    if trial.state == TrialState.RUNNING:
        began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
    elif trial.state == TrialState.WAITING and lease.worker is not None:
        began = 0.0
    else:
        return False
    if lease.host == socket.gethostname() and lease.lock is not None:
        free = is_free(lease.lock)
        if free is False:
            return False
        # A living parent sees how its worker ended, and has the first word.
        if free and (lease.parent is None or is_free(lease.parent) is not False):
            return True
    if lease.worker is None and _claimant_is_dead(trial.number, folder):
        return True
    heard = max(began, lease.at, kept.beat)
    return time.time() - heard > silence


def _claimant_is_dead(number: int, folder: Path) -> bool:
    """Whether a worker died after it claimed a trial and before it signed it."""
    claimants = []
    for path in workers_folder(folder).glob("*.lock"):
        with contextlib.suppress(OSError):
            if path.read_text() == str(number):
                claimants.append(is_free(path))
    return bool(claimants) and all(claimants)
