"""A worker of a sweep: takes one job after the other until the study has none left.

Run by the command `sweep`, as `python -m flaxyolo.trials.work FOLDER INDEX`.
"""

import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState, create_trial

from flaxyolo.crew.leases import (
    Lease,
    Worker,
    at_work,
    claim,
    take_up,
    workers_folder,
)
from flaxyolo.crew.record import Stage, Surroundings
from flaxyolo.crew.storage import open_study
from flaxyolo.crew.worker import (
    STORAGE,
    WAIT_S,
    carry_out,
    end,
    main,
    note,
    read_task,
    surroundings,
)
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
from flaxyolo.search.setting import Sweep, Task
from flaxyolo.search.spending import FINAL, Spending
from flaxyolo.trials.expected import finals_seconds
from flaxyolo.trials.trial import run_trial

log = logging.getLogger("flaxyolo.trials.work")
EXHAUSTED = "exhausted"
"""Attribute of a study whose space holds nothing new."""


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_worker))
