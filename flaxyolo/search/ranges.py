"""How large the networks of a space must be to use the budget: chosen by screening, for a study.

Random draws of the space are judged on a ladder of widths and depths and at every input size, by
the share of the budget that each would use. The ranges are those of which most draws lie in the
band just under the budget.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import optuna
from jaxtyping import Float64
from optuna.trial import FixedTrial

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops, count_params, measure
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.search.funnel import DEFAULTS
from flaxyolo.search.screen import draw
from flaxyolo.search.space import (
    CAP,
    MAX_DEPTHS,
    WIDTHS,
    Ranges,
    Suggest,
    left_open,
    reference_params,
    with_ranges,
)
from flaxyolo.spec import DetectorSpec, parse, to_dict

log = logging.getLogger(__name__)

USUAL = Ranges((), WIDTHS, CAP, MAX_DEPTHS)
LADDER = (
    Ranges((), (8, 16, 8), 6, (1, 1, 1, 1)),
    Ranges((), (8, 16, 8), 6, (1, 2, 2, 1)),
    Ranges((), (8, 24, 8), 6, (1, 2, 2, 1)),
    Ranges((), (16, 24, 8), 6, (2, 3, 3, 2)),
    USUAL,
    Ranges((), (16, 32, 8), 6, (2, 4, 4, 2)),
    Ranges((), (24, 40, 8), 6, (2, 4, 4, 2)),
    Ranges((), (32, 56, 8), 6, (2, 4, 4, 2)),
    Ranges((), (48, 64, 8), 6, (3, 5, 5, 3)),
    Ranges((), (64, 96, 16), 6, (3, 6, 6, 3)),
    Ranges((), (96, 128, 16), 4, (3, 6, 6, 3)),
    Ranges((), (128, 160, 16), 4, (3, 6, 6, 3)),
    Ranges((), (160, 160, 16), 4, (3, 6, 6, 3)),
)
"""Up to YOLOv8x's size: C2 of 160 channels, at most 640 wide, 3, 6, 6 and 3 layers deep."""

PRODUCTS = (0.3, 0.4, 0.5, 1.3, 1.6, 1.8, 2.6, 4.8, 9.0, 18.0, 34.0, 58.0, 78.0)
"""Multiply-adds of the middle network of each rung, over the reference's at the same size."""
LARGE = 2.0
"""The same of a rung's large networks, over its middle one's."""

DRAWS = 40
"""Networks judged on each rung of the ladder, all at every size."""
COUNTED_DRAWS = 24
TRACED_DRAWS = 8
COUNTED_LADDER = LADDER[::2]
"""The same for parameters, and for GFLOPs, for which each network must be traced."""
ENOUGH = 0.2
"""Share of draws in the band beyond which more input sizes are worth more than more draws."""
LEAST = 0.12
"""Share of draws in the band for which input sizes are given up."""
SIZES = 4
MOST_SIZES = 6
"""Input sizes of a space that may have so many."""

LEARN_S = 2.0
LEARN_BATCH = 4
"""Seconds spent on the table of blocks for each rung, and pieces timed in turn."""
LEARN_IN_ALL_S = 10.0
LEARN_UP_TO = 1.5
"""Share of the budget up to which the pieces of a network are measured: the others take long."""
TAIL = 1.2
"""The 95th percentile over the median, on a calm machine."""
MEASURE_S = 1.0
"""Seconds of calls of the first network that a table is corrected by."""

Used = Callable[[Sequence[DetectorSpec]], Float64[np.ndarray, " n"]]
"""The share of the budget that each network uses, 1 at its limit."""
Learn = Callable[[Sequence[DetectorSpec]], bool]
"""Is told which networks will be judged next; False where it has no more time to learn of them."""


RANGES = "ranges"
"""Attribute of a study: how large its detectors may be."""


def stored_ranges(study: optuna.Study) -> Ranges | None:
    """The ranges of a study; None where it was begun before they were stored."""
    kept = study.user_attrs.get(RANGES)
    return None if kept is None else parse(Ranges, kept, f"study {study.study_name}: {RANGES}")


def store_ranges(study: optuna.Study, ranges: Ranges) -> None:
    """Keep the ranges with a study: its trials could not be compared in others."""
    study.set_user_attr(RANGES, to_dict(ranges))


def choose_ranges(
    suggest: Suggest,
    sizes: Sequence[int],
    used: Used,
    *,
    classes: int = 80,
    ladder: Sequence[Ranges] = LADDER,
    draws: int = DRAWS,
    learn: Learn = lambda specs: True,
    seed: int = 0,
) -> Ranges:
    """The ranges of a space whose draws use 70 to 100 % of the budget, as far as there are any.

    `sizes` are those that suit the images, smallest first. The largest taken is the largest at
    which the space's nearest to the reference is inside the budget. Below it follow as many as
    leave a fifth of the draws in the band, or four. What the space has decided stays as it is.
    The ladder is climbed until its networks are too large, or no more is learnt of them: what is
    unlike everything measured is easily thought fast.
    """
    free = left_open(suggest)
    taken = tuple(sizes)
    if "image_sizes" in free:
        baseline = nearest(suggest, sizes, classes)
        fitting = used([at_size(baseline, size) for size in sizes]) <= 1
        taken = taken[: max(1, int(fitting.sum()))][-MOST_SIZES:]
    rungs = ladder if free & {"widths", "max_depths"} else (USUAL,)
    networks: list[list[DetectorSpec]] = []
    for rung in rungs:
        space = with_ranges(suggest, replace(rung, image_sizes=taken[-1:]))
        pool = draw(space, draws, seed, finish=lambda spec: replace(spec, num_classes=classes))
        specs = [each.spec for each in pool.drawn]
        if "image_sizes" in free:
            specs = [at_size(spec, size) for spec in specs for size in taken]
        networks.append(specs)
        learnt = learn(specs)
        if not learnt or np.quantile(used(specs), 0.25) > 1:
            break
    # A row for each network; where the space has its own sizes, of one column.
    columns = len(taken) if "image_sizes" in free else 1
    judged = [used(specs).reshape(-1, columns) for specs in networks]
    low, high = DEFAULTS.band
    inside = np.array([((shares >= low) & (shares <= high)).mean(0) for shares in judged])
    full = {count: inside[:, -count:].mean(1) for count in range(1, columns + 1)}
    count = enough_sizes({count: float(shares.max()) for count, shares in full.items()})
    middle = [float(np.median(shares[:, -count:])) for shares in judged]
    # Where nothing is in the band, the rung that comes nearest to it.
    best = int(np.lexsort((np.abs(np.log(middle)), -full[count]))[0])
    if "image_sizes" in free:
        taken = taken[-count:]
    else:
        taken = tuple(sorted({spec.image_size for specs in networks for spec in specs}))
    ranges = replace(rungs[best], image_sizes=taken)
    told = f"{ranges.describe()}: {100 * full[count][best]:.0f} % of random draws use "
    told += f"{100 * low:.0f} to {100 * high:.0f} % of the budget, half of them less than "
    told += f"{100 * middle[best]:.0f} %"
    if "image_sizes" in free and taken[-1] < sizes[-1]:
        larger = sizes[sizes.index(taken[-1]) + 1]
        told += f"; at {larger} px the baseline alone would exceed it"
    elif full[count][best] < LEAST and rungs[best] is LADDER[-1]:
        told += "; nothing larger is tried"
    return replace(ranges, why=told)


def enough_sizes(fullest: Mapping[int, float]) -> int:
    """How many input sizes to take, by the share of draws in the band with each number of them."""
    most = max(fullest)
    for count in range(most, SIZES - 1, -1):
        if fullest[count] >= ENOUGH:
            return count
    for count in range(min(most, SIZES), 0, -1):
        if fullest[count] >= LEAST:
            return count
    return min(most, SIZES) if max(fullest.values()) == 0 else max(fullest, key=fullest.__getitem__)


def nearest(suggest: Suggest, sizes: Sequence[int], classes: int) -> DetectorSpec:
    """The space's nearest to the reference network, in the usual ranges."""
    space = with_ranges(suggest, replace(USUAL, image_sizes=tuple(sizes)))
    return replace(space(FixedTrial(reference_params(space))), num_classes=classes)


def at_size(spec: DetectorSpec, size: int) -> DetectorSpec:
    """The network at another input size, or the next above it that its stride allows."""
    stride = spec.strides[-1]
    return replace(spec, image_size=-(-size // stride) * stride)


def screened_ranges(
    suggest: Suggest,
    sizes: Sequence[int],
    budget: Budget,
    table: LatencyTable,
    *,
    classes: int,
    seed: int = 0,
) -> Ranges:
    """The ranges of a new study on this device; measures for some 20 s where it knows too little.

    Hold the device alone.
    """
    if not left_open(suggest):
        own = {each.spec.image_size for each in draw(suggest, DRAWS, seed).drawn}
        return Ranges(tuple(sorted(own)), why="the space has ranges of its own")
    if budget.latency_ms is not None:
        log.info("choosing the ranges of the space: the baseline and blocks are measured for about "
                 "%.0f s, unless they are known", LEARN_IN_ALL_S)  # fmt: skip
        baseline = nearest(suggest, sizes, classes)
        calibrate(table, baseline)
        used = used_of(budget, table)
        # Times grow by the pixels at most, so it is inside the budget at this size for certain.
        longest = baseline.image_size * used([baseline])[0] ** -0.5
        fitting = [size for size in sizes if size <= longest] or sizes[:1]
        largest = at_size(baseline, fitting[-1])
        table.measure([largest])
        return choose_ranges(
            suggest,
            sizes,
            used,
            classes=classes,
            ladder=worth_climbing(float(used([largest])[0])),
            learn=learning(budget, table, seed),
            seed=seed,
        )
    if budget.gflops is not None or budget.params is not None:
        log.info("choosing the ranges of the space: networks are counted")
        return choose_ranges(
            suggest,
            sizes,
            counted(budget),
            classes=classes,
            ladder=COUNTED_LADDER,
            draws=COUNTED_DRAWS if budget.gflops is None else TRACED_DRAWS,
            seed=seed,
        )
    ranges = replace(USUAL, image_sizes=tuple(sizes[-SIZES:]))
    why = f"{ranges.describe()}: the usual ones, for memory is known of compiled networks only"
    return replace(ranges, why=why)


def worth_climbing(share: float) -> Sequence[Ranges]:
    """The ladder without the rungs whose networks use too little, by the baseline's share of the
    budget: times grow by the products at most."""
    rungs = [
        rung
        for rung, products in zip(LADDER, PRODUCTS, strict=True)
        if LARGE * products * share >= DEFAULTS.band[0]
    ]
    return rungs or LADDER[-1:]


def calibrate(table: LatencyTable, spec: DetectorSpec) -> None:
    """Correct a new table by a first network: the sum of its pieces alone may be far off."""
    if table.contents.networks:
        return
    table.measure([spec])
    cost = measure(spec, min_calls=50, min_seconds=MEASURE_S, max_seconds=2 * MEASURE_S)
    if table.add_network(spec, cost):
        table.save()


def used_of(budget: Budget, table: LatencyTable) -> Used:
    """The share of the budget by the table's expected latencies.

    A p95 is taken from the p50: that of one network measured in a bad minute would bend all.
    """
    assert budget.latency_ms is not None, "nothing is timed without a limit of time"
    limit = budget.latency_ms / (1.0 if budget.latency_stat == "p50" else TAIL)

    def used(specs: Sequence[DetectorSpec]) -> Float64[np.ndarray, " n"]:
        return np.array([each.p50_ms for each in table.predict(specs)]) / limit

    return used


def learning(budget: Budget, table: LatencyTable, seed: int) -> Learn:
    """Measures pieces of networks that may be inside the budget, for a limited time in all."""
    used, began = used_of(budget, table), time.monotonic()

    def learn(specs: Sequence[DetectorSpec]) -> bool:
        near = [spec for spec, share in zip(specs, used(specs), strict=True)
                if share <= LEARN_UP_TO]  # fmt: skip
        if near:
            table.fill(near, LEARN_S, seed, batch=LEARN_BATCH)
        return time.monotonic() - began < LEARN_IN_ALL_S

    return learn


def counted(budget: Budget) -> Used:
    """The share of the budget by parameters and GFLOPs, of the limit that is used most."""

    @cache
    def counts(spec: DetectorSpec) -> tuple[float, float]:
        params = 0.0 if budget.params is None else float(count_params(spec))
        return params, 0.0 if budget.gflops is None else count_gflops(spec) / spec.image_size**2

    def used(specs: Sequence[DetectorSpec]) -> Float64[np.ndarray, " n"]:
        shares = []
        for spec in specs:
            # Products grow with the pixels, so a network is traced at one size only.
            params, products = counts(at_size(spec, 64))
            values = {"params": params, "gflops": products * spec.image_size**2}
            shares.append(1 + max(budget.shares(values).values()))
        return np.array(shares)

    return used
