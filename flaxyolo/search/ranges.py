"""How large the networks of a space must be to use the budget: chosen by screening, for a study.

Random draws of the space are judged on a ladder of widths and depths, by the share of the budget
that each would use at the largest input that the budget pays for and at the smallest beside it.
The ranges go from the rung of which most draws lie in the band just under the budget at the one to
the rung of which they do at the other.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import optuna
from jaxtyping import Float64
from optuna.trial import FixedTrial

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops, count_params, measure
from flaxyolo.cost.recorded import cost_of
from flaxyolo.cost.table.file import network_key
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.deploy.engines import program
from flaxyolo.machine.clock import least_seconds
from flaxyolo.search.funnel import DEFAULTS
from flaxyolo.search.screen import draw
from flaxyolo.search.space import (
    CAP,
    MAX_DEPTHS,
    REFERENCE,
    WIDTHS,
    Ranges,
    Suggest,
    left_open,
    reference_params,
    with_ranges,
)
from flaxyolo.spec import DetectorSpec, parse, to_dict
from flaxyolo.statistics.columns import percent
from flaxyolo.statistics.rules import LARGEST_SHARE

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
SIZES = 4
SMALLEST = 0.5
"""Input sizes of a space, and how far below the largest they go."""
LEAST_SIZES = 2
"""Those that stay, to compare, where the space has no network that uses the budget at any."""
LARGE_AT = 0.9
"""Quantile of what networks use, for the large ones."""
LEAN = 0.6
"""Of the budget, that the baseline may take at the largest input: what is advised beside it, such
as a second path through the neck, must be inside the budget too."""
LEAST_DEPTH = 2
"""To which every stage may go that is not shallow in the usual ranges."""

LEARN = 4
LEARN_BATCH = 2
"""Pieces measured for the table of blocks for a rung, and pieces timed in turn; each takes some
0.7 s, a large one longer."""
LEARN_IN_ALL = 8
LEARN_MOST = 40
"""In all, and where most networks still use less than half of the band: a space that ends there
would leave the budget unused."""
LEARN_UP_TO = 1.5
"""Share of the budget up to which the pieces of a network are measured: the others take long."""
TAIL = 1.2
"""The 95th percentile over the median, on a calm machine."""
CONFIRMED = 2
"""Times that the advised network is measured, as long as other ranges follow from it."""
MEASURE_S = 1.0
"""Seconds of calls of a network that a table is corrected by."""

Used = Callable[[Sequence[DetectorSpec]], Float64[np.ndarray, " n"]]
"""The share of the budget that each network uses, 1 at its limit."""


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
    seed: int = 0,
) -> Ranges:
    """The ranges of a space whose networks use 70 to 100 % of the budget at every input size.

    `sizes` are those that suit the images, smallest first, of which `input_sizes` takes some. The
    narrowest C2 is that of the rung that fills the budget at the largest of them, where the
    space's nearest to the reference must leave room; the widest, the cap and the depths are those
    of the rung that fills it at the smallest. What the space has decided stays as it is. The
    ladder is climbed until its networks are too large.
    """
    free = left_open(suggest)
    taken, baseline = tuple(sizes), nearest(suggest, sizes, classes)
    if "image_sizes" in free:
        taken = input_sizes(baseline, sizes, used)
    # A space may know only some of them, or have its own.
    known = drawn_sizes(with_ranges(suggest, replace(USUAL, image_sizes=taken)), seed)
    ends = known[:1] + known[1:][-1:]

    def networks(ranges: Ranges, at: Sequence[int]) -> list[DetectorSpec]:
        space = with_ranges(suggest, replace(ranges, image_sizes=taken))
        pool = draw(space, draws, seed, finish=lambda spec: replace(spec, num_classes=classes))
        return [at_size(each.spec, size) for each in pool.drawn for size in at]

    rungs = ladder if free & {"widths", "max_depths"} else (USUAL,)
    # A row for each network, a column for each end.
    judged: list[Float64[np.ndarray, "n ends"]] = []
    for rung in rungs:
        judged.append(used(networks(rung, ends)).reshape(-1, len(ends)))
        if np.median(judged[-1][:, 0]) > 1:
            break
    rungs = rungs[: len(judged)]
    taking = used([nearest(suggest, taken, classes, rung, at=ends[-1]) for rung in rungs])
    lean = [place for place, share in enumerate(taking) if share <= max(LEAN, taking[0])]
    low = lean[fullest([judged[place][:, -1] for place in lean])]
    high = low + fullest([shares[:, 0] for shares in judged[low:]])
    ranges = joined(rungs[low], rungs[high])
    shares = used(networks(ranges, known)).reshape(-1, len(known))
    filled = fillable(shares)
    if "image_sizes" in free and known == taken:
        left = max(filled, min(LEAST_SIZES, len(taken)))
        taken, shares = taken[-left:], shares[:, -left:]
    ranges = replace(ranges, image_sizes=taken if "image_sizes" in free else known)
    start = nearest(suggest, taken, classes, ranges, at=ends[-1])
    told = (
        f"{ranges.describe()}: {percent(in_band(shares))} of random draws use "
        f"{' to '.join(f'{100 * end:.0f}' for end in DEFAULTS.band)} % of the budget, half of them "
        f"less than {percent(float(np.median(shares)))}; at {ends[-1]} px the baseline takes "
        f"{percent(float(used([start])[0]))}"
    )
    if "image_sizes" in free and taken[-1] < sizes[-1]:
        larger = sizes[sizes.index(taken[-1]) + 1]
        share = float(used([at_size(baseline, larger)])[0])
        told += f", at {larger} px one of {REFERENCE['width']} channels {percent(share)}"
    elif filled < shares.shape[1] and rungs[-1] is LADDER[-1]:
        told += "; nothing larger is tried"
    return replace(ranges, why=told)


def input_sizes(baseline: DetectorSpec, sizes: Sequence[int], used: Used) -> tuple[int, ...]:
    """The input sizes of a space, smallest first: as many as `SIZES`.

    The largest is the largest at which the baseline leaves room in the budget; the others are the
    next below it, down to half of it.
    """
    shares = used([at_size(baseline, size) for size in sizes])
    paid = sizes[: max(1, int((shares <= LARGEST_SHARE).sum()))]
    return tuple(size for size in paid[-SIZES:] if size >= SMALLEST * paid[-1])


def drawn_sizes(suggest: Suggest, seed: int) -> tuple[int, ...]:
    """The input sizes of a space, as random draws have them, smallest first."""
    return tuple(sorted({each.spec.image_size for each in draw(suggest, DRAWS, seed).drawn}))


def fillable(shares: Float64[np.ndarray, "n sizes"]) -> int:
    """At how many sizes large networks reach the band, by the shares that all use at each."""
    return int((np.quantile(shares, LARGE_AT, axis=0) >= DEFAULTS.band[0]).sum())


def in_band(shares: Float64[np.ndarray, "..."]) -> float:
    """Of networks that use these shares of the budget, those in the band."""
    low, high = DEFAULTS.band
    return float(((shares >= low) & (shares <= high)).mean())


def fullest(judged: Sequence[Float64[np.ndarray, " n"]]) -> int:
    """The rung with most draws in the band; where none are, the one that comes nearest to it."""
    inside = np.array([in_band(shares) for shares in judged])
    off = np.abs(np.log([np.median(shares) for shares in judged]))
    return int(np.lexsort((off, -inside))[0])


def joined(low: Ranges, high: Ranges) -> Ranges:
    """From the narrowest of a rung to the largest of another, in which no depth is decided that
    usual ranges leave open."""
    assert low.widths is not None, "every rung has widths"
    assert high.widths is not None, "every rung has widths"
    assert high.max_depths is not None, "every rung has depths"
    depths = [
        max(most, min(usual, LEAST_DEPTH))
        for most, usual in zip(high.max_depths, MAX_DEPTHS, strict=True)
    ]
    widths = (low.widths[0], high.widths[1], low.widths[2])
    return replace(high, widths=widths, max_depths=tuple(depths))


def nearest(
    suggest: Suggest,
    sizes: Sequence[int],
    classes: int,
    ranges: Ranges = USUAL,
    at: int | None = None,
) -> DetectorSpec:
    """The space's nearest to the reference network in these ranges, also at another size."""
    space = with_ranges(suggest, replace(ranges, image_sizes=tuple(sizes)))
    spec = replace(space(FixedTrial(reference_params(space))), num_classes=classes)
    return spec if at is None else at_size(spec, at)


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
    """The ranges of a new study on this device; measures for some 20 s where it knows too
    little, with a large budget for up to two minutes.

    Hold the device alone.
    """
    if not left_open(suggest):
        return Ranges(drawn_sizes(suggest, seed), why="the space has ranges of its own")
    if budget.latency_ms is not None:
        log.info("choosing the ranges of the space: the baseline, blocks and the largest network "
                 "advised are measured for some 20 s, with a large budget for up to two minutes, "
                 "unless they are known")  # fmt: skip
        free = "image_sizes" in left_open(suggest)
        if not free:
            sizes = drawn_sizes(with_ranges(suggest, USUAL), seed)
        baseline = nearest(suggest, sizes, classes)
        table.measure([baseline])
        calibrate(table, baseline)
        used = used_of(budget, table)
        # Times grow by the pixels at most, so it leaves room at this size for certain.
        longest = baseline.image_size * (LARGEST_SHARE / used([baseline])[0]) ** 0.5
        fitting = [size for size in sizes if size <= longest] or sizes[:1]
        table.measure([at_size(baseline, fitting[-1])])
        taken = input_sizes(baseline, sizes, used) if free else sizes
        largest = at_size(baseline, taken[-1])
        ladder = worth_climbing(float(used([largest])[0]))
        ladder = climbed(suggest, ladder, taken, used, table, classes, seed)
        choose = partial(
            choose_ranges, suggest, sizes, used, classes=classes, ladder=ladder, seed=seed
        )
        ranges = choose()
        for _ in range(CONFIRMED):
            calibrate(table, advised(suggest, ranges, classes))
            ranges = choose()
        return ranges
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


def advised(suggest: Suggest, ranges: Ranges, classes: int) -> DetectorSpec:
    """The largest network that data advise at first: the reference's nearest at the largest size,
    with a second path through the neck."""
    space = with_ranges(suggest, ranges)
    changed = {"image_size": ranges.image_sizes[-1], "neck.kind": "pan"}
    return replace(space(FixedTrial(reference_params(space, changed))), num_classes=classes)


def calibrate(table: LatencyTable, spec: DetectorSpec) -> None:
    """Correct a table by a whole network: the sum of its pieces alone may be far off."""
    if network_key(spec) in table.networks:
        return
    cost = cost_of(
        f"{network_key(spec)} quick {table.engine.describe()}",
        lambda: measure(
            spec,
            program=program(table.engine, spec),
            min_calls=50,
            min_seconds=min(MEASURE_S, least_seconds()),
            max_seconds=2 * MEASURE_S,
        ),
    )
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


def climbed(
    suggest: Suggest,
    ladder: Sequence[Ranges],
    sizes: Sequence[int],
    used: Used,
    table: LatencyTable,
    classes: int,
    seed: int,
) -> Sequence[Ranges]:
    """The rungs of which enough is known: what is unlike all that was measured is thought fast.

    Measures pieces of random networks at the smallest and the largest of these sizes, on every
    second rung, as far as they may be inside the budget and so many in all, which are more while
    the networks are far too small.
    """
    learnt, ends = 0, tuple(sorted({sizes[0], sizes[-1]}))
    for place in range(0, len(ladder), 2):
        space = with_ranges(suggest, replace(ladder[place], image_sizes=ends))
        drawn = draw(space, DRAWS, seed).drawn
        specs = [replace(each.spec, num_classes=classes) for each in drawn]
        near = [spec for spec, share in zip(specs, used(specs), strict=True)
                if share <= LEARN_UP_TO]  # fmt: skip
        if near:
            learnt += table.fill(near, LEARN, seed, batch=LEARN_BATCH)
        shares = used(specs)
        small = np.median(shares) < DEFAULTS.band[0] / 2
        if np.quantile(shares, 0.25) > 1 or learnt >= (LEARN_MOST if small else LEARN_IN_ALL):
            return ladder[: place + 1]
    return ladder


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
