"""A worker process: takes its task, carries a claimed trial out, and stores how it ended."""

import json
import logging
import math
import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optuna
from optuna.trial import TrialState

from flaxyolo.base import cli
from flaxyolo.base.files import replace_file
from flaxyolo.crew.leases import (
    Lease,
    LostLeaseError,
    workers_folder,
)
from flaxyolo.crew.processes import attach
from flaxyolo.crew.record import OutOfTimeError, PausedError, Stage, Surroundings
from flaxyolo.machine.gate import Gate
from flaxyolo.training.loop import DivergedError

log = logging.getLogger(__name__)

TASK_FILE = "task.pickle"
STORAGE = "FLAXYOLO_STORAGE"
"""Environment variable with the URL of the study's database; a password belongs in no file."""
WAIT_S = 1.0
STATUS_S = 0.5
"""Least time between two notes of how far a worker is."""


def write_task(folder: Path, task: object) -> None:
    """Write what the workers of a folder are to do."""
    replace_file(workers_folder(folder) / TASK_FILE, pickle.dumps(task))


def read_task(folder: Path) -> Any:
    """The inverse of `write_task`."""
    return pickle.loads((workers_folder(folder) / TASK_FILE).read_bytes())


def surroundings(lease: Lease, gate: Gate, status: Path, end: float = math.inf) -> Surroundings:
    """What a worker's trial minds; it has time until `end`, in seconds since 1970."""
    return Surroundings(
        report=Reporter(status, lease.trial.number),
        has_time=partial(_has_time, end),
        quiet=gate.quiet,
        busy=gate.training,
        step_aside=gate.step_aside,
        saved=lease.saved,
    )


def _has_time(end: float, seconds: float) -> bool:
    return time.time() + seconds <= end


def carry_out(study: optuna.Study, lease: Lease, run: Callable[[], float]) -> bool:
    """Run a claimed trial for its value, and store how it ended; whether there was time for it.

    A trial without memory or with a loss that is not finite fails with its reason. Any other error
    of the candidate ends this process; the trial has one more chance.
    """
    with lease:
        try:
            value = run()
        except PausedError as paused:
            lease.release(paused=paused.epoch)
        except OutOfTimeError:
            lease.release()
            return False
        except optuna.TrialPruned as pruned:
            end(study, lease, TrialState.PRUNED, str(pruned))
        except DivergedError as error:
            end(study, lease, TrialState.FAIL, f"diverged: {error}")
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            line = str(error).splitlines()[0]
            end(study, lease, TrialState.FAIL, f"out of memory: {line:.200}")
        except LostLeaseError as error:
            log.warning("%s", error)
        else:
            lease.check()
            study.tell(lease.trial, value)
    return True


def end(study: optuna.Study, lease: Lease, state: TrialState, reason: str) -> None:
    """End a trial with a reason."""
    lease.check()
    lease.trial.set_user_attr("reason", reason)
    # A pruned trial's value is Optuna's own affair: its last report, if there is one.
    study.tell(lease.trial, state=state)


class Reporter:
    """Notes what a trial is doing where the parent of the workers reads it."""

    def __init__(self, path: Path, number: int):
        self.path, self.number = path, number
        self.noted = ("", 0.0)

    def __call__(self, stage: Stage) -> None:
        name, at = self.noted
        now = time.monotonic()
        if stage.name == name and now - at < STATUS_S:
            return
        self.noted = stage.name, now
        if stage.note:
            log.info("trial %d, epoch %d of %d: %s", self.number, stage.done, stage.total,
                     stage.note)  # fmt: skip
        elif stage.name != name:
            log.info("trial %d: %s", self.number, stage.name)
        note(self.path, self.number, stage)


def note(path: Path, number: int | None, stage: Stage) -> None:
    """Write down what a worker does, where its parent reads it."""
    replace_file(path, json.dumps({"trial": number, **stage._asdict()}))


def main(argv: Sequence[str], run: Callable[[Path, int], None]) -> int:
    """Run a worker, given its folder and its index."""
    folder, index = argv
    attach()
    return cli.run(partial(run, Path(folder), int(index)), output=Path(folder))
