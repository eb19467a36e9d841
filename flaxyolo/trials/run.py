"""A sweep from its plan to its announcement, once everything is prepared."""

import logging
import math
from pathlib import Path

import optuna

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.crew.storage import STUDY_FILE
from flaxyolo.crew.supervise import supervise, worker_command
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.search.controls import drawn
from flaxyolo.search.objective import FULL_SUPPORT, in_words, support, supported, thin
from flaxyolo.search.results import results
from flaxyolo.search.setting import BATCH_SIZE, Sweep
from flaxyolo.training.follow import Followers
from flaxyolo.trials.answer import answer_lines, nothing_found, nothing_learnt
from flaxyolo.trials.confirm import confirm
from flaxyolo.trials.logged import follow
from flaxyolo.trials.outputs import (
    error_line,
    remove_done,
    remove_states,
    sweep_report,
    update_outputs,
)
from flaxyolo.trials.page import write_at_end
from flaxyolo.trials.parent import FOLDER
from flaxyolo.trials.progress import Display
from flaxyolo.trials.published import publish
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import table
from flaxyolo.trials.work import EXHAUSTED

log = logging.getLogger(__name__)
PIPED = 160
"""Columns of the table in a file or pipe."""
USED = 0.85
"""Of the budget, what candidates are expected to take."""


def tell_plan(sweep: Sweep, step_seconds: float | None, share: float | None, hours: float) -> None:
    """Log what will be spent, with its expected time where a training step was timed.

    `share` of the budget is what the network of that step takes; None where that is not known.
    """
    tell_objective(sweep)
    log.info("plan: %s", sweep.spending.describe())
    if sweep.parent_epochs:
        log.info("plan: the parent, which is the network that the data advise, is trained first "
                 "(epochs: %d), and every network begins with its weights (--from-scratch does "
                 "without); where another wins, it is trained on for as long beside it",
                 sweep.parent_epochs)  # fmt: skip
    if sweep.target is not None:
        latency = sweep.budget.latency_ms is not None
        log.info("plan: memory is that on %s, for which each network is compiled (a minute or two "
                 "each)%s", sweep.target.name,
                 "; latency is that of this device" if latency else "")  # fmt: skip
    if sweep.teacher is not None:
        log.info("plan: full runs, the controls' like the finalists', learn from %s too, so a step "
                 "takes about %.1f times as long; candidates do without",
                 sweep.teacher.path, sweep.spending.seconds_each)  # fmt: skip
    log.info("plan: the best is meant to be trained for %d epochs (--final-epochs)",
             sweep.final_epochs)  # fmt: skip
    if sweep.engine.name != "jax":
        log.info("plan: latencies are those of %s, NMS included; what is not measured yet is "
                 "expected from JAX's times of its blocks here, corrected by the networks that "
                 "were measured on %s",
                 sweep.engine.describe(), sweep.engine.name)  # fmt: skip
    if step_seconds is not None:
        steps = -(-len(sweep.data.train) // BATCH_SIZE)
        spending = sweep.spending
        longer = (spending.seconds_each - 1) * spending.epochs_of_finals
        epochs = (spending.training_epochs + longer) * (USED / share if share else 1.0)
        told = cli.duration(steps * (epochs + sweep.parent_epochs) * step_seconds)
        pace = f"if all use {USED:.0%} of the budget" if share else "at the baseline's pace"
        log.info("plan: about %s of training %s, with one seed each; compiling and measuring come "
                 "on top", told, pace)  # fmt: skip
    if hours < math.inf:
        log.info("plan: ends after %s at the latest, finalists first; the same command goes on",
                 cli.duration(3600 * hours))  # fmt: skip


def tell_objective(sweep: Sweep) -> None:
    """Log what is to be largest, and which of its sizes have few boxes to be judged by."""
    boxes, objective = support(sweep.data.val), sweep.objective
    few = {size: count for size, count in boxes.items() if count < FULL_SUPPORT}
    own, why = objective == supported(boxes), ""
    if own and few:
        why = f" ({in_words(few)} in validation; below {FULL_SUPPORT} a size counts in proportion)"
    log.info("objective: %s%s", objective.text, why)
    if not own and (few := thin(objective, boxes)):
        log.warning("objective: %s in validation, so %s is mostly luck; it is taken as written",
                    in_words(few), " and ".join(f"map_{size}" for size in few))  # fmt: skip


def watch(
    study: optuna.Study,
    sweep: Sweep,
    workers: int,
    storage: str | None,
    began: float,
    deadline: float,
    logs: Followers,
) -> None:
    """Run the workers to their end; every output is up to date after each change, and every logger.

    Both times are in seconds since 1970.
    """
    gate = Gate(device_key())
    command = worker_command("flaxyolo.trials.work", sweep.folder, workers, storage)
    standings = standings_of(study, sweep)
    display = Display(sweep, standings, workers, began, deadline)

    def changed() -> None:
        standings = standings_of(study, sweep)
        outcome_changed = display.update(standings)
        publish(study, standings, sweep.folder, ended=False)
        follow(logs, standings.records, sweep, shared=storage is not None)
        if outcome_changed:
            update_outputs(standings, sweep, gate)
            remove_done(standings, sweep)

    with display.bars, logs:
        publish(study, standings, sweep.folder, ended=False)
        update_outputs(standings, sweep, gate)
        supervise(study, sweep.folder, command, workers, changed=changed, draw=display.draw)
    update_outputs(standings_of(study, sweep), sweep, gate)


def standings_of(study: optuna.Study, sweep: Sweep) -> Standings:
    """Who leads in the study as it is now."""
    return Standings(results(study), sweep.budget, sweep.objective)


def finish(study: optuna.Study, sweep: Sweep) -> None:
    """Print the table and what to do next; InputError where no candidate met the budget."""
    gate = Gate(device_key())
    confirm(study, sweep, gate)
    standings = standings_of(study, sweep)
    seen = publish(study, standings, sweep.folder, ended=True)
    update_outputs(standings, sweep, gate)
    written = write_at_end(study, seen, sweep.folder)
    tell_end(study, standings, sweep)
    report = sweep_report(standings, sweep)
    best = standings.best
    told = cli.tables_console(PIPED)
    answer, where = [], []
    if best is not None and standings.nothing_learnt:
        answer = nothing_learnt(best, sweep.budget, sweep.source, sweep.spending.epochs)
    elif best is not None:
        answer = answer_lines(study, standings, sweep.spending)
        where = where_lines(sweep, written)
    for line in answer:
        told.print(line, soft_wrap=True)
    told.print(table(report))
    for line in (*report.told, *where):
        told.print(line, soft_wrap=True)
    if best is None or best.cost is None:
        raise InputError(f"{nothing_found(standings)}{parent_told(sweep)}")


def tell_end(study: optuna.Study, standings: Standings, sweep: Sweep) -> None:
    """Log what is still to do; of a sweep that is complete, remove what serves to go on."""
    candidates = drawn(standings.records)
    exhausted = study.user_attrs.get(EXHAUSTED, False)
    enough = exhausted or len(candidates) >= sweep.spending.trials
    if enough and all(record.is_over for record in standings.records):
        remove_states(sweep)
        return
    done = sum(record.cost is not None for record in candidates)
    log.info("the time is up after %d of %d candidates; the same command goes on",
             done, sweep.spending.trials)  # fmt: skip


def where_lines(sweep: Sweep, page: Path | None = None) -> list[str]:
    """Where the best detector lies, and the page of the study, and what to do next."""
    folder = sweep.folder
    lines = [
        f"Checkpoint: {folder / 'best'}   Pictures: {folder / 'detections.png'}",
        None if page is None else f"Report: {page}",
        error_line(sweep),
    ]
    if (folder / STUDY_FILE).exists():
        lines.append(f"Look closer: {cli.command_line('dashboard', folder)}")
    longer: list[object] = ["--epochs", sweep.final_epochs, "--out", f"{folder}-trained"]
    if sweep.initial is not None:
        # What was compared begins with weights; a training from none would begin anew.
        longer += ["--init", folder / "best"]
    if sweep.teacher is not None:
        longer += ["--teacher", sweep.teacher.path]
    train = cli.command_line("train", folder / "best.yaml", "--data", sweep.source, *longer)
    lines.append(f"Next, train it for longer: {train}")
    return [line for line in lines if line]


def parent_told(sweep: Sweep) -> str:
    """Where the parent is, which is trained all the same."""
    detector = sweep.folder / FOLDER / "detector"
    return f"; the parent is trained: {detector}" if detector.is_dir() else ""
