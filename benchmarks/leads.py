"""What our searches on a table lead others by, with intervals over tables that might have been."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

T = TypeVar("T")

OURS = "sweep"


class Shipped(NamedTuple):
    """What the searches of a budget and a number of candidates shipped."""

    quality: dict[str, Float[np.ndarray, " repeats"]]
    """Of each strategy, in the unit of the table's scores."""
    spread: float
    """Standard deviation of that among the networks in the band."""
    epochs: float = 0.0
    """Trained in each, on average, where the table knows."""


def leads(found: Sequence[Shipped], name: str) -> tuple[float, float]:
    """Ours less another's, as a mean over budgets: in the unit of scores, and in spreads."""
    ahead = [float((one.quality[OURS] - one.quality[name]).mean()) for one in found]
    spreads = [a / one.spread for a, one in zip(ahead, found, strict=True)]
    return float(np.mean(ahead)), float(np.mean(spreads))


def on_other_tables(
    count: int,
    rng: np.random.Generator,
    draw: Callable[[np.random.Generator], T],
    enough: Callable[[T], bool],
    search: Callable[[T, int], list[Shipped]],
) -> list[list[Shipped]]:
    """The searches on so many tables drawn anew, of those that say enough; each has its number."""
    other: list[list[Shipped]] = []
    while len(other) < count:
        drawn = draw(rng)
        if enough(drawn):
            other.append(search(drawn, len(other)))
    return other


def lead_row(
    found: Sequence[Shipped],
    other: Sequence[Sequence[Shipped]],
    name: str,
    unit: str,
    decimals: int,
) -> tuple[dict[str, Any], str]:
    """A lead with its 95 % intervals, as facts and as cells of a table; without `other`, none."""
    absolute, relative = leads(found, name)
    row: dict[str, Any] = {"against": name, unit: absolute, "spreads": relative}
    ends = ["", ""]
    if other:
        pairs = np.array([leads(one, name) for one in other])
        limits = np.percentile(pairs, [2.5, 97.5], axis=0)
        row[f"{unit}_interval"], row["spreads_interval"] = limits.T.tolist()
        ends = [f"{low:.{decimals}f} to {high:.{decimals}f}" for low, high in limits.T]
    return row, f"{name} | {absolute:+.{decimals}f} | {ends[0]} | {relative:+.2f} | {ends[1]} |"
