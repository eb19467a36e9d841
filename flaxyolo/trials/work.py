"""A worker of a sweep: takes one job after the other until the study has none left.

Run by the command `sweep`, as `python -m flaxyolo.trials.work FOLDER INDEX`.
"""

import json
import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import optuna
from optuna.trial import TrialState, create_trial

from flaxyolo.base import cli
from flaxyolo.base.files import replace_file
from flaxyolo.crew.leases import (
    Lease,
    LostLeaseError,
    Worker,
    at_work,
    claim,
    take_up,
    workers_folder,
)
from flaxyolo.crew.processes import attach
from flaxyolo.crew.storage import open_study
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.search.propose import Proposer
from flaxyolo.search.results import TrialResult, results
from flaxyolo.search.schedule import (
    AddFinals,
    Close,
    Done,
    GoOn,
    Propose,
    Wait,
    next_job,
    wants_more,
)
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import load_space, suggest_detector, with_image_sizes
from flaxyolo.search.spending import FINAL, Spending
from flaxyolo.training.loop import DivergedError
from flaxyolo.trials.expected import finals_seconds
from flaxyolo.trials.trial import OutOfTimeError, PausedError, Stage, Surroundings, run_trial

log = logging.getLogger("flaxyolo.trials.work")

TASK_FILE = "task.pickle"
STORAGE = "FLAXYOLO_STORAGE"
"""Environment variable with the URL of the study's database; a password belongs in no file."""
EXHAUSTED = "exhausted"
"""Attribute of a study whose space holds nothing new."""
WAIT_S = 1.0
STATUS_S = 0.5
"""Least time between two notes of how far a worker is."""


@dataclass(frozen=True)
class Task:
    """A sweep as its parent hands it over; the space is named, because functions do not travel."""

    sweep: Sweep
    space: Path | None
    image_sizes: tuple[int, ...]
    workers: int
    deadline: float
    """In seconds since 1970; infinity is none."""

    def restored(self) -> Sweep:
        """The sweep with its space."""
        suggest = with_image_sizes(load_space(self.space), self.image_sizes)
        return replace(self.sweep, suggest=suggest)


def hand_over(task: Task) -> None:
    """Write a task where the workers of its folder find it."""
    # The default space stands for the one of a file, which cannot be pickled.
    write_task(
        task.sweep.folder, replace(task, sweep=replace(task.sweep, suggest=suggest_detector))
    )


def write_task(folder: Path, task: object) -> None:
    """Write what the workers of a folder are to do."""
    replace_file(workers_folder(folder) / TASK_FILE, pickle.dumps(task))


def read_task(folder: Path) -> Any:
    """The inverse of `write_task`."""
    return pickle.loads((workers_folder(folder) / TASK_FILE).read_bytes())


def run_worker(folder: Path, index: int) -> None:
    """Work until nothing is left to do."""
    task: Task = read_task(folder)
    sweep = task.restored()
    keep_compiled(sweep.folder.parent)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(sweep.folder, storage=os.environ.get(STORAGE), seed=sweep.seed)
    status = workers_folder(folder) / f"status-{index}.json"
    gate = Gate(device_key())
    proposer = Proposer(sweep, gate)
    with at_work(folder) as worker:
        while True:
            take_up(study, folder)
            found = results(study)
            reserve = finals_seconds(found, sweep.spending) / task.workers
            closing = time.time() + reserve > task.deadline
            exhausted = study.user_attrs.get(EXHAUSTED, False)
            job = next_job(found, sweep.spending, closing=closing, exhausted=exhausted)
            match job:
                case Done():
                    status.unlink(missing_ok=True)
                    return
                case Wait():
                    note(status, None, Stage("waiting for other workers"))
                    time.sleep(WAIT_S)
                case Close(numbers):
                    for number in numbers:
                        close(study, number, worker, sweep)
                case Propose():
                    note(status, len(found), Stage("proposing"))
                    with gate.training():
                        proposal = proposer.propose(found)
                    if proposal is None:
                        log.warning("every detector of the space was tried; no more candidates")
                        study.set_user_attr(EXHAUSTED, True)
                    else:
                        add_wanted(study, sweep.spending, *proposal)
                case AddFinals(runs):
                    for number, seed in runs:
                        add_final(study, found[number], seed, sweep)
                case GoOn(number, until):
                    lease = claim(study, number, worker)
                    if lease is None:
                        continue
                    lease.trial.set_user_attr("paused", None)
                    final = found[number].stage == FINAL
                    end = task.deadline - (0.0 if final else reserve)
                    around = surroundings(lease, gate, status, end)
                    if not run_job(study, lease, sweep, until, around, proposer) and final:
                        status.unlink(missing_ok=True)
                        return


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


def run_job(
    study: optuna.Study,
    lease: Lease,
    sweep: Sweep,
    until: int,
    around: Surroundings,
    proposer: Proposer,
) -> bool:
    """Run a claimed trial; whether there was time for it."""
    try:
        return carry_out(
            study, lease, partial(run_trial, lease.trial, sweep=sweep, until=until, around=around)
        )
    finally:
        proposer.learn(lease.trial)


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


def close(study: optuna.Study, number: int, worker: Worker, sweep: Sweep) -> None:
    """End a paused candidate that is behind."""
    lease = claim(study, number, worker)
    if lease is None:
        return
    with lease:
        trial = lease.trial
        known = results(study)[number]
        if known.cost is not None:
            for name, share in sweep.budget.excess(known.cost).items():
                trial.set_constraint(name, share)
        of = sweep.spending.short_epochs
        end(study, lease, TrialState.PRUNED, f"behind after {known.epochs} of {of} epochs")


def add(study: optuna.Study, params: dict[str, Any], attrs: dict[str, Any]) -> None:
    """Add a trial with these parameters that any worker may claim."""
    study.add_trial(
        create_trial(
            state=TrialState.WAITING, system_attrs={"fixed_params": params}, user_attrs=attrs
        )
    )


def add_wanted(
    study: optuna.Study, spending: Spending, params: dict[str, Any], attrs: dict[str, Any]
) -> None:
    """Add a proposed candidate, unless another worker has added the last one in the meantime."""
    if wants_more(results(study), spending):
        add(study, params, attrs)


def add_final(study: optuna.Study, candidate: TrialResult, seed: int, sweep: Sweep) -> None:
    """Add the full run of a finalist; one that is the candidate's own run is complete already."""
    known = study.get_trials(deepcopy=False)[candidate.number]
    attrs: dict[str, Any] = {"stage": FINAL, "finalist": candidate.number, "seed": seed}
    attrs["origin"] = f"finalist {candidate.number}, seed {seed}"
    # The same network costs the same.
    attrs["cost"] = known.user_attrs["cost"]
    if candidate.state != "complete" or sweep.full(seed) != sweep.short:
        add(study, dict(candidate.params), attrs)
        return
    for key in ("spec", "features", "history", "scores", "run"):
        attrs[key] = known.user_attrs[key]
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=candidate.objective,
            params=known.params,
            distributions=known.distributions,
            user_attrs=attrs,
            intermediate_values=known.intermediate_values,
            constraints=known.constraints,
        )
    )


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


def main(argv: Sequence[str], run: Callable[[Path, int], None] = run_worker) -> int:
    """Run a worker, given its folder and its index."""
    folder, index = argv
    attach()
    return cli.run(partial(run, Path(folder), int(index)), output=Path(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
