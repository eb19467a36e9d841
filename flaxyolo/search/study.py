"""One trial, the loop around it, and the results as the study's storage holds them."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optuna
from optuna.trial import FrozenTrial, TrialState

from flaxyolo.average_precision import Scores
from flaxyolo.checkpoint import has_state, load_state, save_detector
from flaxyolo.config import TrainConfig
from flaxyolo.cost import Budget, Measurement
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.data.stream import Keep, is_streamed, open_pixels
from flaxyolo.errors import InputError
from flaxyolo.evaluate import evaluate
from flaxyolo.loss import LossTerms
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.plan import plan_run
from flaxyolo.search.limits import measure_for, overrun, with_training_memory
from flaxyolo.search.results import count_finished, is_finished
from flaxyolo.search.space import Suggest
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.training import DivergedError, Epoch, StepReport, start, train
from flaxyolo.transfer import Source, weights_from

log = logging.getLogger(__name__)

MEASURED_IMAGES = 16
"""Validation images that a latency is measured on, in turn."""


OUT_OF_TIME = "not finished in time; the same command goes on"


class OutOfTimeError(Exception):
    """The time of a sweep is up; the trial at work goes on with the next run."""


class Stage(NamedTuple):
    """What a trial is doing; while it trains, after `done` of `total` epochs."""

    name: str
    done: float = 0
    total: int = 0
    note: str = ""


def run_trial(
    trial: optuna.Trial,
    *,
    suggest: Suggest,
    budget: Budget,
    data: Dataset,
    config: TrainConfig,
    folder: Path,
    report: Callable[[Stage], None],
    keep: Keep = "auto",
    source: Source | None = None,
    deadline: float = math.inf,
) -> float:
    """Draw a detector, measure it, and train it only if it fits the budget. Returns its objective.

    Everything learnt is stored in the trial; the trained detector is saved under `folder`. With a
    `source` its training begins with what fits of it. OutOfTimeError where the next score would
    come after the `deadline` (of `time.monotonic`); what is trained by then is kept.
    """
    record = Record(trial)
    spec = replace(suggest(trial), num_classes=len(data.class_names))
    trial.set_user_attr("spec", to_dict(spec))
    prune_duplicate(trial)

    pixels, val = (
        open_pixels(data, split, spec.image_size, keep=keep) for split in ("train", "val")
    )
    streamed = is_streamed(pixels, keep)
    shown = val.images[:MEASURED_IMAGES]
    report(Stage("measuring"))
    if (cost := record.cost()) is None:
        with record.timed("measure"):
            cost = measure_for(budget, spec, shown, None)
    record.keep_cost(cost)
    if not budget.allows(cost):
        record.constrain(budget, cost)
        raise optuna.TrialPruned(overrun(budget, cost))

    if time.monotonic() > deadline:
        raise OutOfTimeError
    report(Stage("compiling"))
    if cost.train_vram_mib is None:
        with record.timed("compile"):
            cost = with_training_memory(cost, spec, config, pixels, streamed)
        record.keep_cost(cost)

    run_dir = folder / run_name(spec, config, data, source)
    trial.set_user_attr("run", run_dir.name)
    detector = scores = None
    record.replay()
    for epoch in record.timed_each(
        "train", epochs(spec, pixels, data.class_names, config, run_dir, report, source, streamed)
    ):
        if epoch.number not in rungs(config.epochs):
            following = min(rung for rung in rungs(config.epochs) if rung > epoch.number)
            if time.monotonic() + (following - epoch.number) * epoch.seconds > deadline:
                raise OutOfTimeError
            continue
        detector = epoch.detector
        report(Stage("evaluating", epoch.number - 1, config.epochs))
        with record.timed("evaluate"):
            scores = evaluate(detector, data.val, val, data.class_names, data.category_ids)
        record.keep_scores(epoch, scores)
        report(Stage("scored", epoch.number - 1, config.epochs, scored(scores)))
        if epoch.number < config.epochs and trial.should_prune():
            record.constrain(budget, cost)
            raise optuna.TrialPruned(f"behind after {epoch.number} of {config.epochs} epochs")
    assert detector is not None, "the last epoch is a rung"
    assert scores is not None

    # Trained weights find more boxes than fresh ones, so the latency that counts is theirs.
    report(Stage("measuring"))
    with record.timed("measure"):
        final = measure_for(budget, spec, shown, detector.weights, trained=True)
    cost = replace(
        final, train_vram_mib=cost.train_vram_mib, train_batch_size=cost.train_batch_size
    )
    record.keep_cost(cost)
    record.constrain(budget, cost)
    if not budget.allows(cost):
        raise optuna.TrialPruned(f"{overrun(budget, cost)} once trained")
    facts = {"trial": trial.number, "scores": scores.to_dict(), "cost": cost.to_dict()}
    save_detector(run_dir / "detector", detector, facts)
    return scores.objective()


def scored(scores: Scores) -> str:
    """A score in a few words."""
    return f"mAP {scores.map or 0:.3f}, mAP50 {scores.map_50 or 0:.3f}"


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs after which a trial is scored: where halving decides, and the last."""
    first = first_rung(epochs)
    return tuple(sorted({number for number in (first, 2 * first) if number < epochs} | {epochs}))


def first_rung(epochs: int) -> int:
    """Epochs before the first decision: earlier, all scores are near zero and say nothing."""
    return max(1, round(0.3 * epochs))


def epochs(
    spec: DetectorSpec,
    pixels: Pixels,
    class_names: tuple[str, ...],
    config: TrainConfig,
    run_dir: Path,
    report: Callable[[Stage], None],
    source: Source | None = None,
    streamed: bool = False,
) -> Iterator[Epoch]:
    """`train`; after an interruption the epoch saved last comes first, as it may lack its score."""

    def on_step(step: StepReport) -> None:
        report(Stage("training", step.epoch - 1 + (step.step - 1) / step.steps, config.epochs))

    path, initial = run_dir / "state", None
    if has_state(path):
        state = start(plan_run(spec, config, pixels))
        state, facts = load_state(path, jax.eval_shape(lambda: state))
        detector = TrainedDetector(spec, state.ema, class_names)
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
        class_names,
        config,
        run_dir=run_dir,
        report=on_step,
        initial=initial,
        streamed=streamed,
    )


def run_name(
    spec: DetectorSpec, config: TrainConfig, data: Dataset, source: Source | None = None
) -> str:
    """Name of a run's folder: the same detector, training, data and first weights have the same."""
    facts = [to_dict(spec), to_dict(config), data.fingerprint]
    if source is not None:
        facts.append(source.fingerprint)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def prune_duplicate(trial: optuna.Trial) -> None:
    """Prune a trial whose detector was tried before, with what is known of it."""
    for twin in trial.study.get_trials(deepcopy=False):
        if (
            twin.number == trial.number
            or not is_finished(twin)
            or "duplicate_of" in twin.user_attrs
            or twin.user_attrs.get("spec") != trial.user_attrs["spec"]
        ):
            continue
        trial.set_user_attr("duplicate_of", twin.number)
        for key in ("cost", "scores", "history"):
            if key in twin.user_attrs:
                trial.set_user_attr(key, twin.user_attrs[key])
        # What the sampler learns from a trial: its constraints, and its last value.
        for name, excess in twin.constraints.items():
            trial.set_constraint(name, excess)
        for epoch, value in twin.intermediate_values.items():
            trial.report(value, epoch)
        raise optuna.TrialPruned(f"the same detector as trial {twin.number}")


class Record:
    """What a trial stores of itself as it goes; a resumed trial begins with what was known."""

    def __init__(self, trial: optuna.Trial):
        self.trial = trial
        self.seconds: dict[str, float] = dict(trial.user_attrs.get("seconds", {}))
        self.history: list[dict[str, Any]] = list(trial.user_attrs.get("history", []))
        self.reported: set[int] = set()

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

    def cost(self) -> Measurement | None:
        """The cost, if an interrupted trial knew it."""
        cost = self.trial.user_attrs.get("cost")
        return None if cost is None else Measurement.from_dict(cost)

    def keep_cost(self, cost: Measurement) -> None:
        """Store the cost."""
        self.trial.set_user_attr("cost", cost.to_dict())

    def constrain(self, budget: Budget, cost: Measurement) -> None:
        """Tell Optuna how far inside (negative) or outside each limit the trial is; once only."""
        for name, excess in budget.excess(cost).items():
            self.trial.set_constraint(name, excess)

    def replay(self) -> None:
        """Tell the pruner again what an interrupted trial had reported."""
        for row in self.history:
            self.trial.report(row["objective"], row["epoch"])
            self.reported.add(row["epoch"])
            self.trial.should_prune()

    def keep_scores(self, epoch: Epoch, scores: Scores) -> None:
        """Store an epoch's scores and losses, and tell the pruner."""
        loss = {name: float(value) for name, value in epoch.loss._asdict().items()}
        row = {"epoch": epoch.number, "objective": scores.objective(), "loss": loss}
        row |= {"map": scores.map, "map_50": scores.map_50}
        self.history = [old for old in self.history if old["epoch"] != epoch.number] + [row]
        self.trial.set_user_attr("history", self.history)
        self.trial.set_user_attr("scores", scores.to_dict())
        if (
            epoch.number
            not in self.trial.storage.get_trial(self.trial._trial_id).intermediate_values
        ):
            self.trial.report(scores.objective(), epoch.number)


def run_study(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    *,
    trials: int,
    worker: str,
    after: Callable[[FrozenTrial], None],
    deadline: float = math.inf,
) -> None:
    """Run trials until `trials` have finished in all, earlier ones included; `worker` runs them.

    A trial without memory or with a loss that is not finite fails with its reason; any other
    error, and OutOfTimeError, ends the study, and leaves the trial to be taken up again. No trial
    begins after the `deadline` (of `time.monotonic`).
    """
    while count_finished(study) < trials:
        if time.monotonic() > deadline:
            raise OutOfTimeError
        trial = study.ask()
        trial.set_user_attr("worker", worker)
        try:
            value = objective(trial)
        except OutOfTimeError:
            trial.set_user_attr("reason", OUT_OF_TIME)
            raise
        except optuna.TrialPruned as pruned:
            after(_finish(study, trial, TrialState.PRUNED, str(pruned)))
        except DivergedError as error:
            after(_finish(study, trial, TrialState.FAIL, f"diverged: {error}"))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            line = str(error).splitlines()[0]
            after(_finish(study, trial, TrialState.FAIL, f"out of memory: {line:.200}"))
        else:
            after(study.tell(trial, value))


def _finish(
    study: optuna.Study, trial: optuna.Trial, state: TrialState, reason: str
) -> FrozenTrial:
    trial.set_user_attr("reason", reason)
    # A pruned trial's value is Optuna's own affair: its last report, if there is one.
    return study.tell(trial, state=state)
