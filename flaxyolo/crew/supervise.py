"""The parent of a crew: starts its workers, looks after them, and buries the dead."""

import logging
import os
import sys
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import optuna

from flaxyolo.crew.leases import bury, remove_free_locks
from flaxyolo.crew.processes import Command, Crew, Died, Event
from flaxyolo.crew.record import progress
from flaxyolo.crew.worker import STORAGE
from flaxyolo.machine.devices import pinned

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Between two looks at the study."""
PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
SPARED = "FLAXYOLO_MEMORY_SPARED"
"""Environment variable of a parent that leaves an accelerator's memory to its workers."""


def spare_memory() -> None:
    """Let this process take of an accelerator's memory only what it needs; call it before JAX
    looks for devices. A user's own setting stays."""
    if PREALLOCATE not in os.environ:
        os.environ |= {PREALLOCATE: "false", SPARED: "1"}


def supervise(
    study: optuna.Study,
    folder: Path,
    command: Callable[[int], Command],
    workers: int,
    *,
    changed: Callable[[], None],
    draw: Callable[[], None],
) -> None:
    """Run the workers to their end.

    `changed` is called whenever a trial has got further, and at the end; `draw` at every look.
    """
    known = state_of(study)
    # Of commands that were killed, whose trials have been taken up.
    remove_free_locks(study, folder)
    try:
        with Crew(folder, command, workers) as crew:
            while not crew.done:
                bury_dead(study, folder, crew.poll(known, wait=POLL_S))
                before, known = known, state_of(study)
                # While a worker measures, this process should have nothing to do.
                if known != before:
                    changed()
                draw()
    finally:
        # Of workers that were killed; the crew has none left.
        remove_free_locks(study, folder)
    changed()


def worker_command(
    module: str, folder: Path, workers: int, storage: str | None
) -> Callable[[int], Command]:
    """How each of `workers` is started: a module that takes its folder and its index."""

    def command(index: int) -> Command:
        environment = pinned(index, workers)
        if environment.pop(SPARED, None):
            del environment[PREALLOCATE]
        if storage is not None:
            environment[STORAGE] = storage
        return [sys.executable, "-m", module, str(folder), str(index)], environment

    return command


def bury_dead(study: optuna.Study, folder: Path, events: Iterable[Event]) -> None:
    """Set the trials of workers that have died free, and tell why they did."""
    for event in events:
        if not isinstance(event, Died):
            continue
        log.warning("a worker ended and is started again: %s; its log is %s",
                    event.reason, event.log)  # fmt: skip
        crash = event.reason if event.crashed else None
        bury(study, folder, event.worker, crash=crash, log_file=event.log)


def state_of(study: optuna.Study) -> tuple[Hashable, ...]:
    """What changes whenever a trial has got further, or has crashed."""
    return tuple(map(progress, study.get_trials(deepcopy=False)))
