"""What a trial stores of itself as it goes."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optuna

from flaxyolo.base.errors import InputError
from flaxyolo.config import TrainConfig
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.optuna_inside import latest
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.scoring.average_precision import Scores
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.loop import Epoch, StepReport, start, train
from flaxyolo.training.loss import LossTerms
from flaxyolo.training.plan import plan_run
from flaxyolo.training.state import has_state, load_state
from flaxyolo.weights.transfer import Source, weights_from

log = logging.getLogger(__name__)

MEASURED_IMAGES = 16
"""Validation images that a latency is measured on, in turn."""


class OutOfTimeError(Exception):
    """The time of a sweep is up; the trial at work goes on with the next run."""


class PausedError(Exception):
    """The trial has reached its rung, and waits there for the others."""

    def __init__(self, epoch: int):
        super().__init__(f"paused after epoch {epoch}")
        self.epoch = epoch


class Stage(NamedTuple):
    """What a trial is doing; while it trains, after `done` of `total` epochs."""

    name: str
    done: float = 0
    total: int = 0
    note: str = ""


class Surroundings(NamedTuple):
    """What a trial minds while it runs; the defaults are those of a process alone."""

    report: Callable[[Stage], None] = lambda stage: None
    has_time: Callable[[float], bool] = lambda seconds: True
    """Whether so many seconds more are left to it."""
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered to measure: nobody else on this device trains meanwhile."""
    busy: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered to train."""
    step_aside: Callable[[], object] = lambda: None
    """Called between steps, waits while another measures."""
    saved: Callable[[], None] = lambda: None
    """Called when an epoch is in its checkpoint."""


ALONE = Surroundings()


def epochs(
    spec: DetectorSpec,
    pixels: Pixels,
    data: Dataset,
    config: TrainConfig,
    run_dir: Path,
    around: Surroundings,
    source: Source | None = None,
    streamed: bool = False,
) -> Iterator[Epoch]:
    """`train`; after an interruption the epoch saved last comes first, as it may lack its score."""

    def on_step(step: StepReport) -> None:
        around.report(Stage("training", step.epoch - 1 + (step.step - 1) / step.steps,
                            config.epochs))  # fmt: skip
        around.step_aside()

    path, initial = run_dir / "state", None
    if has_state(path):
        state = start(plan_run(spec, config, pixels))
        state, facts = load_state(path, jax.eval_shape(lambda: state))
        detector = TrainedDetector(spec, state.ema, data.class_names)
        yield Epoch(facts["epoch"], detector, LossTerms(**facts["loss"]), 0.0)
        if facts["epoch"] >= config.epochs:
            return
    elif source is not None:
        try:
            initial = weights_from(source, spec, config.seed)
        except InputError as error:
            log.warning("%s; this trial begins with fresh weights", error)
    yield from train(
        spec,
        pixels,
        data.class_names,
        config,
        run_dir=run_dir,
        report=on_step,
        initial=initial,
        streamed=streamed,
    )


class Record:
    """What a trial stores of itself as it goes; one that goes on begins with what was known."""

    def __init__(self, trial: optuna.Trial):
        self.trial = trial
        self.seconds: dict[str, float] = dict(trial.user_attrs.get("seconds", {}))
        self.history: list[dict[str, Any]] = list(trial.user_attrs.get("history", []))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to the stage's seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = self.seconds.get(stage, 0.0) + time.perf_counter() - began
            self.seconds[stage] = round(spent, 3)
            self.trial.set_user_attr("seconds", self.seconds)

    def timed_each(self, stage: str, items: Iterator[Epoch]) -> Iterator[Epoch]:
        """The items, with the time that each takes to come added to the stage."""
        while True:
            with self.timed(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def epochs(self) -> set[int]:
        """Epochs that were scored."""
        return {row["epoch"] for row in self.history}

    def cost(self) -> Measurement | None:
        """The cost, if it was measured before."""
        cost = self.trial.user_attrs.get("cost")
        return None if cost is None else Measurement.from_dict(cost)

    def keep_cost(self, cost: Measurement) -> None:
        """Store the cost."""
        self.trial.set_user_attr("cost", cost.to_dict())

    def constrain(self, excess: dict[str, float]) -> None:
        """Tell Optuna how far inside (negative) or outside each limit the trial is."""
        for name, share in excess.items():
            self.trial.set_constraint(name, share)

    def keep_scores(self, epoch: Epoch, scores: Scores, value: float) -> None:
        """Store an epoch's scores and losses; `value` is the objective's."""
        loss = {name: float(value) for name, value in epoch.loss._asdict().items()}
        row = {"epoch": epoch.number, "objective": value, "loss": loss}
        row |= {"map": scores.map, "map_50": scores.map_50, "epoch_seconds": epoch.seconds}
        self.history = [old for old in self.history if old["epoch"] != epoch.number] + [row]
        self.trial.set_user_attr("history", self.history)
        self.trial.set_user_attr("scores", scores.to_dict())
        if epoch.number not in _reported(self.trial):
            self.trial.report(value, epoch.number)


def _reported(trial: optuna.Trial) -> dict[int, float]:
    return latest(trial.study, trial).intermediate_values
