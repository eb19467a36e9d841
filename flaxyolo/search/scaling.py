"""Which YOLOv8 a budget holds, by what the table of blocks expects: the control of a sweep."""

import logging
import time
from collections.abc import Callable, Sequence
from math import inf

from optuna.trial import FixedTrial

from flaxyolo.cost.budget import cheap_excess
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.crew.record import CHEAP, Record
from flaxyolo.search.controls import SCALED
from flaxyolo.search.family import DEPTHS, WIDTHS, as_wished, scaled, sizes_down, widest
from flaxyolo.search.screen import Drawn, judge
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import reference_params
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

Fill = Callable[[Sequence[Drawn], int], None]
"""Measures blocks of networks for a while, with a seed."""


def scaled_control(
    sweep: Sweep, found: Sequence[Record], table: LatencyTable, fill: Fill
) -> Record | None:
    """The YOLOv8 with the most GFLOPs that is expected inside the budget; None where none is.

    Its input size is the advised one, or the next smaller that any member fits at. One that was
    measured over the budget is followed by one that is smaller by as much or more. Its parameters
    are those of the nearest point of the space.
    """
    began = time.perf_counter()
    classes, most = len(sweep.data.class_names), _most_gflops(found, table)
    sizes = list(sizes_down(wanted_size(sweep)))

    def widest_inside() -> list[DetectorSpec]:
        families = (
            widest(size, classes, lambda spec: _fits(spec, sweep, table, most)) for size in sizes
        )
        return next(filter(None, families), [])

    # A new table begins with the blocks of the first network that it is asked for.
    table.predict([scaled(min(WIDTHS), min(DEPTHS), sizes[-1], classes)])
    near = widest_inside()
    # One that was measured has taught the table what the next is judged by.
    if near and sweep.budget.latency_ms is not None and most == inf:
        fill([Drawn({}, spec) for spec in near], sweep.seed)
        near = widest_inside()
    judged = judge([Drawn({}, spec) for spec in near], table)
    picked = max(judged, key=lambda member: member.gflops or 0.0, default=None)
    if picked is None:
        return None
    expected, spec = picked.latency.expected(sweep.budget.latency_stat), picked.spec
    log.info("YOLOv8 scaled into the budget: a stem of %d channels, %d px, %.2f ms expected",
             spec.backbone.stem_width, spec.image_size, expected)  # fmt: skip
    return Record(
        number=len(found),
        state="waiting",
        params=reference_params(sweep.suggest, as_wished(spec)),
        origin=SCALED,
        spec=spec,
        predicted_ms=expected,
        seconds={"predict": round(time.perf_counter() - began, 3)},
    )


def wanted_size(sweep: Sweep) -> int:
    """The advised input size, the baseline's without advice, as the space has it."""
    advised = {each.key: each.value for each in sweep.advice if each.key == "image_size"}
    return sweep.suggest(FixedTrial(reference_params(sweep.suggest, advised))).image_size


def _most_gflops(found: Sequence[Record], table: LatencyTable) -> float:
    """What the next member must stay below, by those that were over the budget."""
    tried = [each for each in found if each.stage == CHEAP and each.origin == SCALED]
    known = [(each.spec, each.constraints) for each in tried if each.spec is not None]
    judged = judge([Drawn({}, spec) for spec, _ in known], table)
    limits = [
        (member.gflops or 0.0) / (1 + max((0.0, *excess.values())))
        for member, (_, excess) in zip(judged, known, strict=True)
    ]
    return min(limits, default=inf)


def _fits(spec: DetectorSpec, sweep: Sweep, table: LatencyTable, most_gflops: float) -> bool:
    """Whether a detector of fewer GFLOPs is expected to keep the budget."""
    budget, member = sweep.budget, [Drawn({}, spec)]
    (timed,) = judge(member, table, counts=False)
    if (
        budget.latency_ms is not None
        and timed.latency.expected(budget.latency_stat) > budget.latency_ms
    ):
        return False
    if most_gflops == inf and not {"params", "gflops"} & budget.limits.keys():
        return True
    (counted,) = judge(member, table)
    params, gflops = counted.parameters or 0, counted.gflops or 0.0
    excess = cheap_excess(budget, params, gflops)
    return gflops < most_gflops and all(share <= 0 for share in excess.values())
