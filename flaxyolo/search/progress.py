"""What a person sees while a sweep runs: a bar in a terminal, a line per stage elsewhere."""

import logging
import time
from types import TracebackType

import optuna
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from flaxyolo import cli
from flaxyolo.search.results import TrialResult, best_result, count_finished, results
from flaxyolo.search.study import Stage

log = logging.getLogger(__name__)


class Display:
    """Which trial of how many, its stage, the best so far, and the time left."""

    def __init__(self, study: optuna.Study, trials: int):
        self.study = study
        self.trials = trials
        self.finished = count_finished(study)
        self.stage = ""
        self.began = time.perf_counter()
        self.spent: list[float] = []
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=cli.CONSOLE,
            disable=not cli.CONSOLE.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=1, best=self.best(), left="")

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

    def show(self, stage: Stage) -> None:
        """Show what the trial at work is doing."""
        text = f"trial {self.finished + 1} of {self.trials}: {stage.name}"
        if stage.total:
            epoch = min(int(stage.done) + 1, stage.total)
            text += f", epoch {epoch} of {stage.total}"
        if stage.note:
            log.info("%s: %s", text, stage.note)
        self.bar.update(self.task, description=text, completed=stage.done, total=stage.total or 1)
        if stage.name != self.stage and not stage.note and not cli.CONSOLE.is_terminal:
            log.info("%s", text)
        self.stage = stage.name

    def finish(self, result: TrialResult, outcome: str) -> None:
        """Say what became of a trial, and how long the rest may take."""
        self.finished, self.stage = self.finished + 1, ""
        now = time.perf_counter()
        self.spent.append(now - self.began)
        self.began = now
        log.info("trial %d of %d: %s%s", self.finished, self.trials, outcome, self._left(", "))
        self.bar.update(self.task, best=self.best(), left=self._left())

    def best(self) -> str:
        """The best so far, in words."""
        best = best_result(results(self.study))
        if best is None or best.cost is None or best.scores is None:
            return "no score yet"
        score = best.scores["map"] or 0.0
        return f"best: mAP {score:.3f} at {best.cost.latency_ms_p95:.1f} ms (trial {best.number})"

    def _left(self, before: str = "") -> str:
        left = (self.trials - self.finished) * sum(self.spent) / len(self.spent)
        if left < 1:
            return ""
        told = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
        return f"{before}about {told} left"
