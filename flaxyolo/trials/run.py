"""A sweep from its plan to its announcement, once everything is prepared."""

import logging
import math

import optuna

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.words import many
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import FINAL, Record
from flaxyolo.crew.storage import STUDY_FILE
from flaxyolo.crew.supervise import supervise, worker_command
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.search.controls import SCALED, controls, drawn
from flaxyolo.search.objective import FULL_SUPPORT, in_words, support, supported, thin
from flaxyolo.search.results import results
from flaxyolo.search.setting import BATCH_SIZE, Sweep
from flaxyolo.search.spending import Spending
from flaxyolo.training.follow import Followers
from flaxyolo.trials.confirm import confirm, confirmed_cost
from flaxyolo.trials.logged import follow
from flaxyolo.trials.outputs import error_line, remove_states, sweep_report, update_outputs
from flaxyolo.trials.parent import FOLDER
from flaxyolo.trials.progress import Display
from flaxyolo.trials.published import publish
from flaxyolo.trials.standings import LEARNT, Standings
from flaxyolo.trials.table import best_found, costs, outcome, table
from flaxyolo.trials.work import EXHAUSTED, NONE_SCALED

log = logging.getLogger(__name__)
PIPED = 160
"""Columns of the table in a file or pipe."""
USED = 0.85
"""Of the budget, what candidates are expected to take."""
NO_CANDIDATE = "no candidate met the budget"


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
    if sweep.teacher is not None:
        log.info("plan: full runs, the controls' like the finalists', learn from %s too, so a step "
                 "takes about %.1f times as long; candidates do without",
                 sweep.teacher.path, sweep.spending.seconds_each)  # fmt: skip
    log.info("plan: the best is meant to be trained for %d epochs (--final-epochs)",
             sweep.final_epochs)  # fmt: skip
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
    publish(study, standings, sweep.folder, ended=True)
    update_outputs(standings, sweep, gate)
    tell_end(study, standings, sweep)
    report = sweep_report(standings, sweep)
    best = standings.best
    told = cli.tables_console(PIPED)
    answer, where = [], []
    if best is not None and standings.nothing_learnt:
        answer = nothing_learnt(best, sweep.budget, sweep.source, sweep.spending.epochs)
    elif best is not None:
        answer, where = answer_lines(study, standings, sweep), where_lines(sweep)
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


def answer_lines(study: optuna.Study, standings: Standings, sweep: Sweep) -> list[str]:
    """The best detector: how good it is, what it costs, what it beats, how sure that is."""
    best = standings.best
    assert best is not None, "there is an answer"
    network = next(one for one in standings.networks if one.number == best.trial)
    again = confirmed_cost(study, best.number)
    cost = again or network.shown.cost
    told = None if cost is None else costs(cost, standings.budget)
    where = ", measured again in a fresh process" if again is not None else ""
    cost_line = None if told is None else f"{told}{where}"
    missing = missing_line(study, standings, sweep.spending)
    lines = [best_found(network), cost_line, standings.lead, missing, open_line(standings)]
    return [line for line in lines if line]


def open_line(standings: Standings) -> str | None:
    """That a trained network is ahead of the best, but for the budget, which only a calmer machine
    can tell; None where there is none."""
    budget, best = standings.budget, standings.best
    ahead = [
        each
        for each in standings.records
        if each.stage == FINAL
        and each.undecided
        and each.objective is not None
        and (best is None or each.objective > (best.objective or 0.0))
    ]
    if not ahead:
        return None
    first = max(ahead, key=lambda each: each.objective or 0.0)
    assert first.cost is not None, "it was measured"
    return (
        f"Trial {first.trial} has {first.objective:.3f}, and only a calmer machine can tell if "
        f"it keeps the budget: {budget.latency_of(first.cost):.2f} ms here, at least "
        f"{first.cost.floor_ms or 0.0:.2f} ms; the same command measures it again"
    )


def missing_line(study: optuna.Study, standings: Standings, spending: Spending) -> str | None:
    """That no YOLOv8 was begun which the best could be compared with, and why."""
    if not spending.controls or SCALED in controls(standings.records):
        return None
    if study.user_attrs.get(NONE_SCALED, False):
        return f"No {SCALED} into the budget is compared with: none is expected to keep it"
    return f"No {SCALED} into the budget is compared with yet: the same command goes on with it"


def where_lines(sweep: Sweep) -> list[str]:
    """Where the best detector lies, and what to do next."""
    folder = sweep.folder
    lines = [
        f"Checkpoint: {folder / 'best'}   Pictures: {folder / 'detections.png'}",
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


def nothing_learnt(first: Record, budget: Budget, source: str, epochs: int) -> list[str]:
    """That there is no best detector though one is first, and what to do about it."""
    return [
        f"Nothing has learnt: trial {first.trial} is first with {outcome(first, budget)}; "
        f"an mAP50 below {LEARNT:g} is chance, and none of these detectors is of use",
        f"Train for longer: the same command with --epochs {10 * epochs} and another --study",
        "Or look whether boxes and classes are those of the images: "
        f"python -m flaxyolo.stats {source}",
    ]


def parent_told(sweep: Sweep) -> str:
    """Where the parent is, which is trained all the same."""
    detector = sweep.folder / FOLDER / "detector"
    return f"; the parent is trained: {detector}" if detector.is_dir() else ""


def nothing_found(standings: Standings) -> str:
    """Why there is no best detector, with the nearest candidate and its figure."""
    budget, records = standings.budget, standings.records
    costs = {record.trial: record.cost for record in records if record.cost is not None}
    if not costs:
        return f"{NO_CANDIDATE}: none of the {len(records)} could be measured; see the table"
    number = min(costs, key=lambda number: budget.latency_of(costs[number]))
    figures = (
        f"the fastest of {len(costs)} measured is trial {number} with "
        f"{budget.latency_of(costs[number]):.2f} ms {budget.latency_stat} and "
        f"{costs[number].vram_mib:.1f} MiB"
    )
    inside = sum(budget.allows(cost) for cost in costs.values())
    if inside:
        return (
            f"{many(inside, 'candidate')} met the budget but none finished its training; {figures}"
        )
    return (
        f"{NO_CANDIDATE} ({budget.describe()}): {figures}; raise the budget, or name a space "
        "of smaller networks with --space"
    )
