"""Who has won: means over seeds with their intervals, ties, and the run whose weights are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, sqrt

import numpy as np
from scipy import stats

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import CHEAP, FINAL, Record

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Finalist:
    """A candidate with its complete full runs; `half_width` of the mean's interval, None for one
    seed."""

    number: int
    """Of the candidate."""
    runs: tuple[Record, ...]
    mean: float
    half_width: float | None
    latency_ms: float
    """The one that the budget limits, the mean over its runs."""
    latency_stat: str
    tied: bool
    """Whether it is the first, or its difference to the first may be chance."""

    def told(self) -> str:
        """Its figures in words."""
        wide = "" if self.half_width is None else f" ± {self.half_width:.3f}"
        seeds = f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"
        latency = f"{self.latency_ms:.2f} ms {self.latency_stat}"
        return f"trial {self.number}: {self.mean:.3f}{wide} ({seeds}), {latency}"


def merit(record: Record, budget: Budget) -> tuple[float, float]:
    """Sorts complete trials, best first: the higher objective, and of equals the faster."""
    latency = inf if record.cost is None else budget.latency_of(record.cost)
    return -(record.objective or 0.0), latency


def finalists(found: Sequence[Record], budget: Budget) -> list[Finalist]:
    """The finalists that keep the budget, best mean first.

    The spread of a run is pooled over all finalists, because three seeds of one say little; the
    intervals are Student's, at 95 %. A finalist most of whose runs ended over the budget is out.
    """
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
    kept = {
        number: runs
        for number, runs in groups.items()
        if 2 * len(runs) > ended[number] and not any(run.refuted for run in runs)
    }
    values = {
        number: np.array([run.objective or 0.0 for run in runs]) for number, runs in kept.items()
    }
    freedom = sum(len(each) - 1 for each in values.values())
    spread = 0.0
    if freedom:
        spread = sqrt(sum(((each - each.mean()) ** 2).sum() for each in values.values()) / freedom)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * spread if freedom else inf

    def latency(number: int) -> float:
        return float(np.mean([budget.latency_of(run.cost) for run in kept[number] if run.cost]))

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
                latency_stat=budget.latency_stat,
                tied=behind <= between,
            )
        )
    return told


def recommended(ordered: Sequence[Finalist]) -> Finalist | None:
    """The fastest of the first and those that cannot be told apart from it."""
    return min(
        (each for each in ordered if each.tied), key=lambda each: each.latency_ms, default=None
    )


def chosen(found: Sequence[Record], budget: Budget, ordered: Sequence[Finalist]) -> Record | None:
    """The run whose weights are the sweep's result; all complete runs are inside the budget.

    The best run of the recommended one of the `finalists`; before there is one, the best complete
    candidate.
    """
    pick = recommended(ordered)
    complete = [
        record
        for record in found
        if record.state == "complete" and record.stage == CHEAP and not record.refuted
    ]
    runs = complete if pick is None else pick.runs
    return min(runs, key=partial(merit, budget=budget), default=None)


def verdict(ordered: Sequence[Finalist]) -> list[str]:
    """The finalists in words, a line each, and which of them is recommended and why."""
    pick = recommended(ordered)
    if pick is None:
        return []
    lines = [f"{'=' if each.tied and len(ordered) > 1 else ' '} {each.told()}" for each in ordered]
    tied = [each for each in ordered if each.tied]
    if ordered[0].half_width is None:
        lines.append(f"Best: trial {pick.number}; one seed each, so differences may be chance")
    elif len(tied) == 1:
        lines.append(f"Best: trial {pick.number}, ahead of the others beyond chance (95 %)")
    else:
        names = ", ".join(str(each.number) for each in tied)
        lines.append(
            f"Tied: trials {names} cannot be told apart (95 %); recommended: trial {pick.number}, "
            "the fastest of them"
        )
    return lines
