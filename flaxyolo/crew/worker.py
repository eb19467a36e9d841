"""A worker process: takes its task, claims one trial after the other, and stores how each ended."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import optuna
from optuna.trial import TrialState

from flaxyolo.base import cli
from flaxyolo.base.files import replace_file
from flaxyolo.cost.engine import EngineError
from flaxyolo.crew import stops
from flaxyolo.crew.leases import Lease, LostLeaseError, Worker, at_work, claim, workers_folder
from flaxyolo.crew.processes import attach
from flaxyolo.crew.record import Entry
from flaxyolo.crew.storage import open_study
from flaxyolo.crew.surroundings import OutOfTimeError, PausedError, Stage, Surroundings
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.training.loop import DivergedError

log = logging.getLogger(__name__)

STORAGE = "FLAXYOLO_WORKER_STORAGE"
"""Environment variable with the URL of the study's database: a password belongs in no file, and not
into a command's words, which others see."""
WAIT_S = 1.0
UNMEASURED = "not measured: "
"""Begins the reason of a trial that the engine of the latencies has not run."""
STATUS_S = 0.5
"""Least time between two notes of how far a worker is."""


class Desk(NamedTuple):
    """What a worker has before it: the study, its place among others, and where it is seen."""

    study: optuna.Study
    worker: Worker
    gate: Gate
    status: Path
    """Where its parent reads what it does."""

    def note(self, stage: Stage, number: int | None = None) -> None:
        """Write down what it does, with a trial or without."""
        replace_file(self.status, json.dumps({"trial": number, **stage._asdict()}))

    def wait(self) -> None:
        """Nothing can be done before another worker has finished."""
        self.note(Stage("waiting for other workers"))
        time.sleep(WAIT_S)

    def leave(self) -> None:
        """Nothing is left to do."""
        self.status.unlink(missing_ok=True)

    def claim(self, number: int) -> Lease | None:
        """Take a trial that waits; None where another was faster."""
        return claim(self.study, number, self.worker)

    def surroundings(self, lease: Lease, end: float = math.inf) -> Surroundings:
        """What a claimed trial minds; it has time until `end`, in seconds since 1970."""
        return Surroundings(
            report=Reporter(self, lease.trial.number),
            has_time=partial(_has_time, end),
            quiet=self.gate.quiet,
            busy=self.gate.training,
            step_aside=self.gate.step_aside,
            saved=lease.saved,
        )

    def carry_out(self, lease: Lease, run: Callable[[], float]) -> bool:
        """Run a claimed trial for its value, and store how it ended; whether there was time for it.

        A trial without memory, with a loss that is not finite or that the engine of the latencies
        does not run fails with its reason. Any other error of the candidate ends this process; the
        trial has one more chance.
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
                self.end(lease, TrialState.PRUNED, str(pruned))
            except DivergedError as error:
                self.end(lease, TrialState.FAIL, f"diverged: {error}")
            except EngineError as error:
                log.warning("trial %d: not measured: %s", lease.trial.number, error)
                self.end(lease, TrialState.FAIL, f"{UNMEASURED}{error}")
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                line = str(error).splitlines()[0]
                self.end(lease, TrialState.FAIL, f"out of memory: {line:.200}")
            except LostLeaseError as error:
                log.warning("%s", error)
            else:
                lease.check()
                self.study.tell(lease.trial, value)
        return True

    def end(self, lease: Lease, state: TrialState, reason: str) -> None:
        """End a trial with a reason."""
        lease.check()
        Entry(lease.trial).keep(reason=reason)
        # A pruned trial's value is Optuna's own affair: its last report, if there is one.
        self.study.tell(lease.trial, state=state)


@contextmanager
def at_desk(
    folder: Path,
    index: int,
    *,
    opened: Callable[..., optuna.Study] = open_study,
    seed: int = 0,
) -> Iterator[Desk]:
    """Be worker number `index` of a folder's study: alive to others until this ends."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Not for what a worker starts, such as a user's own program that times a model.
    study = opened(folder, storage=os.environ.pop(STORAGE, None), seed=seed)
    status = workers_folder(folder) / f"status-{index}.json"
    with at_work(folder) as worker:
        yield Desk(study, worker, Gate(device_key()), status)


def _has_time(end: float, seconds: float) -> bool:
    return time.time() + seconds <= end


class Reporter:
    """Notes what a trial is doing where the parent of the workers reads it."""

    def __init__(self, desk: Desk, number: int):
        self.desk, self.number = desk, number
        self.noted = ("", 0.0)

    def __call__(self, stage: Stage) -> None:
        stops.ask()
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
        self.desk.note(stage, self.number)


def main(argv: Sequence[str], run: Callable[[Path, int], None]) -> int:
    """Run a worker, given its folder and its index."""
    folder, index = argv
    attach()
    code = cli.run(partial(run, Path(folder), int(index)), output=Path(folder))
    if code == cli.INTERRUPTED:
        # Without the interpreter's teardown: a thread that is still inside XLA's compiler would
        # crash in it, which is no fault of the trial.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code
