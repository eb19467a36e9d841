"""The phases of one training, of a sweep's candidate and of an ablation's arm alike.

Each takes values and gives one; what becomes of it, and what is stored, is the caller's affair.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.config import TrainConfig
from flaxyolo.cost.again import measure_for
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.measure import compile_programs, compiled_network
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import Entry
from flaxyolo.crew.surroundings import Stage, Surroundings
from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import Feed, Keep, open_feed, open_pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.deploy.engines import program
from flaxyolo.nn.detector import TrainedDetector, Weights
from flaxyolo.scoring.average_precision import Scores, coco_scores
from flaxyolo.scoring.coco_matches import Matched, matched_by_size
from flaxyolo.scoring.detect import run_detector
from flaxyolo.scoring.truth import GroundTruth, ground_truth
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.distill import Teacher, teacher_for
from flaxyolo.training.loop import Epoch, StepReport, train
from flaxyolo.training.state import goes_on
from flaxyolo.training.validation import validation_loss
from flaxyolo.weights.transfer import Source, begun_from

log = logging.getLogger(__name__)

MEASURED_IMAGES = 16
"""Validation images that a latency is measured on, in turn."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network to be trained, with its images at its size."""

    spec: DetectorSpec
    data: Dataset
    feed: Feed
    """Of the training images."""
    val: Pixels

    @property
    def shown(self) -> UInt8[np.ndarray, "n s s 3"]:
        """What a latency is measured on."""
        return np.asarray(self.val.images[:MEASURED_IMAGES])


@dataclass(frozen=True, eq=False)
class Scored:
    """What a detector found on the validation images, and how good that is."""

    truth: GroundTruth
    detections: Detections
    scores: Scores
    matched: Mapping[str, Matched]
    """By size: what an error over images is counted from."""

    @property
    def told(self) -> str:
        """In words."""
        return f"mAP {self.scores.map or 0:.3f}, mAP50 {self.scores.map_50 or 0:.3f}"


def prepared(spec: DetectorSpec, data: Dataset, keep: Keep) -> Prepared:
    """The images letterboxed to the network's size, from the cache or as `keep` says."""
    feed = open_feed(data, "train", spec.image_size, keep=keep)
    return Prepared(spec, data, feed, open_pixels(data, "val", spec.image_size, keep=keep))


def measured(
    ready: Prepared,
    budget: Budget,
    entry: Entry,
    around: Surroundings,
    weights: Weights | None = None,
    before: Measurement | None = None,
    engine: Engine = JAX_ENGINE,
) -> Measurement:
    """The cost on this device, alone on it; near the budget it is measured more than once.

    The latency is that of the engine. Where that is on another machine, others train meanwhile.

    Trained weights find more boxes than fresh ones, so the latency that counts is theirs; `before`
    is that of the fresh ones.
    """
    around.report(Stage("measuring"))
    with around.busy(), entry.timed("compile"):
        compile_programs(ready.spec, engine)
    with entry.timed("measure"):
        on_engine = program(engine, ready.spec, weights)
        with around.quiet() if engine.here else nullcontext():
            return measure_for(
                budget,
                ready.spec,
                ready.shown,
                weights,
                trained=weights is not None,
                before=before,
                program=on_engine,
            )


def trained(
    ready: Prepared,
    config: TrainConfig,
    run_dir: Path,
    entry: Entry,
    around: Surroundings,
    initial: Source | None = None,
    teacher: Source | None = None,
) -> Iterator[Epoch]:
    """The epochs of a run; one that goes on begins with the epoch that was saved last."""

    def on_step(step: StepReport) -> None:
        done = step.epoch - 1 + (step.step - 1) / step.steps
        around.report(Stage("training", done, config.epochs))
        around.step_aside()

    weights, begun = None, goes_on(run_dir / "state")
    if initial is not None and not begun:
        weights = first_weights(ready, config, initial, entry)
    names = ready.data.class_names
    epochs = train(ready.spec, ready.feed, names, config, run_dir=run_dir, report=on_step,
                   initial=weights, teacher=taught_by(teacher, ready))  # fmt: skip
    for epoch in entry.timed_each("train", epochs):
        around.saved()
        yield epoch


def taught_by(source: Source | None, ready: Prepared) -> Teacher | None:
    """The teacher of a network; None without a source, or where it cannot teach this one."""
    if source is None:
        return None
    try:
        return teacher_for(source, ready.spec, ready.data.class_names)
    except InputError as error:
        log.warning("%s; this trial is trained without a teacher", error)
        return None


def first_weights(
    ready: Prepared, config: TrainConfig, initial: Source, entry: Entry
) -> Weights | None:
    """Weights inherited from the source, fresh layers mended; None where nothing can be."""
    try:
        begun = begun_from(initial, ready.spec, config.seed, ready.data.class_names)
    except InputError as error:
        log.warning("%s; this trial begins with fresh weights", error)
        return None
    kinds = {} if begun.inherited is None else begun.inherited.shares
    shares = {str(kind): round(share, 4) for kind, share in kinds.items()}
    entry.keep(inherited=round(begun.share, 4), begun=shares)
    task = to_mend(ready.spec, initial, begun)
    if task is None:
        return begun.weights
    with entry.timed("mend"):
        fit = mend(task, ready.feed, config, initial, begun)
    log.info("%s: %s", initial.path, fit.describe())
    entry.keep(mended=round(fit.after, 4))
    return fit.weights


def scored(detector: TrainedDetector, ready: Prepared, entry: Entry) -> Scored:
    """COCO's scores on the validation images."""
    data = ready.data
    with entry.timed("evaluate"):
        detections = run_detector(detector, data.val, ready.val)
        truth = ground_truth(data.val, data.class_names, data.category_ids)
        scores = coco_scores(truth, detections)
        return Scored(truth, detections, scores, matched_by_size(truth, detections))


def validated(
    detector: TrainedDetector, ready: Prepared, config: TrainConfig, entry: Entry
) -> float:
    """The training loss on the validation images."""
    network = partial(compiled_network(detector.spec), detector.fused)
    with entry.timed("evaluate"):
        return validation_loss(network, detector.spec, ready.val, config)


def curve_point(
    epoch: Epoch,
    scores: Scores | None = None,
    objective: float | None = None,
    *,
    objective_se: float | None = None,
    val_loss: float | None = None,
) -> CurvePoint:
    """What is kept of an epoch."""
    return CurvePoint(
        epoch=epoch.number,
        objective=objective,
        loss={name: float(value) for name, value in epoch.loss._asdict().items()},
        map=None if scores is None else scores.map,
        map_50=None if scores is None else scores.map_50,
        epoch_seconds=epoch.seconds,
        objective_se=objective_se,
        val_loss=val_loss,
    )
