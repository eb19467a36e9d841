"""A worker of a sweep: takes one job after the other until the study has none left.

Run by the command `sweep`, as `python -m flaxyolo.trials.work FOLDER INDEX`.
"""

import logging
import sys
import time
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import TrialState, create_trial

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import many
from flaxyolo.cost.recorded import count_of
from flaxyolo.crew.custody import custody
from flaxyolo.crew.leases import take_up
from flaxyolo.crew.programs import Programs
from flaxyolo.crew.record import CHEAP, FINAL, Entry, Record, attributes
from flaxyolo.crew.storage import open_runs
from flaxyolo.crew.surroundings import Stage
from flaxyolo.crew.task import read_task
from flaxyolo.crew.worker import UNMEASURED, Desk, at_desk, main
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.search.anew import judged_anew, thrown_out
from flaxyolo.search.controls import kind
from flaxyolo.search.propose import Proposer
from flaxyolo.search.results import results
from flaxyolo.search.schedule import (
    AddFinals,
    AddScaled,
    Close,
    Done,
    GoOn,
    MeasureAgain,
    Propose,
    Wait,
    next_job,
    rungs_that_pay,
    wants_more,
    wants_scaled,
)
from flaxyolo.search.setting import Sweep, Task
from flaxyolo.search.spending import Spending
from flaxyolo.trials.expected import affordable, finals_seconds
from flaxyolo.trials.trial import run_trial

log = logging.getLogger("flaxyolo.trials.work")

EXHAUSTED = "exhausted"
"""Attribute of a study whose space holds nothing new."""
UNMEASURED_IN_A_ROW = 3
"""Trials that the engine of the latencies did not run, before the sweep ends."""
NONE_SCALED = "no_scaled_fits"
"""Attribute of a study in whose budget no YOLOv8 is expected to fit."""


def run_worker(folder: Path, index: int) -> None:
    """Work until nothing is left to do."""
    task = read_task(folder, Task)
    sweep = task.restored(folder)
    keep_compiled()
    with at_desk(sweep.folder, index, opened=open_runs, seed=sweep.seed) as desk:
        proposer, programs = Proposer(sweep, desk.gate, index), Programs()
        while work(desk, task, sweep, proposer, programs):
            pass
        proposer.save()
        desk.leave()


def work(desk: Desk, task: Task, sweep: Sweep, proposer: Proposer, programs: Programs) -> bool:
    """Do the next job; whether there may be another."""
    study = desk.study
    take_up(study, sweep.folder)
    found = results(study)
    none_scaled = study.user_attrs.get(NONE_SCALED, False)
    seconds = finals_seconds(found, sweep.spending, none_scaled=none_scaled)
    reserve = seconds / task.workers
    left = task.deadline - time.time()
    closing = reserve > left
    if not closing and judge_anew(study, found, sweep, proposer):
        return True
    job = next_job(
        found,
        sweep.spending,
        closing=closing,
        exhausted=study.user_attrs.get(EXHAUSTED, False),
        none_scaled=none_scaled,
        highest=sweep.objective.highest,
        affordable=affordable(found, sweep.spending, left * task.workers),
        waits=waits(found, sweep.spending),
    )
    match job:
        case Done():
            return False
        case Wait():
            desk.wait()
        case Close(numbers):
            for number in numbers:
                close(desk, found[number], sweep)
        case Propose():
            propose(desk, found, sweep, proposer)
        case AddScaled():
            add_scaled(desk, found, sweep, proposer)
        case AddFinals(runs):
            for number, seed in runs:
                add_final(study, found[number], seed, sweep)
        case MeasureAgain(number, until):
            return go_on(desk, number, until, task.deadline, sweep, proposer, programs)
        case GoOn(number, until):
            # A control that is begun late is what the time is held back for.
            last = closing or found[number].stage == FINAL
            end = task.deadline - (0.0 if last else reserve)
            return go_on(desk, number, until, end, sweep, proposer, programs) or not last
    return True


def waits(found: list[Record], spending: Spending) -> int:
    """At how many rungs candidates wait for each other."""
    scored = sum(each.stage == CHEAP and each.objective is not None for each in found)
    what = f"rungs that pay after {scored} scored candidates"
    return count_of(what, lambda: rungs_that_pay(found, spending))


def propose(desk: Desk, found: list[Record], sweep: Sweep, proposer: Proposer) -> None:
    """Add the next candidate; a study whose space holds nothing new is marked."""
    desk.note(Stage("proposing"), len(found))
    with desk.gate.training():
        proposal = proposer.propose(found)
    if proposal is None:
        log.warning("every detector of the space was tried; no more candidates")
        desk.study.set_user_attr(EXHAUSTED, True)
    else:
        add_wanted(desk.study, sweep.spending, proposal)


def add_scaled(desk: Desk, found: list[Record], sweep: Sweep, proposer: Proposer) -> None:
    """Add a YOLOv8 scaled into the budget; a study in whose budget none fits is marked."""
    desk.note(Stage("proposing"), len(found))
    with desk.gate.training():
        control = proposer.scaled(found)
    if control is None:
        log.warning("no YOLOv8 is expected inside the budget; the comparison goes without one")
        desk.study.set_user_attr(NONE_SCALED, True)
    elif wants_scaled(results(desk.study), sweep.spending):
        add(desk.study, control)


def judge_anew(study: optuna.Study, found: list[Record], sweep: Sweep, proposer: Proposer) -> bool:
    """Add what a busy machine had thrown out and a calmer one may not; whether there was any."""
    if not thrown_out(found):
        return False
    wanted = judged_anew(found, sweep.budget, proposer.table.contents.reference)
    for record in wanted:
        log.info("trial %d was over the budget on a machine that has been calmer since: once more",
                 found[record.again or 0].trial)  # fmt: skip
        add(study, record)
    return bool(wanted)


def go_on(
    desk: Desk,
    number: int,
    until: int,
    end: float,
    sweep: Sweep,
    proposer: Proposer,
    programs: Programs,
) -> bool:
    """Claim a trial and train it up to an epoch; False where there was no time for it."""
    lease = desk.claim(number)
    if lease is None:
        return True
    entry = Entry(lease.trial)
    entry.keep(paused=None)
    programs.turn_to(entry.record.spec)
    around = desk.surroundings(lease, end)
    try:
        had_time = desk.carry_out(
            lease, partial(run_trial, lease.trial, sweep=sweep, until=until, around=around)
        )
    finally:
        record = Entry(lease.trial).record
        proposer.learn(record)
        programs.are_of(record.spec)
    if record.reason.startswith(UNMEASURED):
        give_up(desk.study)
    return had_time


def give_up(study: optuna.Study) -> None:
    """InputError where the engine of the latencies ran none of the trials that ended last: that is
    no fault of theirs."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_complete]
    ended.sort(key=lambda trial: trial.datetime_complete or datetime.min)
    reasons = [custody(trial).reason for trial in ended[-UNMEASURED_IN_A_ROW:]]
    failed = [reason for reason in reasons if reason.startswith(UNMEASURED)]
    if len(failed) == UNMEASURED_IN_A_ROW:
        why = failed[-1].removeprefix(UNMEASURED)
        raise InputError(f"{why} ({len(failed)} trials in a row ended so)")


def close(desk: Desk, record: Record, sweep: Sweep) -> None:
    """End a paused candidate that is behind."""
    lease = desk.claim(record.number)
    if lease is None:
        return
    with lease:
        if record.cost is not None:
            Entry(lease.trial).constrain(sweep.budget.least_excess(record.cost))
        told = f"{record.epochs} of {many(sweep.spending.short_epochs, 'epoch')}"
        control = sweep.spending.controls and kind(record) is not None
        why = f"a control, {told} as a candidate" if control else f"behind after {told}"
        desk.end(lease, TrialState.PRUNED, why)


def add(study: optuna.Study, record: Record) -> None:
    """Add a trial with its parameters and what is known of it, which any worker may claim."""
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": dict(record.params)},
            user_attrs=attributes(record),
        )
    )


def add_wanted(study: optuna.Study, spending: Spending, proposal: Record) -> None:
    """Add a proposed candidate, unless another worker has added the last one in the meantime, or
    has come to the same."""
    found = results(study)
    twins = [each for each in found if each.stage == CHEAP and each.params == proposal.params]
    if wants_more(found, spending) and not twins:
        add(study, proposal)


def add_final(study: optuna.Study, candidate: Record, seed: int, sweep: Sweep) -> None:
    """Add the full run of a finalist; one that is the candidate's own run is complete already."""
    run = Record(
        number=len(study.get_trials(deepcopy=False)),
        state="waiting",
        params=candidate.params,
        stage=FINAL,
        finalist=candidate.number,
        seed=seed,
        origin=f"finalist {candidate.trial}, seed {seed}",
        # The same network costs the same.
        cost=candidate.cost,
        # The space does not draw a control.
        spec=candidate.spec,
        # A run that goes on from the candidate's began as that did.
        inherited=candidate.inherited,
        begun=candidate.begun,
        looks=candidate.looks,
    )
    same = sweep.full(seed) == sweep.short and sweep.teacher is None
    if candidate.state != "complete" or not same:
        add(study, run)
        return
    run = replace(
        run,
        spec=candidate.spec,
        features=candidate.features,
        history=candidate.history,
        scores=candidate.scores,
        run=candidate.run,
    )
    known = study.get_trials(deepcopy=False)[candidate.number]
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=candidate.objective,
            params=known.params,
            distributions=known.distributions,
            user_attrs=attributes(run),
            intermediate_values=known.intermediate_values,
            constraints=known.constraints,
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_worker))
