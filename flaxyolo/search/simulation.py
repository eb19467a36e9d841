"""A search whose trainings are looked up in a table of known results.

It is told what to do by the `next_job` that tells a sweep's workers, rungs included, and carries
the jobs out by reading: what a table says of a search is what a sweep would have done.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import FINAL, Record
from flaxyolo.search.earlier import Scored, in_columns, scored_candidates
from flaxyolo.search.funnel import Candidates, propose
from flaxyolo.search.known import Known
from flaxyolo.search.schedule import AddFinals, Close, Done, GoOn, Propose, next_job
from flaxyolo.search.spending import Spending

ROW = "row"
"""The one parameter of a candidate: its line of the table."""


def named(features: Float[np.ndarray, "n f"]) -> list[dict[str, float]]:
    """Rows of a table as features of candidates."""
    names = [f"column {place:03d}" for place in range(features.shape[1])]
    return [dict(zip(names, row, strict=True)) for row in features.tolist()]


class Simulation:
    """The records of a search over the networks of a table inside a budget.

    What studies `elsewhere`, on other data, scored counts as in a sweep; their features are columns
    of the table's.
    """

    def __init__(
        self,
        known: Known,
        budget_ms: float,
        *,
        runs: int,
        finalists: int,
        rng: np.random.Generator,
        elsewhere: Sequence[Sequence[Scored]] = (),
    ):
        self.known, self.budget_ms, self.rng = known, budget_ms, rng
        self.elsewhere = elsewhere
        short = known.rungs[-1]
        self.spending = Spending(
            trials=runs,
            short_epochs=short,
            # Any other than the short one, where the table has a score of its own for a full run.
            epochs=short + (known.seeds is None),
            finalists=finalists,
            seeds=tuple(range(1 if known.seeds is None else known.seeds.shape[1])),
        )
        self.rest = np.flatnonzero(known.latency_ms <= budget_ms)
        self.features = named(known.features)
        self.records: list[Record] = []

    def run(self) -> Int[np.ndarray, " k"]:
        """Do one job after the other; the lines that were trained fully, in their order."""
        while True:
            match next_job(self.records, self.spending, exhausted=not len(self.rest)):
                case Propose():
                    self.propose()
                case GoOn(number, until):
                    self.train(number, until)
                case AddFinals(runs):
                    for number, seed in runs:
                        self.add_final(number, seed)
                case Close(numbers):
                    for number in numbers:
                        self.records[number] = replace(self.records[number], state="pruned")
                case Done():
                    finals = [record for record in self.records if record.stage == FINAL]
                    return np.array([self.row(record) for record in finals], int)
                case job:
                    raise AssertionError(f"{job}: there is one worker, which never waits")

    def propose(self) -> None:
        """Add the funnel's choice among the lines that are left."""
        own = scored_candidates(self.records, self.spending.short_epochs, unscored=True)
        rows = [self.features[row] for row in self.rest]
        values, (mine, *others) = in_columns(rows, [own, *self.elsewhere])
        choice = propose(
            Candidates(values, self.known.latency_ms[self.rest]),
            mine,
            budget_ms=self.budget_ms,
            turn=len(self.records),
            rng=self.rng,
            elsewhere=others,
        )
        row = int(self.rest[choice.place])
        self.rest = np.delete(self.rest, choice.place)
        self.records.append(
            Record(
                number=len(self.records),
                state="waiting",
                params={ROW: row},
                origin=choice.origin,
                features=self.features[row],
            )
        )

    def train(self, number: int, until: int) -> None:
        """Read the scores up to an epoch; a candidate before its last rung waits there."""
        record = self.records[number]
        row = self.row(record)
        if record.stage == FINAL:
            point = CurvePoint(until, self.shown(row, record.seed or 0))
            self.records[number] = replace(record, state="complete", history=(point,))
            return
        history = tuple(
            self.point(row, place) for place, epoch in enumerate(self.known.rungs) if epoch <= until
        )
        if self.known.first_boxes is not None and self.known.rungs[0] > 1:
            box = {"box": float(self.known.first_boxes[row])}
            history = (CurvePoint(1, loss=box), *history)
        whole = until == self.spending.short_epochs
        self.records[number] = replace(
            record,
            state="complete" if whole else "waiting",
            paused=None if whole else until,
            history=history,
        )

    def shown(self, row: int, seed: int) -> float:
        """The score of a full run."""
        seeds = self.known.seeds
        return float(self.known.full[row] if seeds is None else seeds[row, seed])

    def point(self, row: int, place: int) -> CurvePoint:
        """What a candidate shows at a rung."""
        known = self.known
        return CurvePoint(
            known.rungs[place],
            float(known.curves[row, place]),
            loss={} if known.boxes is None else {"box": float(known.boxes[row, place])},
            objective_se=None if known.errors is None else float(known.errors[row, place]),
        )

    def chosen(self) -> int:
        """The line of the network with the best mean over its full runs, which a sweep ships."""
        shown: dict[int, list[float]] = {}
        for record in self.records:
            if record.stage == FINAL:
                shown.setdefault(self.row(record), []).append(record.history[-1].objective or 0.0)
        return max(shown, key=lambda row: float(np.mean(shown[row])))

    def trained_epochs(self) -> int:
        """Epochs that were trained in all; a full run goes on from its candidate's, if it can."""
        total = 0
        for record in self.records:
            going_on = record.stage == FINAL and self.spending.goes_on and not record.seed
            before = self.records[record.finalist or 0].epochs if going_on else 0
            total += record.epochs - before
        return total

    def add_final(self, number: int, seed: int) -> None:
        """Add the full run of a finalist."""
        candidate = self.records[number]
        self.records.append(
            Record(
                number=len(self.records),
                state="waiting",
                params=candidate.params,
                stage=FINAL,
                finalist=number,
                seed=seed,
            )
        )

    def row(self, record: Record) -> int:
        """The line of the table that a record is about."""
        return record.params[ROW]
