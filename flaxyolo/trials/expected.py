"""How long the rest of a sweep may take, from what its trials have taken so far."""

from collections.abc import Sequence

from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.schedule import choose_finalists
from flaxyolo.search.spending import Spending

SPARE = 1.1
"""Of an estimate: no two epochs take the same time."""


def epoch_seconds(result: Record) -> float | None:
    """Seconds of one epoch of a trial, its compilation shared among them; None before the first."""
    spent = result.seconds.get("train", 0.0)
    return spent / result.epochs if result.epochs and spent else None


def beside_seconds(result: Record) -> float:
    """Seconds that a trial spent on anything but training."""
    return sum(seconds for stage, seconds in result.seconds.items() if stage != "train")


def finals_seconds(found: Sequence[Record], spending: Spending) -> float:
    """Seconds of one worker that the finalists still need; 0 before anything was scored."""
    cheap = [each for each in found if each.stage == CHEAP]
    begun = {(each.finalist, each.seed): each for each in found if each.stage == FINAL}
    total = 0.0
    for number in choose_finalists(cheap, spending):
        candidate = found[number]
        each = epoch_seconds(candidate)
        if each is None:
            continue
        for place, seed in enumerate(spending.seeds):
            known = begun.get((number, seed))
            if known is not None and known.is_over:
                continue
            # The first seed's run goes on from the candidate's, if the schedule is the same.
            same = place == 0 and spending.epochs == spending.short_epochs
            done = candidate.epochs if same else 0
            total += (spending.epochs - done) * each + beside_seconds(candidate)
    return SPARE * total


def seconds_left(found: Sequence[Record], spending: Spending) -> float | None:
    """Seconds of one worker that all the rest needs; None before a candidate was trained."""
    cheap = [each for each in found if each.stage == CHEAP]
    begun = [each for each in cheap if each.cost is not None]
    known = [(each, epoch_seconds(each)) for each in begun]
    paces = [pace for _, pace in known if pace is not None]
    if not paces:
        return None
    pace = sum(paces) / len(paces)
    beside = sum(map(beside_seconds, begun)) / len(begun)
    to_come = max(0, spending.trials - len(begun))
    share = len(paces) / len(begun)
    trained = sum(each.epochs for each in cheap)
    cheap_epochs = spending.training_epochs - spending.final_epochs
    left = max(0.0, cheap_epochs * share - trained) * pace + to_come * beside
    finals = [each for each in found if each.stage == FINAL]
    candidates_left = any(each.state in ("waiting", "running") for each in cheap)
    if to_come or (candidates_left and not finals):
        return left + spending.final_epochs * pace
    done = sum(each.is_over for each in finals)
    return (spending.runs - done) * spending.epochs * pace
