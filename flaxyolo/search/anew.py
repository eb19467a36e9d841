"""Candidates that a busy machine had thrown out, once the device has been seen calmer."""

from collections.abc import Sequence

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import Measurement, Reference
from flaxyolo.cost.table.file import measured_here
from flaxyolo.crew.record import CHEAP, Record


def thrown_out(found: Sequence[Record]) -> list[Record]:
    """The candidates that ended over the budget and were not tried again."""
    tried = {record.again for record in found}
    return [
        record
        for record in found
        if record.stage == CHEAP
        and record.state == "pruned"
        and record.over_budget
        and record.again is None
        and record.duplicate_of is None
        and record.number not in tried
    ]


def judged_anew(
    found: Sequence[Record], budget: Budget, best: Reference | None
) -> tuple[Record, ...]:
    """Candidates to be tried again: over the budget once, inside by the reference's best now."""
    return tuple(
        Record(
            number=len(found),
            state="waiting",
            params=dead.params,
            origin=dead.origin,
            again=dead.number,
            predicted_ms=dead.predicted_ms,
            predicted_score=dead.predicted_score,
            table_error=dead.table_error,
            screened=dead.screened,
            zero_cost=dead.zero_cost,
        )
        for dead in thrown_out(found)
        if dead.cost is not None and _inside_now(dead.cost, budget, best)
    )


def _inside_now(cost: Measurement, budget: Budget, best: Reference | None) -> bool:
    now = cost.rescaled(best)
    return now != cost and budget.allows(now) and not budget.allows(cost) and measured_here(cost)
