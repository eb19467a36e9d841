"""What a worker does next, worked out from the study alone, so that any worker can ask."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.earlier import as_runs, scored_candidates
from flaxyolo.search.features import matrix
from flaxyolo.search.funnel import next_finalist, promoted
from flaxyolo.search.spending import REDUCTION, Spending


class GoOn(NamedTuple):
    """Claim this waiting trial, and train it up to an epoch."""

    number: int
    until: int


class Propose(NamedTuple):
    """Add a candidate."""


class MeasureAgain(NamedTuple):
    """Claim this waiting candidate, and measure it on what may be a calmer machine."""

    number: int
    until: int
    """The epoch that it has reached."""


class AddFinals(NamedTuple):
    """Add the runs of the finalists: candidate and seed of each, in their order."""

    runs: tuple[tuple[int, int], ...]


class Close(NamedTuple):
    """End these paused candidates: they are behind."""

    numbers: tuple[int, ...]


class Wait(NamedTuple):
    """Nothing to do before another worker has finished."""


class Done(NamedTuple):
    """The sweep is complete."""


Job = GoOn | Propose | MeasureAgain | AddFinals | Close | Wait | Done


def wants_more(found: Sequence[Record], spending: Spending) -> bool:
    """Whether there are fewer candidates than are to be tried."""
    candidates = (each for each in found if each.stage == CHEAP and each.again is None)
    return len(list(candidates)) < spending.trials


def next_job(
    found: Sequence[Record],
    spending: Spending,
    *,
    closing: bool = False,
    exhausted: bool = False,
) -> Job:
    """The next job of the funnel.

    Candidates in their order, but one that is ahead at its rung goes on first. When all have been
    tried, those behind are ended and the finalists trained, seed by seed; what only a calmer
    machine can tell of is measured again before they are chosen. `closing` says that the
    time left is what the finalists need: no candidate goes on, and those behind stay where they
    are for the next run of the command.
    """
    cheap = [each for each in found if each.stage == CHEAP]
    fresh = [each for each in cheap if each.state == "waiting" and each.paused is None]
    running = any(each.state == "running" for each in cheap)
    paused = [each for each in cheap if each.state == "waiting" and each.paused is not None]
    more = wants_more(found, spending) and not exhausted
    if not closing:
        ahead = promotable(cheap, spending.rungs, last_chance=not (more or fresh or running))
        if ahead is not None:
            return GoOn(ahead.number, next_rung(ahead, spending.rungs))
        if fresh:
            # What was interrupted had been begun first.
            each = max(fresh, key=lambda each: (each.epochs, -each.number))
            return GoOn(each.number, next_rung(each, spending.rungs))
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
    begun = {(each.finalist, each.seed) for each in finals}
    chosen = choose_finalists(cheap, spending)
    for each in paused:
        if each.undecided and each.number in chosen:
            return MeasureAgain(each.number, each.epochs)
    wanted = [(number, seed) for seed in spending.seeds for number in chosen]
    if missing := tuple(each for each in wanted if each not in begun):
        return AddFinals(missing)
    waiting = [each for each in finals if each.state == "waiting"]
    if waiting:
        order = {run: place for place, run in enumerate(wanted)}
        # What a calmer machine has to tell of comes last.
        first = min(waiting, key=lambda each: (each.undecided, order.get(_run(each), len(order))))
        return GoOn(first.number, spending.epochs)
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


def promotable(
    cheap: Sequence[Record], rungs: Sequence[int], *, last_chance: bool
) -> Record | None:
    """The paused candidate to go on: of the highest rung with one that is ahead, the best.

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
        scores = np.array([each.objective_at(rung) for each in there], float)
        ahead = promoted(scores, REDUCTION, round_up=last_chance)
        waiting = [
            (scores[place], each)
            for place, each in enumerate(there)
            if ahead[place] and each.paused == rung and each.state == "waiting"
        ]
        if waiting:
            return max(waiting, key=lambda pair: (pair[0], -pair[1].number))[1]
    return None


def choose_finalists(cheap: Sequence[Record], spending: Spending) -> list[int]:
    """Numbers of the candidates that are trained on the full schedule, the most promising first.

    They follow from the candidates alone, so every worker chooses the same.
    """
    scored = scored_candidates(cheap, spending.short_epochs)
    if not scored:
        return []
    features = matrix([each.features for each in scored])[1]
    runs = as_runs(scored, features)
    taken: list[int] = []
    # Candidates that the surrogate cannot tell apart are one to it.
    for _ in range(min(spending.finalists, len(np.unique(features, axis=0)))):
        taken.append(next_finalist(runs, taken))
    chosen = [scored[row].number for row in taken]
    rest = sorted(scored, key=lambda each: (-each.share, -each.score))
    chosen += dict.fromkeys(each.number for each in rest if each.number not in chosen)
    return chosen[: spending.finalists]
