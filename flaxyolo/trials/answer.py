"""What a sweep has come to, in words: the best detector, what it beats, or why there is none."""

import optuna

from flaxyolo.base.words import many
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import FINAL, Record
from flaxyolo.search.controls import SCALED, controls
from flaxyolo.search.spending import Spending
from flaxyolo.trials.confirm import confirmed_cost
from flaxyolo.trials.standings import LEARNT, Standings
from flaxyolo.trials.table import best_found, costs, outcome
from flaxyolo.trials.work import NONE_SCALED

NO_CANDIDATE = "no candidate met the budget"


def answer_lines(study: optuna.Study, standings: Standings, spending: Spending) -> list[str]:
    """The best detector: how good it is, what it costs, what it beats, how sure that is."""
    best = standings.best
    assert best is not None, "there is an answer"
    network = next(one for one in standings.networks if one.number == best.trial)
    again = confirmed_cost(study, best.number)
    cost = again or network.shown.cost
    told = None if cost is None else costs(cost, standings.budget)
    where = ", measured again in a fresh process" if again is not None else ""
    cost_line = None if told is None else f"{told}{where}"
    missing = missing_line(study, standings, spending)
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


def nothing_learnt(first: Record, budget: Budget, source: str, epochs: int) -> list[str]:
    """That there is no best detector though one is first, and what to do about it."""
    return [
        f"Nothing has learnt: trial {first.trial} is first with {outcome(first, budget)}; "
        f"an mAP50 below {LEARNT:g} is chance, and none of these detectors is of use",
        f"Train for longer: the same command with --epochs {10 * epochs} and another --study",
        "Or look whether boxes and classes are those of the images: "
        f"python -m flaxyolo.stats {source}",
    ]


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
