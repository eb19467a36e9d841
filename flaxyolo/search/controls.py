"""What finalists are compared with, and trained like: baseline, scaled YOLOv8, their parent."""

from collections.abc import Sequence
from typing import Literal

from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.advised import ADVISED, BASELINE

SCALED = "YOLOv8 scaled"
"""Origin of a YOLOv8 scaled into the budget, which is no draw of the space."""
MOST_SCALED = 4
"""Members of the family that are measured until one keeps the budget."""

Kind = Literal["baseline", "YOLOv8 scaled", "parent"]


def kind(record: Record) -> Kind | None:
    """Which control it is; None for any other candidate, the parent among them: it may win."""
    if record.origin == SCALED:
        return "YOLOv8 scaled"
    return "baseline" if BASELINE in (record.origin or "").split(" = ") else None


def drawn(found: Sequence[Record]) -> list[Record]:
    """The candidates, which the space has drawn; the scaled YOLOv8 is none."""
    return [each for each in found if each.stage == CHEAP and each.origin != SCALED]


def controls(found: Sequence[Record]) -> dict[Kind, Record]:
    """The controls that were added; of several of a kind the last, which the others gave way to."""
    cheap = [each for each in found if each.stage == CHEAP and each.duplicate_of is None]
    return {name: each for each in cheap if (name := kind(each)) is not None}


def trained_on(found: Sequence[Record]) -> Record | None:
    """The candidate that is the sweep's own parent, whose runs train it on; None without one.

    It is a candidate like others, and where another wins a control too: more training is no better
    architecture.
    """
    whole = (
        each
        for each in found
        if each.stage == CHEAP
        and each.duplicate_of is None
        and kind(each) is None
        and ADVISED in (each.origin or "").split(" = ")
        and each.inherited == 1
    )
    return next(whole, None)


def ready(found: Sequence[Record]) -> list[Record]:
    """The controls that may have full runs: scored, inside the budget, and not at work."""
    return [
        each
        for each in (*controls(found).values(), trained_on(found))
        if each is not None
        and each.objective is not None
        and each.state not in ("running", "fail")
        and not each.over_budget
    ]


def lacks_scaled(found: Sequence[Record]) -> bool:
    """Whether every YOLOv8 that was tried is over the budget, and another may be tried."""
    tried = [each for each in found if each.stage == CHEAP and each.origin == SCALED]
    numbers = {each.number for each in tried if each.over_budget}
    numbers |= {
        each.finalist
        for each in found
        if each.stage == FINAL and each.finalist is not None and (each.over_budget or each.refuted)
    }
    return len(tried) < MOST_SCALED and all(each.number in numbers for each in tried)


def to_come(found: Sequence[Record], *, none_scaled: bool = False) -> int:
    """How many controls have no full run yet because they are not ready.

    `none_scaled` says that no further YOLOv8 is expected to fit.
    """
    waited = [
        each
        for each in controls(found).values()
        if not (each.is_over or each.over_budget) and each.objective is None
    ]
    return len(waited) + (lacks_scaled(found) and not none_scaled)
