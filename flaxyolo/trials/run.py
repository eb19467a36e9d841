"""A sweep from its plan to its announcement, once everything is prepared."""

import logging
import math

import optuna
from rich.console import Console

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.processes import Crew
from flaxyolo.crew.storage import STUDY_FILE
from flaxyolo.crew.supervise import POLL_S, bury_dead, state_of, worker_command
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.search.finalists import chosen
from flaxyolo.search.results import TrialResult, results
from flaxyolo.search.setting import BATCH_SIZE, Sweep
from flaxyolo.search.spending import CHEAP
from flaxyolo.trials import table as report
from flaxyolo.trials.confirm import confirm, confirmed_line
from flaxyolo.trials.outputs import error_line, remove_states, sweep_report, update_outputs
from flaxyolo.trials.progress import Display
from flaxyolo.trials.work import EXHAUSTED

log = logging.getLogger(__name__)
NO_CANDIDATE = "no candidate met the budget"


def tell_plan(sweep: Sweep, step_seconds: float | None, hours: float) -> None:
    """Log what will be spent, with its expected time where a training step was timed."""
    log.info("plan: %s", sweep.spending.describe())
    if step_seconds is not None:
        steps = -(-len(sweep.data.train) // BATCH_SIZE) * sweep.spending.training_epochs
        told = cli.duration(steps * step_seconds)
        log.info("plan: about %s of training at the baseline's pace, if all are inside the budget; "
                 "compiling and measuring come on top", told)  # fmt: skip
    if hours < math.inf:
        log.info("plan: ends after %s at the latest, finalists first; the same command goes on",
                 cli.duration(3600 * hours))  # fmt: skip


def watch(
    study: optuna.Study,
    sweep: Sweep,
    workers: int,
    storage: str | None,
    began: float,
    deadline: float,
) -> None:
    """Run the workers to their end; every output is up to date after each change.

    Both times are in seconds since 1970.
    """
    gate = Gate(device_key())
    command = worker_command("flaxyolo.trials.work", sweep.folder, workers, storage)
    found, known = results(study), state_of(study)
    display = Display(sweep, found, workers, began, deadline)
    with Crew(sweep.folder, command, workers) as crew, display.bars:
        update_outputs(found, sweep, gate)
        while not crew.done:
            bury_dead(study, sweep.folder, crew.poll(known, wait=POLL_S))
            before, known = known, state_of(study)
            # While a worker measures, this process should have nothing to do.
            if known != before:
                found = results(study)
                if display.update(found):
                    update_outputs(found, sweep, gate)
            display.draw(found)
    found = results(study)
    display.update(found)
    update_outputs(found, sweep, gate)


def finish(study: optuna.Study, sweep: Sweep) -> None:
    """Print the table and what to do next; InputError where no candidate met the budget."""
    gate = Gate(device_key())
    confirm(study, sweep, gate)
    found = results(study)
    update_outputs(found, sweep, gate)
    cheap = sum(each.stage == CHEAP for each in found)
    exhausted = study.user_attrs.get(EXHAUSTED, False)
    if all(each.is_over for each in found) and (cheap >= sweep.spending.trials or exhausted):
        remove_states(sweep)
    else:
        log.info(
            "the time is up after %d of %d candidates; the same command goes on",
            sum(each.stage == CHEAP and each.cost is not None for each in found),
            sweep.spending.trials,
        )
    told = Console(highlight=False, markup=False)
    if not told.is_terminal:
        told.width = max(told.width, 160)
    shown = sweep_report(found, sweep)
    told.print(report.table(shown))
    for line in shown.told:
        told.print(line, soft_wrap=True)
    best = chosen(found)
    if best is None or best.cost is None:
        raise InputError(nothing_found(found, sweep.budget))
    folder = sweep.folder
    told.print(
        f"Best: trial {best.number}, {report.outcome(best)}, {best.cost.image_size} px",
        soft_wrap=True,
    )
    if again := confirmed_line(study, best.number):
        told.print(again, soft_wrap=True)
    told.print(
        f"Checkpoint: {folder / 'best'}   Pictures: {folder / 'detections.png'}", soft_wrap=True
    )
    if line := error_line(sweep):
        told.print(line, soft_wrap=True)
    if (folder / STUDY_FILE).exists():
        told.print(f"Look closer: optuna-dashboard {folder / STUDY_FILE}", soft_wrap=True)
    told.print(
        f"Next, train it for longer: python -m flaxyolo.train {folder / 'best.yaml'} "
        f"--data {sweep.source} --epochs {10 * sweep.spending.epochs} --out {folder}-trained",
        soft_wrap=True,
    )


def nothing_found(found: list[TrialResult], budget: Budget) -> str:
    """Why there is no best detector, with the nearest candidate and its figure."""
    measured = [result for result in found if result.cost is not None]
    if not measured:
        return f"{NO_CANDIDATE}: none of the {len(found)} could be measured; see the table"
    fastest = min(measured, key=lambda result: result.cost.latency_ms_p95 if result.cost else 0.0)
    assert fastest.cost is not None
    inside = [result for result in measured if result.cost and budget.allows(result.cost)]
    figures = (
        f"the fastest of {len(measured)} measured is trial {fastest.number} with "
        f"{fastest.cost.latency_ms_p95:.2f} ms p95 and {fastest.cost.vram_mib:.1f} MiB"
    )
    if inside:
        return f"{len(inside)} candidates met the budget but none finished its training; {figures}"
    return (
        f"{NO_CANDIDATE} ({budget.describe()}): {figures}; raise the budget, or name a space "
        "of smaller networks with --space"
    )
