"""Seeds by racing: another full run only for those that are not told apart from the leader."""

from collections.abc import Mapping, Sequence
from math import hypot, inf, sqrt

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from flaxyolo.crew.record import Record
from flaxyolo.search.finalists import CONFIDENCE, counted, pooled_reach

PRIOR_NOISE = 0.05
"""Of the highest value of the objective, the noise of a single run where none is known."""

Run = tuple[int, int]
"""The number of a candidate, and a seed."""


def next_runs(
    entrants: Sequence[int],
    finals: Sequence[Record],
    seeds: Sequence[int],
    *,
    highest: float = 1.0,
    affordable: float = inf,
) -> list[Run]:
    """The full runs to be added: the first seed of all, then a further one where it may matter.

    `highest` is the highest value of the objective. A round of further seeds of more runs than are
    `affordable` in the time left is not begun.
    """
    begun = {(run.finalist, run.seed) for run in finals}
    first = [(number, seeds[0]) for number in entrants if (number, seeds[0]) not in begun]
    if first or any(run.state in ("running", "waiting") for run in finals):
        return first
    known = counted(finals)
    close = contested(known, PRIOR_NOISE * highest)
    # An earlier command may have had other finalists.
    order = dict.fromkeys((*entrants, *known))
    left = {
        number: [seed for seed in seeds if (number, seed) not in begun]
        for number in order
        if number in close
    }
    most = max(map(len, left.values()), default=0)
    wanted = [(number, rest[0]) for number, rest in left.items() if rest and len(rest) == most]
    return wanted if len(wanted) <= affordable else []


def contested(runs: Mapping[int, Sequence[Record]], prior: float) -> set[int]:
    """The leader and all that are not told apart from it at 95 %; none where it leads them all."""
    values = {number: _values(group) for number, group in runs.items()}
    if not values:
        return set()
    leader = max(values, key=lambda number: values[number].mean())
    reach, freedom = pooled_reach(values.values())
    normal = float(ndtri((1 + CONFIDENCE) / 2))

    def margin(number: int) -> float:
        pair = (leader, number)
        if freedom:
            return reach * sqrt(sum(1 / len(values[one]) for one in pair))
        return normal * hypot(*(_noise(runs[one][0], prior) for one in pair))

    close = {
        number
        for number in values
        if number != leader and values[leader].mean() - values[number].mean() <= margin(number)
    }
    return {leader, *close} if close else set()


def _values(runs: Sequence[Record]) -> Float[np.ndarray, " r"]:
    return np.array([run.objective or 0.0 for run in runs])


def _noise(run: Record, prior: float) -> float:
    return prior if run.objective_se is None else run.objective_se
