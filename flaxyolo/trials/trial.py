"""One trial: a detector is drawn, measured, and trained as far as it is worth it."""

import hashlib
import json
import logging
from dataclasses import replace

import optuna

from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.again import measure_for
from flaxyolo.cost.budget import cheap_excess, cheap_overrun, overrun
from flaxyolo.cost.gpu import on_target
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import keep_memory, with_training_memory
from flaxyolo.crew.record import (
    ALONE,
    MEASURED_IMAGES,
    OutOfTimeError,
    PausedError,
    Record,
    Stage,
    Surroundings,
    epochs,
)
from flaxyolo.data.sources import Dataset
from flaxyolo.data.stream import is_streamed, open_pixels
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.detect import run_detector
from flaxyolo.scoring.diagnosis import summary
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.search.features import features
from flaxyolo.search.results import is_finished
from flaxyolo.search.setting import Sweep
from flaxyolo.search.spending import FINAL
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source

log = logging.getLogger(__name__)

ERRORS_FILE = "errors.json"
"""In a finished run's folder: kinds of its errors, confusion and calibration."""


def run_trial(
    trial: optuna.Trial, *, sweep: Sweep, until: int, around: Surroundings = ALONE
) -> float:
    """Draw a detector, measure it, and train it to an epoch if it fits. Returns its objective.

    Everything learnt is stored in the trial, and a trial that was paused or interrupted goes on
    from there; the trained detector is saved under `sweep.runs`. TrialPruned where it ends early,
    PausedError where `until` is not the end of its schedule, OutOfTimeError where the next score
    would come too late.
    """
    record, budget, data = Record(trial), sweep.budget, sweep.data
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
    keep_cost(record, cost, spec)
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
            keep_cost(record, cost, spec)
            if not budget.allows(cost):
                record.constrain(budget.excess(cost))
                raise optuna.TrialPruned(overrun(budget, cost))
        run_dir = sweep.runs / run_name(spec, config, data, sweep.initial)
        trial.set_user_attr("run", run_dir.name)
        scored = {config.epochs} if final else set(sweep.spending.rungs)
        detector = scores = detections = None
        truth = ground_truth(data.val, data.class_names, data.category_ids)
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
                    detections = run_detector(detector, data.val, val)
                    scores = coco_scores(truth, detections)
                record.keep_scores(epoch, scores, sweep.objective.value(scores))
                note = f"mAP {scores.map or 0:.3f}, mAP50 {scores.map_50 or 0:.3f}"
                around.report(Stage("scored", epoch.number, config.epochs, note))
            if epoch.number == until and until < config.epochs:
                raise PausedError(until)
    assert detector is not None, "the last epoch is scored"
    assert scores is not None
    assert detections is not None

    # Trained weights find more boxes than fresh ones, so the latency that counts is theirs.
    around.report(Stage("measuring"))
    with around.quiet(), record.timed("measure"):
        trained = measure_for(budget, spec, shown, detector.weights, trained=True)
    cost = keep_memory(trained, cost)
    keep_cost(record, cost, spec)
    record.constrain(budget.excess(cost))
    if not budget.allows(cost):
        raise optuna.TrialPruned(f"{overrun(budget, cost)} once trained")
    facts = {"trial": trial.number, "scores": scores.to_dict(), "cost": cost.to_dict()}
    save_detector(run_dir / "detector", detector, facts)
    replace_file(run_dir / ERRORS_FILE, json.dumps(summary(truth, detections), indent=1) + "\n")
    return sweep.objective.value(scores)


def keep_cost(record: Record, cost: Measurement, spec: DetectorSpec) -> None:
    """Store the cost, and what the surrogate sees of the detector."""
    record.keep_cost(cost)
    seen = features(spec, latency_ms=cost.latency_ms_p50, params=cost.params, gflops=cost.gflops)
    record.trial.set_user_attr("features", seen)


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
