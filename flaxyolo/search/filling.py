"""What the data advise, grown until it uses the budget, and measured."""

import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FixedTrial

from flaxyolo.cost.again import measure_for
from flaxyolo.cost.budget import Budget, cheap_excess
from flaxyolo.cost.measure import compile_programs
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table.table import LatencyTable, Stat
from flaxyolo.crew.phases import MEASURED_IMAGES
from flaxyolo.data.feeds import open_pixels
from flaxyolo.deploy.engines import program
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.search.advised import SIZE
from flaxyolo.search.relatives import relatives
from flaxyolo.search.screen import Drawn, judge
from flaxyolo.search.setting import Sweep
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

POOL = 400
"""Networks of the same parts that one is chosen from."""
LOOKS = 3
"""Networks that are measured at most."""
GUESSES = 3
"""Before each, networks whose pieces are measured: of those that are far from all that it has, the
table knows little."""
AIM = 0.9
"""Of the budget, what the one that is measured next is expected to take at most."""
ENOUGH = 0.8
"""Of the budget, from which no further one is looked for."""
COUNTED = 100
"""Networks whose parameters and GFLOPs are counted, where these are limited: new pieces take
time."""


class Filled(NamedTuple):
    """Parameters of a network, and what it was measured to cost; None where it was not."""

    params: dict[str, Any]
    cost: Measurement | None = None
    over: tuple[tuple[dict[str, Any], Measurement], ...] = ()
    """Others that were measured on the way, and are over the budget."""


def filled(sweep: Sweep, params: dict[str, Any]) -> Filled:
    """The same parts, wider and deeper, at the same input size, which is the data's to choose.

    As they are where neither a latency, nor parameters or GFLOPs are limited, and where nothing
    that was measured keeps the limit. What is limited but the latency is known without measuring:
    without a latency, the one that uses most of it.
    """
    budget = sweep.budget
    counted = not {"params", "gflops"}.isdisjoint(budget.limits)
    if budget.latency_ms is None and not counted:
        return Filled(params)
    table, best, used = LatencyTable.open(engine=sweep.engine), Filled(params), 0.0
    pool = [Drawn(params, _finished(sweep, sweep.suggest(FixedTrial(params))))]
    pool += relatives(
        params, sweep.suggest, random.Random(sweep.seed), COUNTED if counted else POOL,
        other_part=0.0, fixed=frozenset([SIZE]), finish=lambda spec: _finished(sweep, spec),
    )  # fmt: skip
    if counted:
        pool = _inside(pool, table, budget) or pool[:1]
    if budget.latency_ms is None:
        return Filled(pool[-1].params)
    aim = AIM * budget.latency_ms
    for _ in range(LOOKS):
        place, expected = _fullest(pool, table, budget.latency_stat, aim)
        picked = pool.pop(place)
        cost = _measured(sweep, picked.spec)
        if table.add_network(picked.spec, cost):
            table.save()
        share = budget.latency_of(cost) / budget.latency_ms
        log.info("grown into the budget: %.2f ms %s (%.2f expected)",
                 budget.latency_of(cost), budget.latency_stat, expected)  # fmt: skip
        # What the table has not learnt from this one yet is made up for.
        aim *= min(1.0, AIM / share) if share > 1 else 1.0
        # What a busy machine leaves open is measured again before it is trained.
        keeps = budget.allows(cost) or budget.undecided(cost)
        if not keeps:
            best = best._replace(over=(*best.over, (picked.params, cost)))
        elif share > used:
            best, used = best._replace(params=picked.params, cost=cost), share
        if used >= ENOUGH or not pool:
            break
    return best


def _inside(pool: Sequence[Drawn], table: LatencyTable, budget: Budget) -> list[Drawn]:
    """Those that keep the limits of parameters and GFLOPs, those last that use most of them."""
    used = [
        1 + max(cheap_excess(budget, each.params, 2 * each.multiply_adds / 1e9).values())
        for each in table.count([drawn.spec for drawn in pool])
    ]
    return [pool[place] for place in np.argsort(used, kind="stable") if used[place] <= 1]


def _fullest(
    pool: Sequence[Drawn], table: LatencyTable, stat: Stat, aim_ms: float
) -> tuple[int, float]:
    """Place and milliseconds of the network that is expected to take the most up to `aim_ms`.

    Where none is expected to fit, of the fastest.
    """
    place, ms = 0, np.empty(0)
    for _ in range(GUESSES):
        judged = judge(pool, table, counts=False)
        ms = np.array([each.latency.expected(stat) for each in judged])
        inside = ms <= aim_ms
        place = int(np.where(inside, ms, -np.inf).argmax() if inside.any() else ms.argmin())
        with Gate(device_key()).quiet():
            if not table.measure([pool[place].spec]):
                break
    return place, float(ms[place])


def _measured(sweep: Sweep, spec: DetectorSpec) -> Measurement:
    """The cost of a fresh network on the first validation images."""
    pixels = open_pixels(sweep.data, "val", spec.image_size, keep=sweep.keep)
    on_engine = program(sweep.engine, spec)
    compile_programs(spec, sweep.engine)
    with Gate(device_key()).quiet():
        return measure_for(
            sweep.budget, spec, np.asarray(pixels.images[:MEASURED_IMAGES]), None, program=on_engine
        )


def _finished(sweep: Sweep, spec: DetectorSpec) -> DetectorSpec:
    return replace(spec, num_classes=len(sweep.data.class_names))


class Filler:
    """`filled`, which measures the same parameters once."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.known: dict[str, Filled] = {}

    def __call__(self, params: dict[str, Any]) -> Filled:
        key = json.dumps(params, sort_keys=True)
        if key not in self.known:
            self.known[key] = filled(self.sweep, params)
        return self.known[key]
