"""The first candidates of a study, which come of what its data look like, and how they did."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import optuna
from optuna.trial import FixedTrial

from flaxyolo.base.files import cache_root, make_room, replace_file
from flaxyolo.base.kept import DAMAGE, brief, read_regular, sealed, unsealed
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.measure import count_gflops
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table.table import LatencyTable, Stat
from flaxyolo.crew.record import CHEAP, Record, attributes
from flaxyolo.data.sources import Dataset
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.search.objective import Objective
from flaxyolo.search.space import Suggest, reference_params, whole_cells
from flaxyolo.spec import DetectorSpec
from flaxyolo.statistics.advice import advise, candidates
from flaxyolo.statistics.rules import Advice
from flaxyolo.statistics.summary import statistics, statistics_from_dict

log = logging.getLogger(__name__)

VERSION = 2
"""Raised with every change of the statistics."""

LEAST_SHARE = 1 / 30
"""Of the highest value of an objective, below which two scores tell nothing."""

BASELINE = "baseline"
ADVISED = "advised"
SIZE = "image_size"
"""Parameter of a space."""

Predict = Callable[[Sequence[DetectorSpec]], Sequence[float]]
"""Milliseconds that each network is expected to take."""


def learn(
    data: Dataset,
    image_sizes: Sequence[int],
    batch_size: int,
    affordable: Mapping[int, float] | None = None,
) -> tuple[Advice, ...]:
    """What the data advise for these input sizes; their statistics are kept in the cache.

    `affordable` is the share of the budget that the reference network takes at each size.
    """
    sizes = "-".join(map(str, sorted(image_sizes)))
    key = hashlib.sha256(f"{VERSION} {data.fingerprint} {sizes}".encode()).hexdigest()[:20]
    path = cache_root(None) / f"statistics-{key}.json"
    found = None
    if os.path.lexists(path):
        try:
            found = statistics_from_dict(unsealed(read_regular(path)), str(path))
        except DAMAGE as error:
            log.warning("%s is damaged and is made again: %s", path, brief(error))
            make_room(path)
    if found is None:
        found = statistics(data, image_sizes=image_sizes)
        replace_file(path, sealed(found.to_dict()))
    return advise(found, image_sizes=image_sizes, batch_size=batch_size, affordable=affordable)


def affordable_sizes(
    predict: Predict, suggest: Suggest, sizes: Sequence[int], budget: Budget
) -> dict[int, float] | None:
    """Share of the budget that the reference network of a space takes at each input size.

    None where neither latency nor GFLOPs are limited. `predict` is asked once, for all sizes.
    """
    if not sizes:
        return None
    specs = [_reference_at(suggest, size) for size in sizes]
    shares = []
    if budget.latency_ms is not None:
        shares.append([ms / budget.latency_ms for ms in predict(specs)])
    if budget.gflops is not None:
        shares.append([count_gflops(spec) / budget.gflops for spec in specs])
    return dict(zip(sizes, map(max, zip(*shares, strict=True)), strict=True)) if shares else None


def expected_ms(
    stat: Stat, specs: Sequence[DetectorSpec], *, engine: Engine = JAX_ENGINE
) -> list[float]:
    """What networks take by the table of this device, of which the first and last are measured."""
    table = LatencyTable.open(engine=engine)
    with Gate(device_key()).quiet():
        table.measure([specs[0], specs[-1]])
        predictions = table.predict(specs)
    return [each.expected(stat) for each in predictions]


def expected_share(spec: DetectorSpec, budget: Budget, engine: Engine = JAX_ENGINE) -> float | None:
    """The share of the latency budget that a network is expected to take; None without one."""
    if budget.latency_ms is None:
        return None
    (prediction,) = LatencyTable.open(engine=engine).predict([spec])
    return prediction.expected(budget.latency_stat) / budget.latency_ms


def opening(suggest: Suggest, advice: Sequence[Advice]) -> dict[str, dict[str, Any]]:
    """What a study tries first, by name, as parameters of its space.

    The baseline is the space's point nearest to the reference network; the others differ from it
    in what the advice names, as far as the space has it. Two of the same parameters have one
    entry, with both names.
    """
    wanted = {BASELINE: {}, **candidates(advice)}
    found: dict[str, dict[str, Any]] = {}
    for name, changed in wanted.items():
        params = reference_params(suggest, changed)
        twin = next((other for other in found if found[other] == params), None)
        if twin is None:
            found[name] = params
        else:
            found[f"{twin} = {name}"] = found.pop(twin)
    return found


Known = tuple[dict[str, Any], Measurement]
"""Parameters of a network that was measured, and its cost."""

Fill = Callable[[dict[str, Any]], tuple[dict[str, Any], Measurement | None, Sequence[Known]]]
"""Parameters grown until they use the budget, the cost of their network if it was measured, and
what was found over the budget on the way."""

TOO_LARGE = ", too large"
"""In the origin of a network that was over the budget when an advised one was grown into it."""


def enqueue_opening(
    study: optuna.Study,
    suggest: Suggest,
    advice: Sequence[Advice],
    baseline: DetectorSpec | None = None,
    fill: Fill = lambda params: (params, None, ()),
) -> None:
    """Make them the first trials of a new study; a `baseline` may be no point of the space.

    All but the baseline are filled: one that leaves half of the budget unused would be compared
    with proposals that use it whole. What differs from the advised in a smaller input alone is what
    that has become.
    """
    if study.get_trials(deepcopy=False):
        return

    def enqueue(params: dict[str, Any], name: str, **known_of: Any) -> None:
        known = Record(0, "waiting", origin=name, **known_of)
        study.enqueue_trial(params, user_attrs=attributes(known))

    ordered = opening(suggest, advice)
    advised = next((ordered[name] for name in ordered if ADVISED in name.split(" = ")), {})
    for name in sorted(ordered, key=lambda name: BASELINE not in name.split(" = ")):
        params, (first, *others) = ordered[name], name.split(" = ")
        over: Sequence[Known] = ()
        if name == BASELINE:
            grown, cost = params, None
        elif _smaller(params, advised):
            grown, cost = fill(advised)[0] | {SIZE: params[SIZE]}, None
        else:
            grown, cost, over = fill(params)
        if first != BASELINE or (baseline is None and grown == params):
            enqueue(grown, name, cost=cost)
        else:
            enqueue(params, BASELINE, spec=baseline)
            name = " = ".join(others)
            if name:
                enqueue(grown, name, cost=cost)
        for other, its_cost in over:
            enqueue(other, f"{name}{TOO_LARGE}", cost=its_cost)


def _smaller(params: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether all that differs is a smaller input."""
    if SIZE not in params or SIZE not in other or params[SIZE] >= other[SIZE]:
        return False
    return {**params, SIZE: None} == {**other, SIZE: None}


class Verdict(NamedTuple):
    """How a piece of advice did in a study; `held` is None where no two trials tell."""

    advice: str
    held: bool | None
    why: str

    def line(self) -> str:
        """In words."""
        word = {True: "held", False: "did not hold", None: "not tested"}[self.held]
        return f"{self.advice}: {word}; {self.why}"


def verdicts(found: Sequence[Record], objective: Objective) -> list[Verdict]:
    """Every advised candidate against what it is compared with, one training run each.

    The advised network should beat the baseline, and its variants should not beat it; of two that
    were not trained to the same epoch the last epoch counts that both were scored after.
    """
    by_name: dict[str, Record] = {}
    for result in found:
        if result.stage != CHEAP or (result.state == "waiting" and not result.history):
            continue
        for name in (result.origin or "").split(" = "):
            # The funnel's own candidates are no advice.
            if name.endswith(TOO_LARGE):
                continue
            if name == BASELINE or name.startswith(ADVISED):
                # An interrupted trial is followed by the one that took it up.
                by_name[name] = result
    told = []
    for name, result in by_name.items():
        if name == BASELINE:
            continue
        other = BASELINE if name == ADVISED else ADVISED
        if other in by_name:
            told.append(_compare(name, result, other, by_name[other], found, objective))
    return told


def _reference_at(suggest: Suggest, size: int) -> DetectorSpec:
    """The reference network at this size, also where the space itself has others."""
    spec = suggest(FixedTrial(reference_params(suggest, {"image_size": size})))
    return replace(spec, image_size=whole_cells(size, spec.neck.levels[-1]))


def _compare(
    name: str,
    result: Record,
    other: str,
    against: Record,
    found: Sequence[Record],
    objective: Objective,
) -> Verdict:
    claim = f"{name} beats the {other}" if name == ADVISED else f"{name} is no better than {other}"
    if result.number == against.number:
        return Verdict(claim, None, f"they are the same candidate (trial {result.trial})")
    whole, others = _full_runs(result, found), _full_runs(against, found)
    if whole and others:
        mean, theirs_mean = (sum(values) / len(values) for values in (whole, others))
        ahead = mean > theirs_mean
        why = (
            f"full runs of trial {result.trial} have {mean:.3f}, of trial {against.trial} "
            f"{theirs_mean:.3f} (means of {len(whole)} and {len(others)})"
        )
        return Verdict(claim, ahead if name == ADVISED else not ahead, why)
    mine, theirs = _scores(result), _scores(against)
    epochs = mine.keys() & theirs.keys()
    if not epochs:
        reasons = [
            f"trial {each.trial}: {each.reason or each.state}"
            for each, scores in ((result, mine), (against, theirs))
            if not scores
        ]
        return Verdict(claim, None, "; ".join(reasons) or "never scored after the same epoch")
    last = max(epochs)
    ahead = mine[last] > theirs[last]
    enough = max(mine[last], theirs[last]) >= LEAST_SHARE * objective.highest
    why = (
        f"trial {result.trial} has {mine[last]:.3f}, trial {against.trial} {theirs[last]:.3f} "
        f"after epoch {last} ({objective.text}, one run each)"
    )
    if not enough:
        return Verdict(claim, None, f"neither has learnt enough to tell: {why}")
    return Verdict(claim, ahead if name == ADVISED else not ahead, why)


def _scores(result: Record) -> Mapping[int, float]:
    return {point.epoch: point.objective for point in result.history if point.objective is not None}


def _full_runs(result: Record, found: Sequence[Record]) -> list[float]:
    return [
        each.objective
        for each in found
        if each.finalist == result.number
        and each.state == "complete"
        and each.objective is not None
    ]
