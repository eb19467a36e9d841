"""Who runs a trial now: claims, signs of life, and what becomes of a dead worker's trial.

A trial that waits is claimed by setting it RUNNING, which every storage lets one worker do. Its
user attribute `lease` names the holder, and `beat` is when it was heard of last. Whoever finds a
holder dead sets the trial WAITING again.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from flaxyolo.base.cli import storage_failure
from flaxyolo.base.errors import InputError
from flaxyolo.crew.alive import (
    SILENCE_SECONDS,
    held_lock,
    is_free,
    is_stale,
    stale,
    unique_name,
    workers_folder,
)
from flaxyolo.crew.custody import Hold, custody, keep_custody
from flaxyolo.crew.optuna_inside import begin, begun, latest, numbered, set_state
from flaxyolo.crew.record import Entry
from flaxyolo.machine.locks import held

log = logging.getLogger(__name__)

BEATS_PER_SILENCE = 6
MAX_CRASHES = 2
"""A trial whose worker crashed so often while running it fails."""
MAX_FRUITLESS = 25
"""A trial that was interrupted so often without a checkpoint in between fails: it may be what
ends the whole machine, where no one is left to see why."""
OLD_LOCK_SECONDS = 86_400

WORKER_NAME = "FLAXYOLO_WORKER"
WORKER_LOG = "FLAXYOLO_WORKER_LOG"
PARENT_LOCK = "FLAXYOLO_PARENT_LOCK"
"""Environment that a supervisor gives its workers."""


class LostLeaseError(Exception):
    """This trial is another worker's now, as nothing was heard of this one for too long."""


@dataclass(frozen=True)
class Worker:
    """A process that runs trials, by the file that it holds locked."""

    name: str
    lock: Path
    parent: Path | None = None
    """Locked by its supervisor, which sees how it ends."""
    log: Path | None = None
    silence: float = SILENCE_SECONDS


@contextmanager
def at_work(folder: Path, *, silence: float = SILENCE_SECONDS) -> Iterator[Worker]:
    """Be a worker of a study's folder: alive to others until this ends, however it ends."""
    name = os.environ.get(WORKER_NAME) or unique_name("worker")
    parent, log_file = os.environ.get(PARENT_LOCK), os.environ.get(WORKER_LOG)
    with held_lock(workers_folder(folder) / f"{name}.lock") as path:
        yield Worker(
            name,
            path,
            None if parent is None else Path(parent),
            None if log_file is None else Path(log_file),
            silence,
        )


def claim(study: optuna.Study, number: int, worker: Worker) -> "Lease | None":
    """Take a trial that waits; None where another was faster, or it does not wait."""
    known = numbered(study, number)
    # One that waits and has a holder was set back by a latecomer; its holder will mend that.
    if known.state != TrialState.WAITING or custody(known).lease.worker is not None:
        return None
    # Who finds it running and unsigned can tell by this whether its claimant is dead.
    worker.lock.write_text(str(number))
    if not begin(study, known):
        worker.lock.write_text("")
        return None
    return adopt(study, begun(study, known), worker)


def adopt(study: optuna.Study, trial: optuna.Trial, worker: Worker) -> "Lease":
    """Hold a trial that this process has set RUNNING itself, such as by `study.ask`."""
    token = uuid.uuid4().hex
    hold = Hold(
        at=time.time(),
        token=token,
        worker=worker.name,
        host=socket.gethostname(),
        lock=str(worker.lock),
        parent=None if worker.parent is None else str(worker.parent),
    )
    keep_custody(study, trial, lease=hold)
    return Lease(study, trial, worker, token)


class Lease:
    """A trial in the hands of this worker, which shows signs of life as long as it is entered.

    At the end it is finished (by `study.tell`), or waits again: after `release`, after a stop by
    signal, and after a first crash, which is any exception that is the candidate's own. After a
    second crash it fails. Exceptions go on to the caller, who should start afresh.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial, worker: Worker, token: str):
        self.trial = trial
        self.worker = worker
        self._study, self._token = study, token
        self._over = threading.Event()
        self._lost = False
        self._fruitless = custody(trial).fruitless > 0
        self._thread = threading.Thread(target=self._beat, name="beat", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        try:
            if error is not None and is_own_fault(error):
                traceback.print_exception(error)
                line = f"{type(error).__name__}: {error}".splitlines()[0]
                self._let_go(crash=f"{line:.300}")
            elif not isinstance(error, LostLeaseError):
                self._let_go()
        except Exception as storage_error:
            # The trial is left as that of a dead worker, which it is about to be.
            if error is None:
                raise
            log.warning("trial %d could not be released: %s", self.trial.number, storage_error)
        finally:
            self._thread.join(timeout=10)

    def check(self) -> None:
        """LostLeaseError if another worker has the trial now; ask before anything is stored."""
        self._look()
        if self._lost:
            raise LostLeaseError(f"trial {self.trial.number} was taken over by another worker")

    def saved(self) -> None:
        """Tell that a checkpoint was written, so that an interruption costs less than all."""
        if self._fruitless:
            self._fruitless = False
            keep_custody(self._study, self.trial, fruitless=0)

    def release(self, **changes: Any) -> None:
        """Let the trial wait for any worker, with changes of its record such as `paused=epoch`."""
        self.check()
        self._over.set()
        Entry(self.trial).keep(**changes)
        self._let_go()

    def _let_go(self, crash: str | None = None) -> None:
        """Set it WAITING, or FAIL, if it is still this worker's."""
        known = latest(self._study, self.trial)
        if known.state.is_finished() or custody(known).lease.token != self._token:
            return
        with contextlib.suppress(UpdateFinishedTrialError):
            if crash is not None:
                _set_back(self._study, known, crash=crash, log_file=self.worker.log)
            else:
                _free(self._study, known)

    def _beat(self) -> None:
        while not self._over.wait(self.worker.silence / BEATS_PER_SILENCE):
            try:
                if not self._look():
                    return
                keep_custody(self._study, self.trial, beat=time.time())
            except UpdateFinishedTrialError:
                return
            except Exception as error:  # any driver's own; the main thread will meet it too
                log.warning("trial %d: no sign of life could be given: %s",
                            self.trial.number, error)  # fmt: skip

    def _look(self) -> bool:
        """Whether the trial is this worker's, and not finished."""
        known = latest(self._study, self.trial)
        if known.state.is_finished():
            return False
        if custody(known).lease.token != self._token:
            self._lost = self._lost or not self._over.is_set()
            return False
        if known.state == TrialState.WAITING and not self._over.is_set():
            # Two took up the trial's last holder; the slower one did so after our claim.
            set_state(self._study, self.trial, TrialState.RUNNING)
        return True


def is_own_fault(error: BaseException) -> bool:
    """Whether an exception speaks against the candidate; not a stop, a full disk or a database."""
    if isinstance(error, LostLeaseError | InputError | StorageInternalError | ConnectionError):
        return False
    if not isinstance(error, Exception) or storage_failure(error) is not None:
        return False
    return type(error).__module__.split(".")[0] not in ("grpc", "sqlalchemy", "psycopg")


def take_up(study: optuna.Study, folder: Path, *, silence: float = SILENCE_SECONDS) -> list[int]:
    """Set the trials of dead workers WAITING again, for anyone to go on with; their numbers.

    Cheap where there are none; workers call it before they look for a trial.
    """
    left = stale(study, folder, silence=silence)
    if not left:
        return []
    taken = []
    with _alone(folder):
        for trial in left:
            known = latest(study, trial)
            # Another may have been faster, and the trial may be at work once more.
            if custody(known).lease == custody(trial).lease and is_stale(known, folder, silence):
                with contextlib.suppress(UpdateFinishedTrialError):
                    _set_back(study, known)
                    taken.append(trial.number)
        _sweep_up(folder)
    return taken


def bury(
    study: optuna.Study,
    folder: Path,
    worker: str,
    *,
    crash: str | None,
    log_file: Path | None = None,
) -> list[int]:
    """Set the trials of a worker WAITING whose end its parent has seen; their numbers.

    `crash` says how it died of the trial, None that it was not the trial's fault.
    """
    buried = []
    states = (TrialState.RUNNING, TrialState.WAITING)
    with _alone(folder):
        for trial in study.get_trials(deepcopy=False, states=states):
            known = latest(study, trial)
            if known.state.is_finished() or custody(known).lease.worker != worker:
                continue
            with contextlib.suppress(UpdateFinishedTrialError):
                _set_back(study, known, crash=crash, log_file=log_file)
                buried.append(trial.number)
    return buried


def _set_back(
    study: optuna.Study,
    trial: FrozenTrial,
    *,
    crash: str | None = None,
    log_file: Path | None = None,
) -> None:
    """Count an interruption and set the trial WAITING, or FAIL where it has had its chances."""
    kept = custody(trial)
    keep_custody(study, trial, interruptions=kept.interruptions + 1)
    reason = None
    if crash is not None:
        crashes = (*kept.crashes, crash)
        keep_custody(study, trial, crashes=crashes)
        where = "" if log_file is None else f"; log: {log_file}"
        if len(crashes) >= MAX_CRASHES:
            reason = f"failed {len(crashes)} times, last by {crash}{where}"
    else:
        fruitless = kept.fruitless + 1
        keep_custody(study, trial, fruitless=fruitless)
        if fruitless >= MAX_FRUITLESS:
            reason = f"its worker was ended {fruitless} times without getting any further"
    if reason is None:
        _free(study, trial)
        return
    keep_custody(study, trial, reason=reason)
    set_state(study, trial, TrialState.FAIL)


def _free(study: optuna.Study, trial: FrozenTrial) -> None:
    """Let no one hold a trial. In this order: while it waits and has a holder no one claims it."""
    set_state(study, trial, TrialState.WAITING)
    keep_custody(study, trial, lease=Hold(at=time.time()))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Take up trials one worker at a time, on every machine that shares the folder."""
    with held(workers_folder(folder) / "take-up"):
        yield


def remove_free_locks(study: optuna.Study, folder: Path) -> int:
    """Remove the lock files that killed workers and parents of this machine have left; how many.

    Call it where none of them is being started here. By its file a dead worker is known, so those
    of workers whose trials nobody has taken up yet stay.
    """
    states = (TrialState.RUNNING, TrialState.WAITING)
    held = [(trial.number, custody(trial).lease)
            for trial in study.get_trials(deepcopy=False, states=states)]  # fmt: skip
    signed = {lease.lock for _, lease in held}
    claimed = {str(number) for number, lease in held if lease.worker is None}
    removed = 0
    for path in workers_folder(folder).glob("*.lock"):
        if not path.name.startswith(f"{socket.gethostname()}-") or not is_free(path):
            continue
        if str(path) not in signed and path.read_text() not in claimed:
            path.unlink()
            removed += 1
    return removed


def _sweep_up(folder: Path) -> None:
    """Remove lock files of workers that died long ago."""
    for path in workers_folder(folder).glob("*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > OLD_LOCK_SECONDS and is_free(path):
                path.unlink()
