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
    """Of the candidate's record."""
    runs: tuple[Record, ...]
    mean: float
    half_width: float | None
    latency_ms: float
    """The one that the budget limits, the mean over its runs."""
    latency_stat: str
    tied: bool
    """Whether it is the first, or its difference to the first may be chance."""

    @property
    def trial(self) -> int:
        """The trial of the study that a person opens."""
        network = self.runs[0].network
        return self.number if network is None else network

    def told(self) -> str:
        """Its figures in words."""
        wide = "" if self.half_width is None else f" ± {self.half_width:.3f}"
        seeds = f"{len(self.runs)} seed{'s' * (len(self.runs) > 1)}"
        latency = f"{self.latency_ms:.2f} ms {self.latency_stat}"
        return f"trial {self.trial}: {self.mean:.3f}{wide} ({seeds}), {latency}"


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
    """The finalists in words, a line each, and how sure it is that the first is the best."""
    if not ordered:
        return []
    first, *others = ordered
    lines = [f"{'=' if one.tied and others else ' '} {one.told()}" for one in ordered]
    tied = [one for one in others if one.tied]
    if first.half_width is None:
        lines.append(f"Best: trial {first.trial}; one seed each, so differences may be chance")
    elif not tied:
        lines.append(f"Best: trial {first.trial}, ahead of the others beyond chance (95 %)")
    else:
        names = ", ".join(str(one.trial) for one in (first, *tied))
        lines.append(f"Tied: trials {names} cannot be told apart (95 %)")
        fastest = fastest_tied(ordered)
        if fastest is not None and fastest is not first:
            run = min(fastest.runs, key=lambda run: -(run.objective or 0.0)).run
            lines.append(f"The fastest of them is trial {fastest.trial}, in trials/{run}/detector")
    return lines
