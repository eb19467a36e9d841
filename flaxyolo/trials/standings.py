"""Who leads in a study: worked out once for each state of it, and read by all that tell of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import Record
from flaxyolo.search.finalists import Finalist, chosen, finalists, lead_line
from flaxyolo.search.objective import Objective
from flaxyolo.trials.networks import Network, networks

LEARNT = 0.01
"""mAP50 from which on a detector has learnt anything; chance boxes of fresh weights stay below."""


@dataclass(frozen=True, eq=False)
class Standings:
    """The records of a study under its budget and its objective."""

    records: Sequence[Record]
    """By number."""
    budget: Budget
    objective: Objective

    @cached_property
    def finalists(self) -> list[Finalist]:
        """Those that keep the budget, best mean first."""
        return finalists(self.records, self.budget)

    @cached_property
    def best(self) -> Record | None:
        """The run whose weights are the sweep's result."""
        return chosen(self.records, self.budget, self.finalists)

    @cached_property
    def lead(self) -> str | None:
        """In a sentence whether the best is better than the controls; None where nothing tells."""
        return None if self.nothing_learnt else lead_line(self.finalists, self.records)

    @cached_property
    def networks(self) -> list[Network]:
        """What was tried, by number."""
        return networks(self.records, self.finalists, self.budget)

    @cached_property
    def nothing_learnt(self) -> bool:
        """Whether there is a best run, and its scores are those of a network that knows nothing."""
        best = self.best
        return best is not None and best.scores is not None and (best.scores.map_50 or 0) < LEARNT

    @cached_property
    def ranked(self) -> list[Network]:
        """Best first: complete by objective, then by epochs reached, then by latency."""
        return sorted(self.networks, key=self._place)

    @cached_property
    def front(self) -> list[Network]:
        """The networks that no other beats in latency and objective at once, fastest first."""
        points = [(self.latency(one.shown), one.objective or 0.0) for one in self.scored]
        return [self.scored[place] for place in front(points)]

    @cached_property
    def scored(self) -> list[Network]:
        """The networks that have a latency and an objective."""
        return [one for one in self.networks if one.shown.cost and one.objective is not None]

    def latency(self, record: Record) -> float:
        """The latency that the budget limits, in ms; infinite before it was measured."""
        return inf if record.cost is None else self.budget.latency_of(record.cost)

    def among(self, records: Sequence[Record]) -> "Standings":
        """The standings of some of the records alone."""
        return Standings(records, self.budget, self.objective)

    def _place(self, network: Network) -> tuple[Any, ...]:
        objective, latency = -(network.objective or 0.0), self.latency(network.shown)
        if network.standing is not None:
            return (0, objective, latency)
        if network.state == "complete" or (network.state == "pruned" and network.best):
            return (0.5, objective, latency)
        if network.over_budget:
            return (2, latency, 0.0)
        if network.state in ("fail", "waiting") or not network.epochs:
            return (4, network.number, 0.0)
        return (1, -network.epochs, objective)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (latency, accuracy) points that no other beats, fastest first.

    A point is beaten by one that is at least as fast and as accurate, and better in one of them;
    of equal points the first is on the front.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    kept, highest = [], float("-inf")
    for index in order:
        if points[index][1] > highest:
            kept.append(index)
            highest = points[index][1]
    return kept
