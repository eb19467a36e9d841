"""Specs near one that has weights: grown from it, so that most of what it has learnt is theirs.

A network that only grows begins as the very function that its parent is (arXiv 1511.05641), and
one of other parts must learn those anew: under a schedule of few epochs that decides.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from flaxyolo.search.growth import Number
from flaxyolo.search.screen import Drawn, Finish, RandomTrial, variations
from flaxyolo.search.space import Suggest

GROWN = 0.6
"""How often a number is drawn among those above the parent's."""
OTHER_PART = 0.5
"""How often one part is another than the parent's."""


def relatives(
    params: Mapping[str, Any],
    suggest: Suggest,
    rng: random.Random,
    count: int,
    *,
    other_part: float = OTHER_PART,
    fixed: frozenset[str] = frozenset(),
    finish: Finish = lambda spec: spec,
) -> list[Drawn]:
    """Up to so many different specs with the parts of a known point, or all but one of them.

    Numbers (widths, depths, input sizes) are the point's or larger, as far as the space goes, those
    of `fixed` names the point's; one part is another as often as `other_part` says. Points that are
    no valid spec, and the known one, are passed over.
    """

    def ask(known: Mapping[str, Any]) -> RandomTrial:
        parts = sorted(name for name, value in known.items() if isinstance(value, str))
        other = rng.choice(parts) if parts and rng.random() < other_part else ""
        return Growing(rng, params, frozenset([other]), fixed)

    return variations(params, suggest, rng, count, ask, finish=finish)


class Growing(RandomTrial):
    """Gives known answers again, or larger numbers where those are not `fixed`."""

    def __init__(
        self,
        rng: random.Random,
        known: Mapping[str, Any],
        changed: frozenset[str],
        fixed: frozenset[str],
    ):
        super().__init__(rng, known, changed)
        self.fixed = fixed

    def _grows(self, name: str) -> bool:
        return name not in self.fixed and self.rng.random() < GROWN

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        known = self.known.get(name)
        if name in self.chosen or not _number(known) or not all(map(_number, choices)):
            return super().suggest_categorical(name, choices)
        least = max((each for each in choices if each <= known), default=min(choices))
        larger = [each for each in choices if each > least]
        self.chosen[name] = self.rng.choice(larger) if larger and self._grows(name) else least
        return self.chosen[name]

    def _numeric(
        self, name: str, low: Number, high: Number, step: Number | None, logs: bool, *, whole: bool
    ) -> Number:
        known = self.known.get(name)
        if name in self.chosen or not _number(known):
            return super()._numeric(name, low, high, step, logs, whole=whole)
        known = min(max(known, low), high)
        if step is not None and not logs:
            first, last = round((known - low) / step), int((high - low) / step + 1e-9)
            grow = last > first and self._grows(name)
            value = low + step * (self.rng.randint(first + 1, last) if grow else first)
        else:
            grow = high > known and self._grows(name)
            value = self._between(known, high, logs) if grow else known
        value = min(round(value), high) if whole else value
        self.chosen[name] = value
        return value


def _number(value: Any) -> TypeGuard[Number]:
    return isinstance(value, int | float) and not isinstance(value, bool)
