"""Which of the judged candidates the surrogate looks at: those that use the limits in full."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.cost.budget import Budget, cheap_excess
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table.pieces import pieces
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.search.funnel import DEFAULTS, in_band
from flaxyolo.search.screen import Drawn, Judged, judge

SHORT_LIST = 200
"""Specs that the surrogate looks at."""
LEAST_LIST = 20
FASTEST = 4
"""Listed where none is expected to fit."""
CONFIDENCE = 0.65
"""With which a proposal is inside the latency budget, as far as the table tells: one that is not
costs its measurement only, and one far below the budget a training of too small a network."""
FULL = 0.9
"""Share of the budget from which proposals are alike; those below are for want of others."""
LIKELY = (0.5, 1.3)
"""Shares of the limit of GFLOPs, as the latency lets expect them, that are counted first."""


def limit_ms(budget: Budget) -> float:
    """The limit of the latency; infinite where there is none."""
    return np.inf if budget.latency_ms is None else budget.latency_ms


def upper_ms(budget: Budget, judged: Judged) -> float:
    """What the candidate stays below with confidence: what is compared with the budget."""
    return judged.latency.upper(budget.latency_stat, CONFIDENCE)


def share_used(budget: Budget, judged: Judged) -> float:
    """Of the limit that it uses most of, as far as is known before measuring."""
    over = cheap_excess(budget, judged.parameters or 0, judged.gflops or 0.0)
    return max(upper_ms(budget, judged) / limit_ms(budget), *(1 + e for e in over.values()), 0.0)


def short_list(
    judged: Sequence[Judged],
    budget: Budget,
    table: LatencyTable,
    rng: np.random.Generator,
    most_pieces: int,
    measured: Sequence[Measurement] = (),
) -> list[Judged]:
    """Candidates in the band of the latency, a few of the fastest where none is expected to fit.

    They are counted, until they have more than so many different pieces. Where parameters or GFLOPs
    are limited, those stay that are in the band of the limit which they use most of; for that the
    likely ones are counted first, by what networks were `measured` to take.
    """
    upper = np.array([upper_ms(budget, each) for each in judged])
    if (upper <= limit_ms(budget)).any():
        places = fullest(upper, limit_ms(budget), LEAST_LIST)
    else:
        places = np.argsort(upper)[:FASTEST]
    places = rng.permutation(places)
    counts = bool({"params", "gflops"} & budget.limits.keys())
    if counts:
        places = likely_first(places, judged, budget, measured)
    places = places[:SHORT_LIST]
    listed: list[Judged] = []
    seen: set[str] = set()
    for start in range(0, len(places), LEAST_LIST):
        part = [judged[place] for place in places[start : start + LEAST_LIST]]
        listed += judge([Drawn(each.params, each.spec) for each in part], table)
        seen |= {piece.key for each in part for piece in pieces(each.spec)}
        if len(seen) > most_pieces:
            break
    if not counts:
        return listed
    shares = np.array([share_used(budget, each) for each in listed])
    if not (shares <= 1).any():
        return listed
    return [listed[place] for place in in_band(shares, 1.0, DEFAULTS.band)]


def likely_first(
    places: Int[np.ndarray, " k"],
    judged: Sequence[Judged],
    budget: Budget,
    measured: Sequence[Measurement],
) -> Int[np.ndarray, " k"]:
    """The places in the same order, but those first which are likely near the limit of GFLOPs."""
    rates = [cost.gflops / cost.latency_ms_p50 for cost in measured if cost.latency_ms_p50 > 0]
    if budget.gflops is None or not rates:
        return places
    rate = float(np.median(rates)) / budget.gflops
    shares = np.array([judged[place].latency.p50_ms * rate for place in places])
    likely = (shares >= LIKELY[0]) & (shares <= LIKELY[1])
    return np.concatenate([places[likely], places[~likely]])


def fullest(
    latency_ms: Float[np.ndarray, " n"], budget_ms: float, least: int
) -> Int[np.ndarray, " k"]:
    """Places of the candidates in the upper part of the band; of the rest the nearest to it, where
    those are fewer than `least`."""
    places = in_band(latency_ms, budget_ms, DEFAULTS.band)
    ordered = places[np.argsort(-latency_ms[places])]
    full = int((latency_ms[ordered] >= FULL * budget_ms).sum())
    return ordered if np.isinf(budget_ms) else ordered[: max(full, least)]
