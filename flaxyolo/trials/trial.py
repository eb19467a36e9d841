"""One trial: a detector is drawn, measured, and trained as far as it is worth it."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optuna

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.gpu import on_target
from flaxyolo.cost.measure import Measurement, count_gflops, count_params
from flaxyolo.cost.step_memory import (
    cheap_excess,
    cheap_overrun,
    keep_memory,
    measure_for,
    overrun,
    with_training_memory,
)
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.data.stream import is_streamed, open_pixels
from flaxyolo.evaluate import detection_rows, run_detector
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.scoring.average_precision import Scores, coco_scores, ground_truth
from flaxyolo.scoring.diagnosis import summary
from flaxyolo.search.features import features
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import is_finished
from flaxyolo.search.setting import Sweep
from flaxyolo.search.spending import FINAL
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.training.loop import Epoch, StepReport, start, train
from flaxyolo.training.loss import LossTerms
from flaxyolo.training.plan import plan_run
from flaxyolo.weights.checkpoint import has_state, load_state, save_detector
from flaxyolo.weights.transfer import Source, weights_from

log = logging.getLogger(__name__)

ERRORS_FILE = "errors.json"
"""In a finished run's folder: kinds of its errors, confusion and calibration."""
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


def run_trial(
    trial: optuna.Trial, *, sweep: Sweep, until: int, around: Surroundings = ALONE
) -> float:
    """Draw a detector, measure it, and train it to an epoch if it fits. Returns its objective.

    Everything learnt is stored in the trial, and a trial that was paused or interrupted goes on
    from there; the trained detector is saved under `sweep.runs`. TrialPruned where it ends early,
    PausedError where `until` is not the end of its schedule, OutOfTimeError where the next score
    would come too late.
    """
    record, budget, data = Record(trial, sweep.objective), sweep.budget, sweep.data
    final = trial.user_attrs.get("stage") == FINAL
    config = sweep.full(trial.user_attrs["seed"]) if final else sweep.short
    spec = replace(sweep.suggest(trial), num_classes=len(data.class_names))
    trial.set_user_attr("spec", to_dict(spec))
    prune_duplicate(trial)
    counted = count_params(spec), count_gflops(spec)
    excess = cheap_excess(budget, *counted)
    if any(share > 0 for share in excess.values()):
        record.constrain(excess)
        raise optuna.TrialPruned(f"{cheap_overrun(budget, *counted)}; not measured")

    pixels, val = (
        open_pixels(data, split, spec.image_size, keep=sweep.keep) for split in ("train", "val")
    )
    streamed = is_streamed(pixels, sweep.keep)
    shown = val.images[:MEASURED_IMAGES]
    if (cost := record.cost()) is None:
        around.report(Stage("measuring"))
        with around.quiet(), record.timed("measure"):
            cost = measure_for(budget, spec, shown, None)
    record.keep_cost(cost, spec)
    # Memory on another GPU is known once its program is compiled.
    here = budget if sweep.target is None else replace(budget, vram_mib=None)
    if not here.allows(cost):
        record.constrain(here.excess(cost))
        raise optuna.TrialPruned(overrun(here, cost))

    if not around.has_time(0.0):
        raise OutOfTimeError
    around.report(Stage("compiling"))
    with around.busy():
        if cost.train_vram_mib is None:
            with record.timed("compile"):
                if sweep.target is None:
                    cost = with_training_memory(cost, spec, config, pixels, streamed)
                else:
                    cost = on_target(cost, spec, config, sweep.target)
            record.keep_cost(cost, spec)
            if not budget.allows(cost):
                record.constrain(budget.excess(cost))
                raise optuna.TrialPruned(overrun(budget, cost))
        run_dir = sweep.runs / run_name(spec, config, data, sweep.initial)
        trial.set_user_attr("run", run_dir.name)
        scored = {config.epochs} if final else set(sweep.spending.rungs)
        detector = scores = None
        truth = ground_truth(data.val, data.class_names, data.category_ids)
        rows = np.zeros((0, 7))
        for epoch in record.timed_each(
            "train", epochs(spec, pixels, data, config, run_dir, around, sweep.initial, streamed)
        ):
            around.saved()
            detector = epoch.detector
            if epoch.number not in scored:
                following = min(number for number in scored if number > epoch.number)
                if not around.has_time((following - epoch.number) * epoch.seconds):
                    raise OutOfTimeError
                continue
            if epoch.number not in record.epochs() or epoch.number == config.epochs:
                around.report(Stage("evaluating", epoch.number - 1, config.epochs))
                with record.timed("evaluate"):
                    found = run_detector(detector, data.val, val)
                    rows = detection_rows(found, data.val, data.category_ids)
                    scores = coco_scores(truth, rows)
                record.keep_scores(epoch, scores)
                note = f"mAP {scores.map or 0:.3f}, mAP50 {scores.map_50 or 0:.3f}"
                around.report(Stage("scored", epoch.number, config.epochs, note))
            if epoch.number == until and until < config.epochs:
                raise PausedError(until)
    assert detector is not None, "the last epoch is scored"
    assert scores is not None

    # Trained weights find more boxes than fresh ones, so the latency that counts is theirs.
    around.report(Stage("measuring"))
    with around.quiet(), record.timed("measure"):
        trained = measure_for(budget, spec, shown, detector.weights, trained=True)
    cost = keep_memory(trained, cost)
    record.keep_cost(cost, spec)
    record.constrain(budget.excess(cost))
    if not budget.allows(cost):
        raise optuna.TrialPruned(f"{overrun(budget, cost)} once trained")
    facts = {"trial": trial.number, "scores": scores.to_dict(), "cost": cost.to_dict()}
    save_detector(run_dir / "detector", detector, facts)
    replace_file(run_dir / ERRORS_FILE, json.dumps(summary(truth, rows), indent=1) + "\n")
    return sweep.objective.value(scores)


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


def run_name(
    spec: DetectorSpec, config: TrainConfig, data: Dataset, source: Source | None = None
) -> str:
    """Name of a run's folder: the same detector, training, data and first weights have the same."""
    facts = [to_dict(spec), to_dict(config), data.fingerprint]
    if source is not None:
        facts.append(source.fingerprint)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def prune_duplicate(trial: optuna.Trial) -> None:
    """Prune a trial whose detector was tried before; of two that run at once the later."""
    mine = trial.user_attrs
    for twin in trial.study.get_trials(deepcopy=False):
        if (
            twin.number >= trial.number
            # Two workers may have added the same run of a finalist.
            or any(twin.user_attrs.get(key) != mine.get(key) for key in ("stage", "seed"))
            or "duplicate_of" in twin.user_attrs
            or twin.user_attrs.get("spec") != mine["spec"]
        ):
            continue
        trial.set_user_attr("duplicate_of", twin.number)
        if is_finished(twin):
            for key in ("cost", "scores", "history"):
                if key in twin.user_attrs:
                    trial.set_user_attr(key, twin.user_attrs[key])
            # What a sampler learns from a trial: its constraints, and its last value.
            for name, excess in twin.constraints.items():
                trial.set_constraint(name, excess)
            for epoch, value in twin.intermediate_values.items():
                trial.report(value, epoch)
        raise optuna.TrialPruned(f"the same detector as trial {twin.number}")


class Record:
    """What a trial stores of itself as it goes; one that goes on begins with what was known."""

    def __init__(self, trial: optuna.Trial, objective: Objective):
        self.trial, self.objective = trial, objective
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

    def keep_cost(self, cost: Measurement, spec: DetectorSpec) -> None:
        """Store the cost, and what the surrogate sees of the detector."""
        self.trial.set_user_attr("cost", cost.to_dict())
        seen = features(
            spec, latency_ms=cost.latency_ms_p50, params=cost.params, gflops=cost.gflops
        )
        self.trial.set_user_attr("features", seen)

    def constrain(self, excess: dict[str, float]) -> None:
        """Tell Optuna how far inside (negative) or outside each limit the trial is."""
        for name, share in excess.items():
            self.trial.set_constraint(name, share)

    def keep_scores(self, epoch: Epoch, scores: Scores) -> None:
        """Store an epoch's scores and losses."""
        value = self.objective.value(scores)
        loss = {name: float(value) for name, value in epoch.loss._asdict().items()}
        row = {"epoch": epoch.number, "objective": value, "loss": loss}
        row |= {"map": scores.map, "map_50": scores.map_50, "epoch_seconds": epoch.seconds}
        self.history = [old for old in self.history if old["epoch"] != epoch.number] + [row]
        self.trial.set_user_attr("history", self.history)
        self.trial.set_user_attr("scores", scores.to_dict())
        if epoch.number not in _reported(self.trial):
            self.trial.report(value, epoch.number)


def _reported(trial: optuna.Trial) -> dict[int, float]:
    return trial.storage.get_trial(trial._trial_id).intermediate_values
