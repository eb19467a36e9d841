"""The runs of an ablation: which there are, and how one arm is trained with one seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from flaxyolo.ablation.paths import fields
from flaxyolo.ablation.results import Arm, Run, save_detections
from flaxyolo.config import Config
from flaxyolo.cost.measure import measure
from flaxyolo.cost.step_memory import with_training_memory
from flaxyolo.crew.record import ALONE, MEASURED_IMAGES, Record, Stage, Surroundings, epochs
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Dataset
from flaxyolo.data.stream import Keep, is_streamed, open_pixels
from flaxyolo.nn.detector import Weights, initial_weights
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.detect import evaluate, run_detector
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.training.loop import Epoch
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, path_text

Key = tuple[str, int]
"""A run: the name of its arm, and its seed."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """What is compared, and on which data; a worker process gets it whole."""

    folder: Path
    arms: tuple[Arm, ...]
    """The first is the baseline."""
    configs: dict[str, Config]
    """Of each arm, made to fit the data."""
    data: Dataset
    source: str
    """The data as the user named it."""
    seeds: tuple[int, ...]
    only: str | None = None
    """The one arm that this command trains."""
    keep: Keep = "auto"
    """Where images wait to be trained on."""

    @property
    def baseline(self) -> Config:
        """The first arm's config."""
        return self.configs[self.arms[0].name]

    @property
    def wanted(self) -> list[Key]:
        """The runs that this command is for, seed by seed, so that whole seeds come early."""
        names = [arm.name for arm in self.arms if self.only in (None, arm.name)]
        return [(name, seed) for seed in self.seeds for name in names]

    def config(self, arm: str, seed: int) -> Config:
        """How a run is trained."""
        config = self.configs[arm]
        return replace(config, training=replace(config.training, seed=seed))

    def run_folder(self, arm: str, seed: int) -> Path:
        """Where a run keeps its training state, its detector and what that found."""
        return self.folder / "runs" / arm / f"seed-{seed}"


def trials_of(study: optuna.Study) -> dict[Key, FrozenTrial]:
    """The trial of each run; the first, where two machines have added the same run."""
    found: dict[Key, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        found.setdefault((trial.user_attrs["arm"], trial.user_attrs["seed"]), trial)
    return found


def add_missing(study: optuna.Study, ablation: Ablation) -> None:
    """Add the wanted runs that the study does not have, for any worker to claim."""
    known = trials_of(study)
    for arm, seed in ablation.wanted:
        if (arm, seed) not in known:
            attrs = {"arm": arm, "seed": seed}
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attrs))


def open_trials(study: optuna.Study, ablation: Ablation) -> list[FrozenTrial]:
    """The wanted runs that have no outcome yet, in their order."""
    known = trials_of(study)
    found = [known[key] for key in ablation.wanted if key in known]
    return [trial for trial in found if not trial.state.is_finished()]


def read_runs(study: optuna.Study, ablation: Ablation) -> list[Run]:
    """The complete runs of all arms and seeds, also of earlier commands."""
    return [
        Run(
            arm=arm,
            seed=seed,
            scores=trial.user_attrs["scores"],
            train_scores=trial.user_attrs["train_scores"],
            cost=trial.user_attrs["cost"],
            folder=ablation.run_folder(arm, seed),
        )
        for (arm, seed), trial in sorted(trials_of(study).items(), key=lambda item: item[0][1])
        if trial.state == TrialState.COMPLETE
    ]


def failures(study: optuna.Study) -> dict[Key, str]:
    """Why runs failed, by arm and seed."""
    return {
        key: trial.user_attrs.get("reason", "")
        for key, trial in trials_of(study).items()
        if trial.state == TrialState.FAIL
    }


def whole_seeds(runs: Sequence[Run], arms: Sequence[str]) -> tuple[int, ...]:
    """The seeds that all of these arms have a run of."""
    done = {(run.arm, run.seed) for run in runs}
    return tuple(
        seed
        for seed in sorted({run.seed for run in runs})
        if all((arm, seed) in done for arm in arms)
    )


def run_arm(trial: optuna.Trial, ablation: Ablation, around: Surroundings = ALONE) -> float:
    """Train an arm with a seed, score it, and measure it; returns its mAP.

    Everything learnt is stored in the trial and in the run's folder; an interrupted run goes on
    from its last epoch.
    """
    arm, seed = trial.user_attrs["arm"], trial.user_attrs["seed"]
    config, data = ablation.config(arm, seed), ablation.data
    spec, training = config.detector, config.training
    folder, record = ablation.run_folder(arm, seed), Record(trial)
    pixels, val = (
        open_pixels(data, split, spec.image_size, keep=ablation.keep) for split in ("train", "val")
    )
    streamed = is_streamed(pixels, ablation.keep)
    first = None if spec == ablation.baseline.detector else first_weights(ablation.baseline, seed)
    around.report(Stage("compiling"))
    detector = None
    with around.busy():
        for epoch in record.timed_each(
            "train", epochs(spec, pixels, data, training, folder, around, first, streamed)
        ):
            around.saved()
            detector = epoch.detector
            _keep_loss(record, epoch)
        assert detector is not None, "there is at least one epoch"
        around.report(Stage("evaluating", training.epochs - 1, training.epochs))
        with record.timed("evaluate"):
            detections = run_detector(detector, data.val, val)
            truth = ground_truth(data.val, data.class_names, data.category_ids)
            scores = coco_scores(truth, detections)
            some = training_sample(len(data.train), len(data.val), seed)
            train_scores = evaluate(
                detector,
                [data.train[place] for place in some],
                _picked(pixels, some),
                data.class_names,
                data.category_ids,
            )
    note = f"mAP {scores.map or 0:.3f}, mAP50 {scores.map_50 or 0:.3f}"
    around.report(Stage("scored", training.epochs, training.epochs, note))
    around.report(Stage("measuring"))
    with around.quiet(), record.timed("measure"):
        cost = measure(spec, weights=detector.weights, images=val.images[:MEASURED_IMAGES])
    with around.busy(), record.timed("compile"):
        cost = with_training_memory(cost, spec, training, pixels, streamed)
    facts: dict[str, Any] = {"scores": scores.to_dict(), "cost": cost.to_dict()}
    save_detector(folder / "detector", detector, {"arm": arm, "seed": seed, **facts})
    save_detections(folder, detections, truth)
    for key, value in {**facts, "train_scores": train_scores.to_dict()}.items():
        trial.set_user_attr(key, value)
    return scores.map or 0.0


def first_weights(baseline: Config, seed: int) -> Source:
    """What an arm begins with: every kernel of the baseline's first weights that fits.

    A network's weights are drawn one after the other, so that one more layer would change all that
    follow it. What is not drawn stays the arm's own: a bias of the head depends on its level.
    """
    params, _ = initial_weights(baseline.detector, seed)
    kernels = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path_text(path).endswith("kernel") else None, params
    )
    return Source(Path("the baseline's first weights"), Weights(kernels, None))


def training_sample(count: int, wanted: int, seed: int) -> list[int]:
    """Places of the training images that the gap is scored on: as many as there are to validate."""
    drawn = np.random.default_rng(seed).choice(count, min(count, wanted), replace=False)
    return sorted(map(int, drawn))


def facts(ablation: Ablation, device: str) -> dict[str, Any]:
    """What must not change while an ablation grows: its runs could not be compared."""
    return {
        "data": ablation.data.name,
        "fingerprint": ablation.data.fingerprint,
        "device": device,
        "arms": [arm.name for arm in ablation.arms],
        **{f"arm {arm.name}": arm.changes for arm in ablation.arms[1:]},
        **{key: value for key, value in fields(ablation.baseline).items() if key != "seed"},
    }


def _keep_loss(record: Record, epoch: Epoch) -> None:
    loss = {name: float(value) for name, value in epoch.loss._asdict().items()}
    row = {"epoch": epoch.number, "loss": loss, "epoch_seconds": epoch.seconds}
    record.history = [old for old in record.history if old["epoch"] < epoch.number] + [row]
    record.trial.set_user_attr("history", record.history)


def _picked(pixels: Pixels, places: list[int]) -> Pixels:
    """Some images' pixels; detecting reads nothing else."""
    return pixels._replace(images=np.asarray(pixels.images[places]))
