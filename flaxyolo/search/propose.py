"""The next candidate: many are drawn and judged without compiling, the surrogate picks one."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.crew.record import Record
from flaxyolo.data.sources import source_name
from flaxyolo.machine.gate import Gate
from flaxyolo.search.controls import drawn
from flaxyolo.search.earlier import Scored, earlier_studies, in_columns, scored_candidates
from flaxyolo.search.experience import Table, experience
from flaxyolo.search.family import as_wished
from flaxyolo.search.features import features
from flaxyolo.search.funnel import DEFAULTS, Candidates, Choice, propose
from flaxyolo.search.relatives import relatives
from flaxyolo.search.scaling import scaled_control
from flaxyolo.search.scout import Scout
from flaxyolo.search.screen import Drawn, Judged, draw, judge, neighbours
from flaxyolo.search.setting import Sweep
from flaxyolo.search.shortlist import CONFIDENCE, limit_ms, share_used, short_list, upper_ms
from flaxyolo.search.space import reference_params
from flaxyolo.spec import DetectorSpec

log = logging.getLogger(__name__)

POOL = 1000
"""Specs drawn at random for each proposal."""
NEIGHBOURS = 25
"""Specs drawn near each of the best so far."""
BEST = 4
"""Candidates whose neighbours are drawn."""
RELATIVES = 300
"""Specs near the parent and near the best so far, where there is a parent."""
WIDE_EACH = 3
"""With a parent, one proposal of so many comes from the whole space; the others are near what has
weights, since what is far has to learn anew."""
RELATIVE = ", related"
"""In the origin of a proposal that is near what has weights."""
RANDOM = "random"
"""Origin of a proposal of a search that knows nothing."""
COUNTED = 150
COUNTED_EACH = 50
"""Different pieces in the short list of the first proposal, and how many more there are in that of
each following one: the parameters of a new piece take some 30 ms to count."""
FILL = 12
"""Pieces measured for the table of blocks, before the first proposal of a study and every fourth;
each takes some 0.7 s."""
FILL_BATCH = 6
"""Pieces that are measured in turn."""
FILL_EACH = 4
ROUGH = 0.3
"""Spread of predictions from which they are too uncertain to propose by: then pieces are measured
before every proposal."""
POSSIBLE = 0.95
"""With which all are far below the budget, before no pieces are measured: what a table says that
knows little is no reason not to learn more."""


class Proposer:
    """Proposes candidates in the band under the budget, and learns from what was measured.

    What is proposed follows from the study and from what was measured, not from the process or the
    clock. `index` is the worker's, so that workers that ask at the same time draw apart.
    """

    def __init__(self, sweep: Sweep, gate: Gate, index: int = 0):
        self.sweep, self.gate, self.index = sweep, gate, index
        self.scout = Scout(sweep)
        self.learnt: dict[int, Measurement] = {}

    @cached_property
    def table(self) -> LatencyTable:
        """What is known of latencies on this device, and of the engine's."""
        return LatencyTable.open(engine=self.sweep.engine)

    @cached_property
    def earlier(self) -> list[list[Scored]]:
        """Results of other studies on the same data, in the same folder."""
        sweep = self.sweep
        return earlier_studies(
            sweep.folder,
            sweep.fingerprint,
            sweep.objective.text,
            inherited=sweep.initial is not None,
            engine=sweep.engine,
        )

    @cached_property
    def experience(self) -> tuple[Table, ...]:
        """What networks from fresh weights have shown on other data.

        Nothing where these data have been studied before, and nothing with a parent: its children
        score by how much of it they have. Nor is a table of a data set of this one's name counted:
        it may be of the same images, and whoever tries the package on them would be told of them.
        """
        if self.earlier or self.sweep.initial is not None:
            return ()
        own = source_name(self.sweep.source)
        tables = tuple(table for table in experience() if table.data != own)
        log.info(
            "what %d networks have shown on other data (%s) counts until this study knows better",
            sum(len(table.scores) for table in tables),
            ", ".join(table.data for table in tables),
        )
        return tables

    def learn(self, record: Record) -> None:
        """Add a measured network to the table, which the next proposal or `save` saves."""
        cost = record.cost
        if cost is None or record.spec is None or self.learnt.get(record.number) == cost:
            return
        self.learnt[record.number] = cost
        self.table.add_network(record.spec, cost)

    def save(self) -> None:
        """Save what the table has learnt, if there is anything."""
        if self.learnt:
            self.table.save_new()

    def propose(self, found: Sequence[Record]) -> Record | None:
        """The next candidate, with its parameters and what was expected of it.

        None where every detector of the space was tried.
        """
        began = time.perf_counter()
        sweep, budget = self.sweep, self.sweep.budget
        # Those of other workers and of earlier runs of the command too.
        for each in found:
            self.learn(each)
        turn, proposals = len(drawn(found)), sum(each.screened > 0 for each in found)
        seed = (sweep.seed * 1_000_003 + turn) * 1009 + self.index
        blind = sweep.spending.blind
        kin = [] if blind else self._kin(found, seed)
        pool = self._pool(found, seed, kin)
        if not pool:
            return None
        pooled = time.perf_counter()
        judged = judge(pool, self.table, counts=False)
        due = proposals % FILL_EACH == 0 or self._spread(judged) > ROUGH
        if due and self._matters(judged, POSSIBLE):
            self._fill(pool, seed)
            judged = judge(pool, self.table, counts=False)
        if blind:
            return self._at_random(judged, turn, seed)
        near = {each.spec for each in kin}
        close = [each for each in judged if each.spec in near] if turn % WIDE_EACH else []
        related = bool(close) and (budget.latency_ms is None or self._matters(close))
        judged = close if related else judged
        rng = np.random.default_rng(seed)
        costs = [each.cost for each in found if each.cost is not None]
        most = COUNTED + COUNTED_EACH * proposals
        short = short_list(judged, budget, self.table, rng, most, costs)
        choice = self._choose(short, found, turn, seed)
        predicted = time.perf_counter()
        seconds = {"draw": round(pooled - began, 3), "predict": round(predicted - pooled, 3)}
        scores: Mapping[str, float] = {}
        few = self.scout.affords(found) if choice.origin == "surrogate" else 0
        if few > 1:
            short = self._best(short, found, turn, seed, few)
            scored = [self.scout.scores(each.spec) for each in short]
            choice = self._choose(short, found, turn, seed, scored)
            scores = scored[choice.place]
            seconds["score"] = round(time.perf_counter() - predicted, 3)
        picked = short[choice.place]
        self.save()
        error = self.table.error(budget.latency_stat).describe()
        log.info(
            "candidate %d: %s of %d judged, %.2f ms expected; the table's error: %s",
            turn, choice.origin, len(judged), picked.latency.expected(budget.latency_stat), error,
        )  # fmt: skip
        return Record(
            number=turn,
            state="waiting",
            params=picked.params,
            origin=f"{choice.origin}{RELATIVE}" if related else choice.origin,
            predicted_ms=picked.latency.expected(budget.latency_stat),
            predicted_score=choice.predicted,
            table_error=error,
            screened=len(judged),
            zero_cost=dict(scores),
            seconds=seconds,
        )

    def _at_random(self, judged: Sequence[Judged], turn: int, seed: int) -> Record:
        """Any candidate in the band of the limit that it uses most of; without one there, the
        fullest of those that fit, or the least of all."""
        rng, fullest_yet = np.random.default_rng(seed), None
        for place in rng.permutation(len(judged)):
            (each,) = judge([Drawn(judged[place].params, judged[place].spec)], self.table)
            share = share_used(self.sweep.budget, each)
            if DEFAULTS.band[0] <= share <= DEFAULTS.band[1]:
                fullest_yet = share, each
                break
            # What fits counts up to the budget, what does not by how near it is.
            value = share if share <= 1 else -share
            if fullest_yet is None or value > fullest_yet[0]:
                fullest_yet = value, each
        assert fullest_yet is not None, "there are draws"
        picked = fullest_yet[1]
        return Record(
            number=turn,
            state="waiting",
            params=picked.params,
            origin=RANDOM,
            predicted_ms=picked.latency.expected(self.sweep.budget.latency_stat),
            screened=len(judged),
        )

    def scaled(self, found: Sequence[Record]) -> Record | None:
        """The next YOLOv8 scaled into the budget; None where none is expected to fit."""
        return scaled_control(self.sweep, found, self.table, self._fill)

    def _choose(
        self,
        short: Sequence[Judged],
        found: Sequence[Record],
        turn: int,
        seed: int,
        zero_cost: Sequence[Mapping[str, float]] = (),
    ) -> Choice:
        """The funnel's choice among judged candidates, with zero-cost scores where they are."""
        rows = [self._features(judged) for judged in short]
        if zero_cost:
            rows = [{**row, **scores} for row, scores in zip(rows, zero_cost, strict=True)]
        own = scored_candidates(found, self.sweep.spending.short_epochs, unscored=True)
        elsewhere = [table.scored(rows) for table in self.experience]
        values, (mine, *others) = in_columns(rows, [own, *self.earlier, *elsewhere])
        latencies = np.array([upper_ms(self.sweep.budget, each) for each in short])
        return propose(
            Candidates(values, latencies),
            mine,
            # Where none is expected to fit, the nearest is measured all the same.
            budget_ms=max(limit_ms(self.sweep.budget), float(latencies.min())),
            turn=turn,
            rng=np.random.default_rng(seed),
            earlier=others[: len(self.earlier)],
            elsewhere=others[len(self.earlier) :],
        )

    def _best(
        self,
        short: Sequence[Judged],
        found: Sequence[Record],
        turn: int,
        seed: int,
        count: int,
    ) -> list[Judged]:
        """The candidates that the surrogate would choose one after the other."""
        left, best = list(short), []
        while left and len(best) < count:
            best.append(left.pop(self._choose(left, found, turn, seed).place))
        return best

    def _finish(self, spec: DetectorSpec) -> DetectorSpec:
        return replace(spec, num_classes=len(self.sweep.data.class_names))

    def _pool(self, found: Sequence[Record], seed: int, kin: Sequence[Drawn] = ()) -> list[Drawn]:
        """New specs of the space: at random, near the best candidates so far, and the `kin`."""
        suggest, tried = self.sweep.suggest, {each.spec for each in found}
        pool = draw(suggest, POOL, seed, finish=self._finish).drawn
        if self.sweep.spending.blind:
            return [each for each in pool if each.spec not in tried]
        near = random.Random(seed)
        for each in _best_first(found)[:BEST]:
            pool += neighbours(each.params, suggest, near, NEIGHBOURS, finish=self._finish)
        pool += kin
        return list({each.spec: each for each in pool if each.spec not in tried}.values())

    def _kin(self, found: Sequence[Record], seed: int) -> list[Drawn]:
        """Specs near the parent and near the best so far; none without a parent."""
        sweep, parent = self.sweep, self.sweep.initial
        if parent is None or parent.spec is None:
            return []
        own = next((each.params for each in found if each.spec == parent.spec), None)
        known = [own or reference_params(sweep.suggest, as_wished(parent.spec))]
        known += [each.params for each in _best_first(found)[:1] if each.params != known[0]]
        rng, share = random.Random(seed), RELATIVES // (2 * len(known))
        return [
            each
            for params in known
            for near in (relatives, neighbours)
            for each in near(params, sweep.suggest, rng, share, finish=self._finish)
        ]

    def _matters(self, judged: Sequence[Judged], confidence: float = CONFIDENCE) -> bool:
        """Whether any candidate may come near the limit of the latency."""
        budget = self.sweep.budget
        low, stat = DEFAULTS.band[0] * limit_ms(budget), budget.latency_stat
        return any(each.latency.upper(stat, confidence) > low for each in judged)

    def _fill(self, pool: Sequence[Drawn], seed: int) -> None:
        """Measure blocks by which the latencies are least certain."""
        with self.gate.quiet():
            self.table.fill([each.spec for each in pool], FILL, seed, FILL_BATCH)

    def _spread(self, judged: Sequence[Judged]) -> float:
        """That of the logarithms of predictions, in the middle of all."""
        stat = self.sweep.budget.latency_stat
        return float(np.median([each.latency.spread(stat) for each in judged]))

    def _features(self, judged: Judged) -> dict[str, float]:
        return features(
            judged.spec,
            latency_ms=judged.latency.p50_ms,
            params=judged.parameters or 1,
            gflops=judged.gflops or 1e-9,
        )


def _best_first(found: Sequence[Record]) -> list[Record]:
    """Draws with a score, those that went furthest first, the best of them before the others."""
    scored = [each for each in drawn(found) if each.objective is not None]
    return sorted(scored, key=lambda each: (-each.epochs, -(each.objective or 0.0)))
