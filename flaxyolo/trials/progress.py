"""What a person sees while a sweep runs: a bar in a terminal, a line per change elsewhere."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from rich.progress import TextColumn

from flaxyolo.base import cli
from flaxyolo.crew.bars import Bars
from flaxyolo.search.finalists import chosen
from flaxyolo.search.results import TrialResult
from flaxyolo.search.setting import Sweep
from flaxyolo.search.spending import CHEAP, FINAL
from flaxyolo.trials.expected import seconds_left
from flaxyolo.trials.table import outcome

log = logging.getLogger(__name__)


class Display:
    """Which stage of the funnel, what each worker does, the best so far, and the time left."""

    def __init__(
        self,
        sweep: Sweep,
        found: Sequence[TrialResult],
        workers: int,
        began: float,
        deadline: float,
    ):
        self.sweep, self.workers = sweep, workers
        self.began, self.deadline = began, deadline
        self.seen = {each.number: _mark(each) for each in found}
        self.scored = any(each.history for each in found)
        self.bars = Bars(sweep.folder, workers, (TextColumn("{task.fields[best]}"),))

    def update(self, found: Sequence[TrialResult]) -> bool:
        """Show the study as it is now, and log what changed; whether an outcome did."""
        changed = False
        for each in found:
            before, now = self.seen.get(each.number), _mark(each)
            if before == now:
                continue
            self.seen[each.number] = now
            if before is None or before[2] != now[2]:
                self._tell_score(each, before)
            if each.is_over or (each.state == "waiting" and each.paused is not None):
                changed = True
                log.info("trial %d: %s%s", each.number, outcome(each), self._left(found, ", "))
        return changed

    def _tell_score(self, each: TrialResult, before: tuple[Any, ...] | None) -> None:
        if not each.history:
            return
        row = each.history[-1]
        first = ""
        if not self.scored:
            self.scored = True
            first = f"; the first score after {cli.duration(time.time() - self.began)}"
        log.info(
            "trial %d, epoch %d: mAP %.3f, mAP50 %.3f%s",
            each.number, row["epoch"], row["map"] or 0.0, row["map_50"] or 0.0, first,
        )  # fmt: skip

    def draw(self, found: Sequence[TrialResult]) -> None:
        """Bring the bars up to date, on a terminal."""
        if self.bars.hidden:
            return
        spending = self.sweep.spending
        cheap = [each for each in found if each.stage == CHEAP]
        finals = [each for each in found if each.stage == FINAL]
        begun = sum(each.state != "waiting" or each.paused is not None for each in cheap)
        text = f"candidates: {begun} of {max(spending.trials, len(cheap))}"
        done = sum(each.is_over for each in finals)
        if finals:
            text = f"finalists: {done} of {len(finals)} runs"
        whole = max(spending.trials, len(cheap)) + spending.finalists * len(spending.seeds)
        self.bars.draw(
            text, begun + done, whole, "trial {}".format, best=best_line(found),
            left=self._left(found),
        )  # fmt: skip

    def _left(self, found: Sequence[TrialResult], before: str = "") -> str:
        left = seconds_left(found, self.sweep.spending)
        if left is None or left < 1:
            return ""
        left = max(0.0, min(left / self.workers, self.deadline - time.time()))
        return f"{before}about {cli.duration(left)} left"


def best_line(found: Sequence[TrialResult]) -> str:
    """The best so far, in words."""
    best = chosen(found)
    if best is None or best.cost is None or best.scores is None:
        return "no score yet"
    score = best.scores["map"] or 0.0
    return f"best: mAP {score:.3f} at {best.cost.latency_ms_p95:.1f} ms (trial {best.number})"


def _mark(result: TrialResult) -> tuple[Any, ...]:
    return result.state, result.paused, result.epochs
