"""How long the rest of a sweep may take, from what its trials have taken so far."""

from collections.abc import Sequence
from math import inf

from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.controls import drawn, to_come
from flaxyolo.search.schedule import entrants
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


def finals_seconds(
    found: Sequence[Record], spending: Spending, *, none_scaled: bool = False
) -> float:
    """Seconds of one worker that the first full runs of finalists and controls still need.

    Further seeds come when all candidates were tried, so none is held back for them. 0 before
    anything was scored. `none_scaled` says that no YOLOv8 is expected to fit.
    """
    cheap = [each for each in found if each.stage == CHEAP]
    seed = spending.seeds[0]
    begun = {(each.finalist, each.seed): each for each in found if each.stage == FINAL}
    left: list[float] = []
    for number in entrants(cheap, spending):
        candidate = found[number]
        seconds = full_run_seconds(candidate, spending)
        if seconds is None:
            continue
        run = begun.get((number, seed))
        if run is None or not run.is_over:
            # The first seed's run goes on from the candidate's, if the schedule is the same.
            pace = epoch_seconds(candidate) or 0.0
            done = candidate.epochs * pace if spending.goes_on else 0.0
            left.append(seconds - done)
    known = [seconds for each in cheap if (seconds := full_run_seconds(each, spending)) is not None]
    if not known:
        return 0.0
    # A control that is not ready yet is expected to take as long as the longest of all that began:
    # it has everything from its measurement to its mending before it.
    missing = to_come(found, none_scaled=none_scaled) if spending.controls else 0
    return SPARE * (sum(left) + missing * max(known))


def full_run_seconds(candidate: Record, spending: Spending) -> float | None:
    """Seconds of a whole full run of a candidate; None before it was trained at all."""
    pace = epoch_seconds(candidate)
    if pace is None:
        return None
    return spending.epochs * spending.seconds_each * pace + beside_seconds(candidate)


def affordable(found: Sequence[Record], spending: Spending, seconds: float) -> float:
    """How many full runs of any finalist or control fit into so many seconds of one worker."""
    cheap = [each for each in found if each.stage == CHEAP]
    known = [full_run_seconds(found[number], spending) for number in entrants(cheap, spending)]
    longest = max((each for each in known if each is not None), default=None)
    return inf if longest is None else seconds / (SPARE * longest)


def seconds_left(found: Sequence[Record], spending: Spending) -> float | None:
    """Seconds of one worker that all the rest needs, with one seed for each finalist and what was
    begun besides; None before a candidate was trained."""
    cheap = drawn(found)
    begun = [each for each in cheap if each.cost is not None]
    known = [(each, epoch_seconds(each)) for each in begun]
    paces = [pace for _, pace in known if pace is not None]
    if not paces:
        return None
    pace = sum(paces) / len(paces)
    beside = sum(map(beside_seconds, begun)) / len(begun)
    to_try = max(0, spending.trials - len(begun))
    share = len(paces) / len(begun)
    trained = sum(each.epochs for each in cheap)
    cheap_epochs = spending.training_epochs - spending.epochs_of_finals
    left = max(0.0, cheap_epochs * share - trained) * pace + to_try * beside
    finals = [each for each in found if each.stage == FINAL]
    candidates_left = any(each.state in ("waiting", "running") for each in cheap)
    if to_try or (candidates_left and not finals):
        return left + spending.epochs_of_finals * spending.seconds_each * pace
    done = sum(each.is_over for each in finals)
    whole = spending.epochs * spending.seconds_each * pace
    return max(0, max(spending.entrants, len(finals)) - done) * whole
