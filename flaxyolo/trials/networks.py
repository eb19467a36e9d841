"""One network, one line: what a sweep tried, with the runs of each network folded into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flaxyolo.base.words import many
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.record import CHEAP, FINAL, INTERRUPTED, Record
from flaxyolo.scoring.average_precision import KEYS
from flaxyolo.search.controls import Kind, kind
from flaxyolo.search.finalists import Finalist, merit

State = Literal["complete", "pruned", "fail", "running", "waiting"]


@dataclass(frozen=True, eq=False)
class Network:
    """A network, by its short run as a candidate and its full runs as a finalist."""

    candidate: Record
    runs: tuple[Record, ...] = ()
    """Full runs, one for each seed."""
    standing: Finalist | None = None
    """Mean and interval of its complete full runs, where it is among the finalists that count."""
    decided: bool = False
    """Whether the finalists are known, so that one without full runs is none of them."""
    best: Record | None = None
    """Its best complete run, whose weights would be kept."""

    @property
    def number(self) -> int:
        """As in the study that a person opens."""
        return self.candidate.trial

    @property
    def control(self) -> Kind | None:
        """Which control it is; None for what competes."""
        return kind(self.candidate)

    @property
    def shown(self) -> Record:
        """The run that its cost is taken of: the best one, or, where none is inside the budget, the
        last that was scored."""
        return self.best or (self.scored[-1] if self.scored else self.candidate)

    @property
    def state(self) -> State:
        """Complete where it was trained as far as the sweep trains any, pruned where it stopped
        before; what waits for the next command runs on."""
        if self.runs:
            if not all(run.is_over for run in self.runs):
                return "running"
            return "complete" if self.standing is not None else "pruned"
        if self.candidate.state in ("fail", "pruned"):
            return self.candidate.state
        if self.candidate.state == "waiting" and self.candidate.cost is None:
            return "waiting"
        if self.candidate.state != "complete":
            return "running"
        return "pruned" if self.candidate.refuted or self.decided else "complete"

    @property
    def objective(self) -> float | None:
        """What it is ranked by: the mean over its full runs, or the score of the short one."""
        if self.standing is not None:
            return self.standing.mean
        return _mean([run.objective for run in self.scored]) or self.candidate.objective

    @property
    def half_width(self) -> float | None:
        """Of the objective's interval at 95 %; None for one run."""
        return None if self.standing is None else self.standing.half_width

    @property
    def objective_se(self) -> float | None:
        """Standard error of the objective over the validation images, the mean over its runs: they
        share the images, so more seeds do not lessen it."""
        return _mean([run.objective_se for run in self.scored])

    @property
    def epochs(self) -> int:
        """Epochs that it was trained for, at most."""
        return max(run.epochs for run in (self.candidate, *self.runs))

    @property
    def scored(self) -> tuple[Record, ...]:
        """The runs that its scores are the mean of."""
        runs = self.runs if self.standing is None else self.standing.runs
        whole = tuple(run for run in runs if run.scores is not None)
        return whole or ((self.candidate,) if self.candidate.scores is not None else ())

    @property
    def scores(self) -> dict[str, float | None]:
        """COCO's twelve numbers, the mean over its runs; None where no object has that size."""
        found = [vars(run.scores) for run in self.scored]
        if not found:
            return {}
        return {key: _mean([one[key] for one in found]) for key in KEYS}

    @property
    def history(self) -> dict[int, float]:
        """The objective by epoch: of the short run at its rungs, then the mean of the full ones,
        once all of them are there."""
        points = {
            point.epoch: point.objective
            for point in self.candidate.history
            if point.objective is not None
        }
        mean, whole = self.objective, self.runs and all(run.is_over for run in self.runs)
        if whole and mean is not None and self.scored[0] in self.runs:
            points[max(run.epochs for run in self.scored)] = mean
        return points

    @property
    def seconds(self) -> dict[str, float]:
        """Spent on each phase, in all runs; one that is the candidate's own counts once."""
        spent: dict[str, float] = {}
        for run in (self.candidate, *self.runs):
            for phase, seconds in run.seconds.items():
                spent[phase] = spent.get(phase, 0.0) + seconds
        return spent

    @property
    def over_budget(self) -> bool:
        """Whether it oversteps a limit, as its last measurement has it."""
        return self.candidate.over_budget or (
            self.best is None and any(run.over_budget or run.refuted for run in self.runs)
        )

    def note(self) -> str:
        """Why it was tried, and what became of it."""
        told = self._fate()
        return f"{self.candidate.origin}: {told}" if self.candidate.origin else told

    def _fate(self) -> str:
        if self.runs:
            return self._fate_of_runs()
        candidate = self.candidate
        if candidate.state == "waiting" and candidate.undecided:
            return "undecided: over budget on a busy machine only, to be measured again"
        if candidate.state == "waiting" and candidate.paused is not None:
            return f"paused after {many(candidate.paused, 'epoch')}"
        if candidate.state == "fail" and candidate.reason != INTERRUPTED:
            return f"failed: {candidate.reason or 'no reason stored'}"
        if candidate.state == "complete":
            behind = ", none of the finalists" if self.decided else ""
            return f"complete, {many(candidate.epochs, 'epoch')}{behind}"
        return candidate.reason or candidate.state

    def _fate_of_runs(self) -> str:
        done = [run for run in self.runs if run.is_over]
        seeds = f"{len(done)} of {many(len(self.runs), 'seed')}"
        if len(done) == len(self.runs):
            seeds = many(len(done), "seed")
        if done and self.standing is None:
            return f"{seeds}, {done[-1].reason or 'over budget in a fresh process'}"
        return f"{seeds}, {many(self.epochs, 'epoch')}"


def networks(
    records: Sequence[Record], finalists: Sequence[Finalist], budget: Budget
) -> list[Network]:
    """The networks of a sweep, by number; the same detector twice is one."""
    standing = {one.number: one for one in finalists}
    full: dict[int, list[Record]] = {}
    for record in records:
        if record.stage == FINAL and record.finalist is not None and record.duplicate_of is None:
            full.setdefault(record.finalist, []).append(record)
    found = []
    for record in records:
        if record.stage != CHEAP or record.duplicate_of is not None:
            continue
        ranked = standing.get(record.number)
        runs = tuple(full.get(record.number, ()))
        alone = record.state == "complete" and not record.refuted and not runs
        kept = ranked.runs if ranked else [record] * alone
        found.append(
            Network(
                candidate=record,
                runs=runs,
                standing=ranked,
                decided=bool(full),
                best=min(kept, key=lambda run: merit(run, budget), default=None),
            )
        )
    return found


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
