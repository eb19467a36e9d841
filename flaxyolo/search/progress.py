"""What a person sees while a sweep runs: a bar in a terminal, a line per change elsewhere."""

import json
import logging
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flaxyolo import cli
from flaxyolo.report import outcome
from flaxyolo.search.expected import seconds_left
from flaxyolo.search.finalists import chosen
from flaxyolo.search.leases import workers_folder
from flaxyolo.search.results import TrialResult
from flaxyolo.search.setting import Sweep
from flaxyolo.search.spending import CHEAP, FINAL

log = logging.getLogger(__name__)


class Display:
    """Which stage of the funnel, what each worker does, the best so far, and the time left."""

    def __init__(self, sweep: Sweep, found: Sequence[TrialResult], workers: int, began: float):
        self.sweep, self.workers = sweep, workers
        self.began = began
        self.seen = {each.number: _mark(each) for each in found}
        self.scored = any(each.history for each in found)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=cli.CONSOLE,
            disable=not cli.CONSOLE.is_terminal,
        )
        self.total = self.bar.add_task("starting", total=1, best="no score yet", left="")
        self.rows = [
            self.bar.add_task(f"worker {index}", total=1, best="", left="")
            for index in range(workers)
        ]

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

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
        if self.bar.disable:
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
        self.bar.update(
            self.total,
            description=text,
            completed=begun + done,
            total=whole,
            best=best_line(found),
            left=self._left(found),
        )
        for index, row in enumerate(self.rows):
            status = self._status(index)
            trial = status.get("trial")
            what = f"worker {index}: " + ("" if trial is None else f"trial {trial}, ")
            what += status.get("name", "starting")
            if status.get("total"):
                what += f", epoch {int(status['done']) + 1} of {status['total']}"
            self.bar.update(
                row, description=what, completed=status.get("done", 0),
                total=status.get("total") or 1,
            )  # fmt: skip

    def _status(self, index: int) -> dict[str, Any]:
        path = workers_folder(self.sweep.folder) / f"status-{index}.json"
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _left(self, found: Sequence[TrialResult], before: str = "") -> str:
        left = seconds_left(found, self.sweep.spending)
        if left is None or left < 1:
            return ""
        return f"{before}about {cli.duration(left / self.workers)} left"


def best_line(found: Sequence[TrialResult]) -> str:
    """The best so far, in words."""
    best = chosen(found)
    if best is None or best.cost is None or best.scores is None:
        return "no score yet"
    score = best.scores["map"] or 0.0
    return f"best: mAP {score:.3f} at {best.cost.latency_ms_p95:.1f} ms (trial {best.number})"


def _mark(result: TrialResult) -> tuple[Any, ...]:
    return result.state, result.paused, result.epochs
