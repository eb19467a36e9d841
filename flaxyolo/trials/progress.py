"""What a person sees while a sweep runs: a bar in a terminal, a line per change elsewhere."""

import logging
import time
from typing import Any

from rich.progress import TextColumn

from flaxyolo.base import cli
from flaxyolo.base.words import many
from flaxyolo.crew.bars import Bars
from flaxyolo.crew.record import CHEAP, FINAL, Record
from flaxyolo.search.controls import drawn
from flaxyolo.search.setting import Sweep
from flaxyolo.trials.expected import seconds_left
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import outcome

log = logging.getLogger(__name__)


class Display:
    """Which stage of the funnel, what each worker does, the best so far, and the time left."""

    def __init__(
        self,
        sweep: Sweep,
        standings: Standings,
        workers: int,
        began: float,
        deadline: float,
    ):
        self.sweep, self.workers = sweep, workers
        self.began, self.deadline = began, deadline
        self.standings = standings
        self.seen = {record.number: _mark(record) for record in standings.records}
        self.scored = any(record.history for record in standings.records)
        self.bars = Bars(sweep.folder, workers, (TextColumn("{task.fields[best]}"),))

    def update(self, standings: Standings) -> bool:
        """Show the study as it is now, and log what changed; whether an outcome did."""
        self.standings = standings
        changed = False
        for record in standings.records:
            before, now = self.seen.get(record.number), _mark(record)
            if before == now:
                continue
            self.seen[record.number] = now
            if before is None or before[2] != now[2]:
                self._tell_score(record)
            if record.is_over or (record.state == "waiting" and record.paused is not None):
                changed = True
                told = outcome(record, self.sweep.budget)
                log.info("%s: %s%s", named(record), told, self._left(", "))
        return changed

    def _tell_score(self, record: Record) -> None:
        if not record.history:
            return
        point = record.history[-1]
        first = ""
        if not self.scored:
            self.scored = True
            first = f"; the first score after {cli.duration(time.time() - self.began)}"
        scores = f"mAP {point.map or 0.0:.3f}, mAP50 {point.map_50 or 0.0:.3f}"
        log.info("%s, epoch %d: %s%s", named(record), point.epoch, scores, first)

    def draw(self) -> None:
        """Bring the bars up to date, on a terminal."""
        if self.bars.hidden:
            return
        found, spending = self.standings.records, self.sweep.spending
        cheap = drawn(found)
        finals = [each for each in found if each.stage == FINAL]
        begun = sum(each.state != "waiting" or each.paused is not None for each in cheap)
        text = f"candidates: {begun} of {max(spending.trials, len(cheap))}"
        done = sum(each.is_over for each in finals)
        if finals:
            text = f"finalists: {done} of {many(len(finals), 'run')}"
        whole = max(spending.trials, len(cheap)) + max(spending.entrants, len(finals))
        self.bars.draw(
            text, begun + done, whole, self._named, best=best_line(self.standings),
            left=self._left(),
        )  # fmt: skip

    def _named(self, number: int) -> str:
        records = self.standings.records
        return named(records[number]) if number < len(records) else "the next trial"

    def _left(self, before: str = "") -> str:
        left = seconds_left(self.standings.records, self.sweep.spending)
        if left is None or left < 1:
            return ""
        left = max(0.0, min(left / self.workers, self.deadline - time.time()))
        return f"{before}about {cli.duration(left)} left"


def best_line(standings: Standings) -> str:
    """The best so far, in words."""
    best = standings.best
    if best is None or best.cost is None or best.scores is None:
        return "no score yet"
    if standings.nothing_learnt:
        return "nothing has learnt yet"
    score, latency = best.scores.map or 0.0, standings.latency(best)
    return f"best: mAP {score:.3f} at {latency:.1f} ms (trial {best.trial})"


def named(record: Record) -> str:
    """A run as a person knows it: its trial, and of a finalist the seed."""
    seed = "" if record.stage == CHEAP else f", seed {record.seed}"
    return f"trial {record.trial}{seed}"


def _mark(result: Record) -> tuple[Any, ...]:
    return result.state, result.paused, result.epochs
