"""What a sweep has spent and on what, in words: a pure function of its results."""

from collections.abc import Sequence

from flaxyolo.base.words import many
from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.controls import drawn, kind
from flaxyolo.search.propose import RANDOM
from flaxyolo.search.schedule import rungs_that_pay
from flaxyolo.search.spending import Spending
from flaxyolo.trials.standings import Standings

EXPLORED_FIRST = 10
"""Candidates after which the latency table is expected to know the device."""
PROPOSED = ("surrogate", "explore", RANDOM)
"""Origins of candidates that were proposed."""


def funnel_line(found: Sequence[Record], spending: Spending) -> str:
    """How many candidates came how far."""
    cheap = drawn(found)
    parts = []
    screened = sum(each.screened for each in found)
    if screened:
        parts.append(f"{screened:,} drawn and judged without compiling")
    measured = [each for each in cheap if each.cost is not None]
    parts.append(f"{len(measured)} measured")
    over = sum(each.over_budget for each in measured)
    if over:
        parts.append(f"{over} over the budget")
    for rung in spending.rungs:
        there = sum(each.epochs >= rung for each in cheap)
        parts.append(f"{there} trained to epoch {rung}")
    unpaid = spending.rungs[:-1][rungs_that_pay(found, spending) :]
    if unpaid:
        parts.append(f"without waiting at epoch {' and '.join(map(str, unpaid))}, as a further "
                     "candidate costs more than the rest of a training")  # fmt: skip
    finals = [each for each in found if each.stage == FINAL]
    if finals:
        done = sum(each.state == "complete" for each in finals)
        numbers = {each.finalist for each in finals}
        controls = sum(
            each.stage == CHEAP and kind(each) is not None and each.number in numbers
            for each in found
        )
        names = len(numbers) - controls * spending.controls
        told = many(names, "finalist")
        if controls and spending.controls:
            told += f" and {many(controls, 'control')}"
        parts.append(f"{told}, {done} of {len(finals)} full runs")
    return f"Funnel: {', '.join(parts)}"


def inside_line(found: Sequence[Record]) -> str | None:
    """How many of the proposals were inside the budget when measured; None without any."""
    proposed = [
        (place, each)
        for place, each in enumerate(r for r in found if r.stage == CHEAP and r.cost is not None)
        if (each.origin or "").split(",")[0] in PROPOSED
    ]
    if not proposed:
        return None
    inside = sum(not each.over_budget for _, each in proposed)
    line = f"Proposals inside the budget when measured: {inside} of {len(proposed)}"
    later = [each for place, each in proposed if place >= EXPLORED_FIRST]
    if later:
        kept = sum(not each.over_budget for each in later)
        line += f"; after the first {EXPLORED_FIRST} candidates {kept} of {len(later)}"
    return line


def seconds_line(found: Sequence[Record]) -> str | None:
    """Seconds for each candidate by stage, and their share; None before anything was timed."""
    spent: dict[str, float] = {}
    for each in found:
        for stage, seconds in each.seconds.items():
            spent[stage] = spent.get(stage, 0.0) + seconds
    total = sum(spent.values())
    if not total:
        return None
    parts = [
        f"{stage} {seconds:.0f} s ({seconds / total:.0%})"
        for stage, seconds in sorted(spent.items(), key=lambda pair: -pair[1])
    ]
    count = sum(1 for each in found if each.seconds)
    beside = total - spent.get("train", 0.0)
    return (
        f"Time: {', '.join(parts)}; beside training {beside / count:.0f} s for each of "
        f"{many(count, 'trial')}"
    )


def front_line(standings: Standings) -> str | None:
    """The Pareto front of accuracy and latency, fastest first; None before there is a score."""
    told = ", ".join(
        f"trial {one.number} ({one.objective:.3f} at {standings.latency(one.shown):.2f} ms)"
        for one in standings.front
    )
    stat = standings.budget.latency_stat
    return f"Pareto front (objective and {stat} latency): {told}" if told else None
