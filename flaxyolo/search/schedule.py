"""What a worker does next, worked out from the study alone, so that any worker can ask."""

from collections.abc import Sequence
from math import inf
from statistics import median
from typing import NamedTuple

import numpy as np

from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.controls import SCALED, drawn, kind, lacks_scaled, ready
from flaxyolo.search.earlier import as_runs, scored_candidates
from flaxyolo.search.features import matrix
from flaxyolo.search.funnel import merits, next_finalists, promoted
from flaxyolo.search.racing import next_runs
from flaxyolo.search.spending import REDUCTION, Spending

TIMED = 2
"""Candidates whose seconds tell whether it pays to wait."""
IN_TRAINING = ("train", "evaluate")
"""Stages of a trial that grow with its epochs."""


class GoOn(NamedTuple):
    """Claim this waiting trial, and train it up to an epoch."""

    number: int
    until: int


class Propose(NamedTuple):
    """Add a candidate."""


class AddScaled(NamedTuple):
    """Add a YOLOv8 scaled into the budget, which the finalists are compared with."""


class MeasureAgain(NamedTuple):
    """Claim this waiting candidate, and measure it on what may be a calmer machine."""

    number: int
    until: int
    """The epoch that it has reached."""


class AddFinals(NamedTuple):
    """Add full runs of finalists and controls: candidate and seed of each, in their order."""

    runs: tuple[tuple[int, int], ...]


class Close(NamedTuple):
    """End these paused candidates: they are behind."""

    numbers: tuple[int, ...]


class Wait(NamedTuple):
    """Nothing to do before another worker has finished."""


class Done(NamedTuple):
    """The sweep is complete."""


Job = GoOn | Propose | AddScaled | MeasureAgain | AddFinals | Close | Wait | Done


def wants_more(found: Sequence[Record], spending: Spending) -> bool:
    """Whether there are fewer candidates than are to be tried."""
    return sum(each.again is None for each in drawn(found)) < spending.trials


def wants_scaled(found: Sequence[Record], spending: Spending) -> bool:
    """Whether a YOLOv8 scaled into the budget is asked for, and none is there that may fit."""
    return spending.controls and lacks_scaled(found)


def next_job(
    found: Sequence[Record],
    spending: Spending,
    *,
    closing: bool = False,
    exhausted: bool = False,
    none_scaled: bool = False,
    highest: float = 1.0,
    affordable: float = inf,
    waits: int | None = None,
) -> Job:
    """The next job of the funnel.

    Candidates in their order, but one that is ahead at its rung goes on first. When all have been
    tried, those behind are ended and the finalists trained, and with them the controls: all with
    the first seed, then whoever is not told apart from the leader with another (`next_runs`, which
    takes `highest` and `affordable`). What only a calmer machine can tell of is measured again
    before they are chosen. `closing` says that the time left is what the first seeds need: no
    candidate goes on but the controls, which have their part of it, and those behind stay where
    they are for the next run of the command. The space may be `exhausted`, and no further YOLOv8
    expected to fit (`none_scaled`). It may pay to wait at the first few rungs only (`waits`, see
    `rungs_that_pay`): who begins or goes on then passes by the others.
    """
    rungs = spending.rungs if waits is None else (*spending.rungs[:-1][:waits], spending.rungs[-1])
    cheap = [each for each in found if each.stage == CHEAP]
    fresh = [each for each in cheap if each.state == "waiting" and each.paused is None]
    running = any(each.state == "running" for each in cheap)
    paused = [each for each in cheap if each.state == "waiting" and each.paused is not None]
    more = wants_more(found, spending) and not exhausted
    if not closing:
        ahead = promotable(
            [each for each in cheap if not apart(each, spending)],
            spending.rungs,
            last_chance=not (more or fresh or running),
        )
        if ahead is not None:
            return GoOn(ahead.number, next_rung(ahead, rungs))
        if fresh:
            # What was interrupted had been begun first.
            each = max(fresh, key=lambda each: (each.epochs, -each.number))
            waiting_at = spending.rungs if apart(each, spending) else rungs
            return GoOn(each.number, next_rung(each, waiting_at))
        if wants_scaled(found, spending) and not none_scaled:
            return AddScaled()
        if more:
            return Propose()
        if running:
            return Wait()
        whole = [each for each in paused if each.undecided and each.epochs >= spending.short_epochs]
        if whole:
            return MeasureAgain(whole[0].number, whole[0].epochs)
        if paused:
            return Close(tuple(each.number for each in paused))
    finals = [each for each in found if each.stage == FINAL and each.duplicate_of is None]
    chosen = entrants(cheap, spending)
    for each in paused:
        if each.undecided and each.number in chosen:
            return MeasureAgain(each.number, each.epochs)
    runs = next_runs(chosen, finals, spending.seeds, highest=highest, affordable=affordable)
    if runs:
        return AddFinals(tuple(runs))
    waiting = [each for each in finals if each.state == "waiting"]
    if waiting:
        order = [(number, seed) for seed in spending.seeds for number in chosen]
        places = {run: place for place, run in enumerate(order)}
        # What a calmer machine has to tell of comes last.
        first = min(waiting, key=lambda each: (each.undecided, places.get(_run(each), len(places))))
        return GoOn(first.number, spending.epochs)
    if closing and spending.controls and affordable >= 1:
        late = [each for each in fresh if kind(each) is not None]
        if late:
            return GoOn(late[0].number, spending.rungs[0])
        if wants_scaled(found, spending) and not none_scaled:
            return AddScaled()
    if any(each.state == "running" for each in found if closing is False or each.stage == FINAL):
        return Wait()
    return Done()


def _run(result: Record) -> tuple[int, int]:
    assert result.finalist is not None
    assert result.seed is not None
    return result.finalist, result.seed


def next_rung(result: Record, rungs: Sequence[int]) -> int:
    """The rung after the last at which a candidate was scored."""
    return min((rung for rung in rungs if rung > result.epochs), default=rungs[-1])


def rungs_that_pay(found: Sequence[Record], spending: Spending) -> int:
    """At how many rungs, from the first on, candidates should wait for each other.

    Who is stopped at a rung saves the rest of its training for another candidate. Where that takes
    no longer than another takes apart from its training (drawn, compiled, measured), nothing is
    saved that a full score is not worth. All rungs, until `TIMED` candidates have told.
    """
    timed = [
        each for each in found
        if each.stage == CHEAP and each.epochs and each.seconds.get("train")
    ]  # fmt: skip
    before_end = spending.rungs[:-1]
    if len(timed) < TIMED:
        return len(before_end)
    epoch = median(each.seconds["train"] / each.epochs for each in timed)
    beside = median(
        sum(seconds for stage, seconds in each.seconds.items() if stage not in IN_TRAINING)
        for each in timed
    )
    return sum((spending.short_epochs - rung) * epoch > beside for rung in before_end)


def promotable(
    cheap: Sequence[Record], rungs: Sequence[int], *, last_chance: bool
) -> Record | None:
    """The paused candidate to go on: of the highest rung with one that is ahead, the best.

    Those that began with fresh weights are told apart by `merits`, others by their scores.
    With `last_chance` no candidate is still to come, so the share that goes on is rounded up.
    """
    for rung in reversed(rungs[:-1]):
        there = [
            each
            for each in cheap
            if each.duplicate_of is None and each.objective_at(rung) is not None
        ]
        if not there:
            continue
        points = [point for each in there if (point := each.point_at(rung)) is not None]
        scores = np.array([point.objective for point in points], float)
        noise = np.array([point.objective_se for point in points], float)
        merit = scores
        if all(each.inherited is None for each in there):
            firsts = [each.point_at(1) for each in there]
            now, first = (np.array([point and point.loss.get("box") for point in at], float)
                          for at in (points, firsts))  # fmt: skip
            merit = merits(scores, now, first)
        ahead = promoted(scores, REDUCTION, noise=noise, merit=merit, round_up=last_chance)
        waiting = [
            (merit[place], each)
            for place, each in enumerate(there)
            if ahead[place] and each.paused == rung and each.state == "waiting"
        ]
        if waiting:
            return max(waiting, key=lambda pair: (pair[0], -pair[1].number))[1]
    return None


def apart(record: Record, spending: Spending) -> bool:
    """Whether it takes no finalist's place and waits at no rung, because it is a control."""
    which = kind(record)
    return which == SCALED or (which is not None and spending.controls)


def entrants(cheap: Sequence[Record], spending: Spending) -> list[int]:
    """Numbers of the candidates that have full runs: the finalists, then the controls."""
    controls = ready(cheap) if spending.controls else []
    # The parent may be a finalist too.
    numbers = (*choose_finalists(cheap, spending), *(each.number for each in controls))
    return list(dict.fromkeys(numbers))


def choose_finalists(cheap: Sequence[Record], spending: Spending) -> list[int]:
    """Numbers of the candidates that are trained on the full schedule, the most promising first.

    They follow from the candidates alone, so every worker chooses the same.
    """
    scored = scored_candidates(cheap, spending.short_epochs)
    others = {each.number for each in cheap if apart(each, spending)}
    mine = [each for each in scored if each.number not in others]
    if not mine:
        return []
    features = matrix([each.features for each in scored])[1]
    runs = as_runs(scored, features)
    # The surrogate learns from the controls too.
    controls = [row for row, each in enumerate(scored) if each.number in others]
    # Candidates that the surrogate cannot tell apart are one to it.
    distinct = len(np.unique(features, axis=0)) - len(np.unique(features[controls], axis=0))
    count = min(spending.finalists, distinct)
    chosen = [scored[row].number for row in next_finalists(runs, count, controls)]
    rest = sorted(mine, key=lambda each: (-each.share, -each.score))
    chosen += dict.fromkeys(each.number for each in rest if each.number not in chosen)
    return chosen[: spending.finalists]
