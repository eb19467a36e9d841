"""Who has won: means over seeds with their intervals, ties, and the run whose weights are kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.controls import Kind, controls, kind, trained_on

CONFIDENCE = 0.95
UNEVEN = 0.2
"""How much less near to the parent than the first a control may have begun unsaid."""
TOLD: dict[Kind, str] = {
    "baseline": "the baseline",
    "YOLOv8 scaled": "YOLOv8 scaled into the same budget",
    "parent": "the parent trained on for as long",
}


@dataclass(frozen=True)
class Finalist:
    """A candidate with its complete full runs; `half_width` of the mean's interval, None for one
    seed."""

    number: int
    """Of the candidate's record."""
    runs: tuple[Record, ...]
    mean: float
    half_width: float | None
    latency_ms: float
    """The one that the budget limits, the mean over its runs."""
    tied: bool
    """Whether it is the first, or its difference to the first may be chance."""
    control: Kind | None = None

    @property
    def inherited(self) -> float | None:
        """How near its first weights were to another detector's, 0 to 1."""
        return self.runs[0].inherited

    @property
    def trial(self) -> int:
        """The trial of the study that a person opens."""
        network = self.runs[0].network
        return self.number if network is None else network


def merit(record: Record, budget: Budget) -> tuple[float, float]:
    """Sorts complete trials, best first: the higher objective, and of equals the faster."""
    latency = inf if record.cost is None else budget.latency_of(record.cost)
    return -(record.objective or 0.0), latency


def finalists(found: Sequence[Record], budget: Budget) -> list[Finalist]:
    """The finalists that keep the budget, best mean first.

    The spread of a run is pooled over all finalists, because three seeds of one say little; the
    intervals are Student's, at 95 %. A finalist most of whose runs ended over the budget is out.
    """
    kept = counted(found)
    values = {
        number: np.array([run.objective or 0.0 for run in runs]) for number, runs in kept.items()
    }
    reach, freedom = pooled_reach(values.values())

    def latency(number: int) -> float:
        return float(np.mean([budget.latency_of(run.cost) for run in kept[number] if run.cost]))

    kinds: dict[int, Kind | None] = {one.number: kind(one) for one in found if one.stage == CHEAP}
    # Of equal means the faster comes first.
    order = sorted(kept, key=lambda number: (-values[number].mean(), latency(number)))
    told = []
    for number in order:
        count, first = len(values[number]), values[order[0]]
        behind = float(first.mean() - values[number].mean())
        between = reach * sqrt(1 / count + 1 / len(first)) if freedom else 0.0
        told.append(
            Finalist(
                number=number,
                runs=tuple(kept[number]),
                mean=float(values[number].mean()),
                half_width=reach / sqrt(count) if freedom else None,
                latency_ms=latency(number),
                tied=behind <= between,
                control=kinds.get(number),
            )
        )
    return told


def counted(found: Sequence[Record]) -> dict[int, list[Record]]:
    """The complete full runs of each finalist that keeps the budget, by its candidate's number."""
    groups: dict[int, list[Record]] = {}
    ended: dict[int, int] = {}
    for result in found:
        if result.stage != FINAL or result.finalist is None or not result.is_over:
            continue
        if result.duplicate_of is not None:
            continue
        ended[result.finalist] = ended.get(result.finalist, 0) + 1
        if result.state == "complete":
            groups.setdefault(result.finalist, []).append(result)
    return {
        number: runs
        for number, runs in groups.items()
        if 2 * len(runs) > ended[number] and not any(run.refuted for run in runs)
    }


def pooled_reach(values: Iterable[Float[np.ndarray, " r"]]) -> tuple[float, int]:
    """Half the width of a single run's interval, and the freedom of its Student's t.

    The spread is pooled over all groups; without a second run in any of them the interval is
    infinite and the freedom 0.
    """
    groups = list(values)
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return inf, 0
    spread = sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom)
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread, freedom


def fastest_tied(ordered: Sequence[Finalist]) -> Finalist | None:
    """The fastest of the first and those that cannot be told apart from it."""
    tied = (one for one in ordered if one.tied)
    return min(tied, key=lambda one: one.latency_ms, default=None)


def chosen(found: Sequence[Record], budget: Budget, ordered: Sequence[Finalist]) -> Record | None:
    """The run whose weights are the sweep's result; all complete runs are inside the budget.

    The best run of the first of the `finalists`; before there is one, the best complete candidate.
    """
    complete = [
        record
        for record in found
        if record.state == "complete" and record.stage == CHEAP and not record.refuted
    ]
    runs = ordered[0].runs if ordered else complete
    return min(runs, key=partial(merit, budget=budget), default=None)


def verdict(ordered: Sequence[Finalist]) -> list[str]:
    """How sure it is that the first of the finalists is the best, in words."""
    if not ordered:
        return []
    first, *others = ordered
    tied = [one for one in others if one.tied]
    if first.half_width is None:
        return [f"Trial {first.trial} is first; one seed each, so differences may be chance"]
    if not tied:
        return [f"Trial {first.trial} is ahead of the others beyond chance (95 %)"]
    names = ", ".join(str(one.trial) for one in (first, *tied))
    lines = [f"Tied: trials {names} cannot be told apart (95 %)"]
    fastest = fastest_tied(ordered)
    if fastest is not None and fastest is not first:
        run = min(fastest.runs, key=lambda run: -(run.objective or 0.0)).run
        lines.append(f"The fastest of them is trial {fastest.trial}, in trials/{run}/detector")
    return lines


@dataclass(frozen=True)
class Lead:
    """How far the first of the finalists is ahead of a control."""

    over: Kind
    by: float | None
    """Difference of the means; None where the control has no full run that counts."""
    half_width: float | None = None
    """Of its interval at 95 %; None for one seed each."""
    why: str = ""
    """Why there is nothing to compare with."""


def leads(ordered: Sequence[Finalist], found: Sequence[Record]) -> list[Lead]:
    """The first's lead over each control that was tried, but for itself; none without finalists.

    The parent, where there is one, is among them.

    The spread of a run is pooled over all finalists and controls, as for their intervals.
    """
    if not ordered:
        return []
    first = ordered[0]
    reach, freedom = pooled_reach(
        np.array([run.objective or 0.0 for run in one.runs]) for one in ordered
    )
    ranked = {one.number: one for one in ordered}
    told = []
    against = dict(controls(found))
    if (parent := trained_on(found)) is not None:
        against["parent"] = parent
    for name, record in against.items():
        other = ranked.get(record.number)
        if record.number == first.number:
            continue
        if other is None:
            full = [one for one in found if one.finalist == record.number]
            over = record.over_budget or any(one.over_budget or one.refuted for one in full)
            told.append(Lead(name, None, why="is over the budget" if over else "has no full run"))
            continue
        wide = reach * sqrt(1 / len(first.runs) + 1 / len(other.runs)) if freedom else None
        told.append(Lead(name, first.mean - other.mean, wide))
    return told


def lead_line(ordered: Sequence[Finalist], found: Sequence[Record]) -> str | None:
    """In a sentence whether the first is better than the controls; None where there is neither."""
    told = leads(ordered, found)
    if not ordered or not (told or ordered[0].control):
        return None
    first = ordered[0]
    name = f"trial {first.trial}"
    better = [one for one in told if one.by is not None and one.by > (one.half_width or inf)]
    single = [one for one in told if one.by is not None and one.half_width is None]
    unclear = [one for one in told if one.by is not None and one not in (*better, *single)]
    parts = []
    if first.control:
        parts.append(f"nothing that was searched beats {name}, which is {TOLD[first.control]}")
    if better:
        parts.append(f"{name} is better than {', and than '.join(map(_ahead, better))}")
    if single:
        ahead = ", and of ".join(map(_ahead, single))
        parts.append(f"{name} is ahead of {ahead}; one seed each, so the lead may be chance")
    if unclear:
        names = " or than ".join(
            f"{TOLD[one.over]} ({one.by:+.3f} ± {one.half_width:.3f})" for one in unclear
        )
        parts.append(f"no evidence that {name} is better than {names}")
    parts += [
        f"{TOLD[one.over]} cannot be compared with, as it {one.why}"
        for one in told
        if one.by is None
    ]
    if (uneven := uneven_starts(ordered)) is not None:
        parts.append(uneven)
    line = "; ".join(parts)
    return line[0].upper() + line[1:]


def uneven_starts(ordered: Sequence[Finalist]) -> str | None:
    """That the controls began with less of the parent than the first, so its lead may be that."""
    first = ordered[0]
    less = [
        one
        for one in ordered[1:]
        if one.control
        and None not in (one.inherited, first.inherited)
        and (one.inherited or 0.0) < (first.inherited or 0.0) - UNEVEN
    ]
    if not less:
        return None
    told = " and ".join(f"{TOLD[one.control]} ({one.inherited:.0%})" for one in less
                        if one.control)  # fmt: skip
    return (
        f"it began nearer to the parent ({first.inherited:.0%}) than {told}: part of that lead may "
        "be the start, and --from-scratch tells"
    )


def _ahead(lead: Lead) -> str:
    wide = "" if lead.half_width is None else f" ± {lead.half_width:.3f}"
    return f"{TOLD[lead.over]} by {lead.by:.3f}{wide}"
