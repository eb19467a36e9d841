"""Thousands of specs drawn from a space, and judged by what they cost without compiling any."""

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna

from flaxyolo.cost.table.table import LatencyTable, Prediction
from flaxyolo.search.growth import Number
from flaxyolo.search.space import Suggest
from flaxyolo.spec import DetectorSpec, describe

log = logging.getLogger(__name__)

FRUITLESS = 500
"""Draws in a row that bring nothing new: the space is as good as exhausted."""
TRIES = 20
"""For each variation of a point that is wanted, after which there is none left."""
NEAR = 0.5
"""How often a number moves by one step instead of anywhere."""

Finish = Callable[[DetectorSpec], DetectorSpec]
"""What is done to every spec that a space draws, such as setting the number of classes."""


class Drawn(NamedTuple):
    """One point of a space: its parameters as a study keeps them, and the spec they give."""

    params: dict[str, Any]
    spec: DetectorSpec


class Pool(NamedTuple):
    """Different specs of a space, and what else was drawn on the way."""

    drawn: list[Drawn]
    invalid: dict[str, int]
    """How many draws gave no valid spec, by the reason."""
    duplicates: int


class Judged(NamedTuple):
    """A point of a space with its expected latency; counts are None where nobody asked."""

    params: dict[str, Any]
    spec: DetectorSpec
    latency: Prediction
    parameters: int | None = None
    gflops: float | None = None


def draw(suggest: Suggest, count: int, seed: int, *, finish: Finish = lambda spec: spec) -> Pool:
    """Draw so many different specs at random, or fewer where the space has no more."""
    rng = random.Random(seed)
    found: dict[DetectorSpec, dict[str, Any]] = {}
    invalid: Counter[str] = Counter()
    duplicates = fruitless = 0
    while len(found) < count and fruitless < FRUITLESS:
        trial = RandomTrial(rng)
        fruitless += 1
        try:
            spec = finish(suggest(trial))
        except ValueError as error:
            invalid[describe(error).splitlines()[0]] += 1
            continue
        if spec in found:
            duplicates += 1
            continue
        found[spec] = trial.chosen
        fruitless = 0
    for reason, number in invalid.most_common():
        log.info("%d draws are no valid detector: %s", number, reason)
    log.debug("%d different specs drawn, %d duplicates dropped", len(found), duplicates)
    return Pool([Drawn(params, spec) for spec, params in found.items()], dict(invalid), duplicates)


def neighbours(
    params: Mapping[str, Any],
    suggest: Suggest,
    rng: random.Random,
    count: int = 1,
    *,
    finish: Finish = lambda spec: spec,
) -> list[Drawn]:
    """Up to so many different specs that differ from a known point in one or two parameters.

    Parameters that depend on a changed one are kept where they still may be, and drawn anew where
    not. Points that are no valid spec are passed over.
    """

    def ask(known: Mapping[str, Any]) -> "RandomTrial":
        names = sorted(known)
        few = min(len(names), rng.choice((1, 2)))
        return RandomTrial(rng, params, frozenset(rng.sample(names, few)))

    return variations(params, suggest, rng, count, ask, finish=finish)


def variations(
    params: Mapping[str, Any],
    suggest: Suggest,
    rng: random.Random,
    count: int,
    ask: Callable[[Mapping[str, Any]], "RandomTrial"],
    *,
    finish: Finish = lambda spec: spec,
) -> list[Drawn]:
    """Up to so many different specs other than that of a known point.

    `ask` is given the point's answers, and makes what answers for one of them.
    """
    start = RandomTrial(rng, params)
    origin = finish(suggest(start))
    found: dict[DetectorSpec, dict[str, Any]] = {}
    for _ in range(TRIES * count if start.chosen else 0):
        if len(found) == count:
            break
        trial = ask(start.chosen)
        try:
            spec = finish(suggest(trial))
        except ValueError:
            continue
        if spec != origin:
            found.setdefault(spec, trial.chosen)
    return [Drawn(params, spec) for spec, params in found.items()]


def judge(drawn: Sequence[Drawn], table: LatencyTable, *, counts: bool = True) -> list[Judged]:
    """Expected latency of each, with `counts` also parameters and GFLOPs."""
    specs = [each.spec for each in drawn]
    latencies = table.predict(specs)
    if not counts:
        return [Judged(*each, latency) for each, latency in zip(drawn, latencies, strict=True)]
    return [
        Judged(*each, latency, total.params, 2 * total.multiply_adds / 1e9)
        for each, latency, total in zip(drawn, latencies, table.count(specs), strict=True)
    ]


class RandomTrial(optuna.trial.FixedTrial):
    """Answers every question of a space at random, and keeps the answers in `chosen`.

    Those in `known` are given again where the space still allows them, but for the `changed` ones,
    which get another answer.
    """

    def __init__(
        self,
        rng: random.Random,
        known: Mapping[str, Any] | None = None,
        changed: frozenset[str] = frozenset(),
    ):
        super().__init__({})
        self.rng, self.known, self.changed = rng, known or {}, changed
        self.chosen: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """The answers so far."""
        return dict(self.chosen)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self.chosen:
            return self.chosen[name]
        choices = tuple(choices)
        if name in self.known and self.known[name] in choices:
            others = tuple(choice for choice in choices if choice != self.known[name])
            keep = name not in self.changed or not others
            value = self.known[name] if keep else self.rng.choice(others)
        else:
            value = self.rng.choice(choices)
        self.chosen[name] = value
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._numeric(name, low, high, step, log, whole=True))

    def suggest_float(
        self,
        name: str,
        low: Number,
        high: Number,
        *,
        step: Number | None = None,
        log: bool = False,
    ) -> float:
        return float(self._numeric(name, low, high, step, log, whole=False))

    def _numeric(
        self, name: str, low: Number, high: Number, step: Number | None, logs: bool, *, whole: bool
    ) -> Number:
        if name in self.chosen:
            return self.chosen[name]
        known = self.known.get(name)
        if not isinstance(known, int | float) or not low <= known <= high:
            known = None
        if known is not None and (name not in self.changed or low == high):
            value = known
        elif step is not None and not logs:
            value = low + step * self._place(low, high, step, known)
        else:
            value = self._between(low, high, logs)
        value = min(round(value), high) if whole else value
        self.chosen[name] = value
        return value

    def _place(self, low: Number, high: Number, step: Number, known: Number | None) -> int:
        """A place on the grid from `low` to `high`, not that of `known`."""
        last = int((high - low) / step + 1e-9)
        if known is None or not last:
            return self.rng.randint(0, last)
        here = round((known - low) / step)
        if self.rng.random() < NEAR:
            return self.rng.choice([place for place in (here - 1, here + 1) if 0 <= place <= last])
        place = self.rng.randint(0, last - 1)
        return place + (place >= here)

    def _between(self, low: Number, high: Number, logs: bool) -> Number:
        if logs:
            return min(max(math.exp(self.rng.uniform(math.log(low), math.log(high))), low), high)
        return self.rng.uniform(low, high)
