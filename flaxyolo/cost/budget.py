"""What a detector may cost, and by how much one oversteps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from flaxyolo.base.errors import InputError
from flaxyolo.cost.measurement import Measurement
from flaxyolo.spec import parse


@dataclass(frozen=True)
class Budget:
    """Limits of a `Measurement`; None is no limit."""

    latency_ms: float | None = None
    """Of the statistic `latency_stat`."""
    vram_mib: float | None = None
    train_vram_mib: float | None = None
    """Of a training step at the batch size of the training, without the data set."""
    params: float | None = None
    gflops: float | None = None
    latency_stat: Literal["p95", "p50"] = "p95"

    def __post_init__(self):
        for name, limit in self.limits.items():
            if not (isfinite(limit) and limit > 0):
                raise InputError(f"budget {name}: expected a number above 0, got {limit}")
        if self.latency_stat not in ("p95", "p50"):
            raise InputError(f"budget latency_stat: expected p95 or p50, got {self.latency_stat!r}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by what they limit."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: float(limit) for name, limit in limits.items() if limit is not None}

    def latency_of(self, cost: Measurement) -> float:
        """The latency that is limited, in ms."""
        return cost.latency_ms_p50 if self.latency_stat == "p50" else cost.latency_ms_p95

    def known(self, cost: Measurement) -> dict[str, float]:
        """What is limited and known: the memory of training only once its step is compiled."""
        values = cost.to_dict() | {"latency_ms": self.latency_of(cost)}
        return {name: float(values[name]) for name in self.limits if values[name] is not None}

    def excess(self, cost: Measurement) -> dict[str, float]:
        """How far each limit is overstepped, as a share of it; zero or less is inside.

        A limit of what is not known of the cost is left out.
        """
        return self.shares(self.known(cost))

    def undecided(self, cost: Measurement) -> bool:
        """Whether only a calmer machine can tell: over by a busy one's latency, not by its floor.

        A latency inside the budget is inside on a calm machine all the more.
        """
        over = {name for name, share in self.excess(cost).items() if share > 0}
        return (
            over == {"latency_ms"}
            and cost.busy
            and cost.floor_ms is not None
            and self.shares({"latency_ms": cost.floor_ms})["latency_ms"] <= 0
        )

    def least_excess(self, cost: Measurement) -> dict[str, float]:
        """`excess`, with what the latency is at least where it is undecided."""
        known = self.known(cost)
        if self.undecided(cost) and cost.floor_ms is not None:
            known["latency_ms"] = cost.floor_ms
        return self.shares(known)

    def shares(self, values: Mapping[str, float]) -> dict[str, float]:
        """`excess` of bare values, by the name of their limit."""
        limits = self.limits
        return {
            name: (value - limits[name]) / limits[name]
            for name, value in values.items()
            if name in limits
        }

    def allows(self, cost: Measurement) -> bool:
        """Whether every limit of what is known is kept."""
        return all(share <= 0 for share in self.excess(cost).values())

    def describe(self) -> str:
        """The limits in words, such as `at most 8 ms (p95), 500 MiB`."""
        told = []
        for name, limit in self.limits.items():
            size, unit, _ = LIMITS[name]
            stat = f" ({self.latency_stat})" if name == "latency_ms" else ""
            told.append(f"{limit / size:g} {unit}{stat}")
        return f"at most {', '.join(told)}" if told else "no limit"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: latency and memory of inference always, the rest where it is set."""
        stat = {} if self.latency_stat == "p95" else {"latency_stat": self.latency_stat}
        return {"latency_ms": self.latency_ms, "vram_mib": self.vram_mib} | self.limits | stat

    @classmethod
    def from_dict(cls, data: object, where: str = "budget") -> "Budget":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


LIMITS = {
    "latency_ms": (1, "ms", 2),
    "vram_mib": (1, "MiB", 1),
    "train_vram_mib": (1, "MiB in training", 1),
    "params": (1e6, "M parameters", 2),
    "gflops": (1, "GFLOPs", 2),
}
"""What a budget may limit: the size of its unit, the unit, and decimals of an overrun."""
MEMORIES = "vram_mib", "train_vram_mib"
"""Of those, what may be another device's than the latency."""


def cheap_excess(budget: Budget, params: int, gflops: float) -> dict[str, float]:
    """`Budget.excess` of what is known without measuring or compiling."""
    return budget.shares({"params": float(params), "gflops": gflops})


def overrun(budget: Budget, cost: Measurement) -> str:
    """By how much each limit is overstepped, such as `over budget by 1.30 ms and 4.0 MiB`."""
    told = _told(budget, budget.known(cost))
    over_time = budget.excess(cost).get("latency_ms", 0.0) > 0
    return f"{told} on a busy machine ({cost.busyness()})" if over_time and cost.busy else told


def cheap_overrun(budget: Budget, params: int, gflops: float) -> str:
    """`overrun` of what is known without measuring or compiling."""
    return _told(budget, {"params": float(params), "gflops": gflops})


def _told(budget: Budget, values: Mapping[str, float]) -> str:
    parts = []
    for name, limit in budget.limits.items():
        if name not in values or values[name] <= limit:
            continue
        size, unit, decimals = LIMITS[name]
        over = (values[name] - limit) / size
        # Never `0.00 ms`.
        form = f".{decimals}f" if over >= 0.5 * 10**-decimals else ".1g"
        parts.append(f"{over:{form}} {unit}")
    if not parts:
        return "inside the budget"
    *most, last = parts
    return f"over budget by {', '.join(most)} and {last}" if most else f"over budget by {last}"
