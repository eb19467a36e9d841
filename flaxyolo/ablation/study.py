"""The runs of an ablation: which there are, and how one arm is trained with one seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from pydantic.dataclasses import dataclass as checked

from flaxyolo.ablation.paths import fields
from flaxyolo.ablation.results import Arm, Run, save_detections
from flaxyolo.config import Config, TrainConfig
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.step_memory import with_training_memory
from flaxyolo.crew.phases import Prepared, curve_point, measured, prepared, scored, trained
from flaxyolo.crew.record import Entry, Record, attributes, read
from flaxyolo.crew.surroundings import ALONE, Stage, Surroundings
from flaxyolo.crew.task import NamedData
from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import Keep
from flaxyolo.data.sources import Dataset, absolute
from flaxyolo.nn.detector import TrainedDetector, Weights, initial_weights
from flaxyolo.scoring.average_precision import Scores
from flaxyolo.scoring.detect import evaluate
from flaxyolo.spec import STRICT
from flaxyolo.weights.checkpoint import SOURCE, save_detector
from flaxyolo.weights.inherit.walk import path_text
from flaxyolo.weights.transfer import Source

Key = tuple[str, int]
"""A run: the name of its arm, and its seed."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """What is compared, and on which data; a worker process gets it as a `Task`."""

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


@checked(frozen=True, config=STRICT)
class Task:
    """An ablation as its parent hands it over: plain data, in which the images are named."""

    arms: tuple[Arm, ...]
    configs: dict[str, Config]
    data: NamedData
    source: str
    seeds: tuple[int, ...]
    only: str | None
    keep: Keep

    @classmethod
    def of(cls, ablation: Ablation) -> "Task":
        """That of an ablation."""
        return cls(
            arms=ablation.arms,
            configs=ablation.configs,
            data=NamedData.of(ablation.data),
            source=ablation.source,
            seeds=ablation.seeds,
            only=ablation.only,
            keep=ablation.keep,
        )

    def restored(self, folder: Path) -> Ablation:
        """The ablation of a folder, with its images."""
        return Ablation(folder, self.arms, self.configs, self.data.read(), self.source, self.seeds,
                        self.only, self.keep)  # fmt: skip


def records_of(study: optuna.Study) -> dict[Key, Record]:
    """The record of each run; the first, where two machines have added the same run."""
    found: dict[Key, Record] = {}
    for trial in study.get_trials(deepcopy=False):
        record = read(trial)
        found.setdefault(key_of(record), record)
    return found


def key_of(record: Record) -> Key:
    """Arm and seed of a run."""
    assert record.arm is not None
    assert record.seed is not None
    return record.arm, record.seed


def add_missing(study: optuna.Study, ablation: Ablation) -> None:
    """Add the wanted runs that the study does not have, for any worker to claim."""
    known = records_of(study)
    for arm, seed in ablation.wanted:
        if (arm, seed) not in known:
            run = Record(len(known), "waiting", arm=arm, seed=seed)
            study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=attributes(run)))


def open_runs(study: optuna.Study, ablation: Ablation) -> list[Record]:
    """The wanted runs that have no outcome yet, in their order."""
    known = records_of(study)
    found = [known[key] for key in ablation.wanted if key in known]
    return [record for record in found if not record.is_over]


def read_runs(study: optuna.Study, ablation: Ablation) -> list[Run]:
    """The complete runs of all arms and seeds, also of earlier commands."""
    runs = []
    for (arm, seed), record in sorted(records_of(study).items(), key=lambda item: item[0][1]):
        if record.state == "complete" and record.scores and record.train_scores and record.cost:
            run = Run(
                arm=arm,
                seed=seed,
                scores=record.scores.to_dict(),
                train_scores=record.train_scores.to_dict(),
                cost=record.cost.to_dict(),
                folder=ablation.run_folder(arm, seed),
            )
            runs.append(run)
    return runs


def failures(study: optuna.Study) -> dict[Key, str]:
    """Why runs failed, by arm and seed."""
    return {
        key: record.reason for key, record in records_of(study).items() if record.state == "fail"
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
    entry = Entry(trial)
    arm, seed = key_of(entry.record)
    config = ablation.config(arm, seed)
    spec, training = config.detector, config.training
    folder, ready = ablation.run_folder(arm, seed), prepared(spec, ablation.data, ablation.keep)
    first = None if spec == ablation.baseline.detector else first_weights(ablation.baseline, seed)
    around.report(Stage("compiling"))
    with around.busy():
        detector = trained_whole(entry, ready, training, folder, around, first)
        around.report(Stage("evaluating", training.epochs - 1, training.epochs))
        result = scored(detector, ready, entry)
        train_scores = scored_on_training(detector, ready, entry, seed)
    around.report(Stage("scored", training.epochs, training.epochs, result.told))
    cost = measured(ready, Budget(), entry, around, detector.weights)
    with around.busy(), entry.timed("compile"):
        cost = with_training_memory(cost, spec, training, ready.feed)
    facts = {
        "arm": arm,
        "seed": seed,
        SOURCE: absolute(ablation.data.name),
        "scores": result.scores.to_dict(),
        "cost": cost.to_dict(),
    }
    save_detector(folder / "detector", detector, facts)
    save_detections(folder, result.detections, result.truth)
    entry.keep(scores=result.scores, cost=cost, train_scores=train_scores)
    return result.scores.map or 0.0


def trained_whole(
    entry: Entry,
    ready: Prepared,
    config: TrainConfig,
    folder: Path,
    around: Surroundings,
    first: Source | None,
) -> TrainedDetector:
    """Train to the last epoch; each one's losses are kept."""
    detector = None
    for epoch in trained(ready, config, folder, entry, around, first):
        detector = epoch.detector
        entry.keep_point(curve_point(epoch))
    assert detector is not None, "there is at least one epoch"
    return detector


def scored_on_training(
    detector: TrainedDetector, ready: Prepared, entry: Entry, seed: int
) -> Scores:
    """The scores on as many training images as there are to validate: the gap tells of overfit."""
    data = ready.data
    some = training_sample(len(data.train), len(data.val), seed)
    with entry.timed("evaluate"):
        return evaluate(
            detector,
            [data.train[place] for place in some],
            _picked(ready.feed.pixels, some),
            data.class_names,
            data.category_ids,
        )


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


def facts(ablation: Ablation, fingerprint: str, device: str) -> dict[str, Any]:
    """What must not change while an ablation grows: its runs could not be compared."""
    return {
        "data": ablation.data.name,
        "fingerprint": fingerprint,
        "device": device,
        "arms": [arm.name for arm in ablation.arms],
        **{f"arm {arm.name}": arm.changes for arm in ablation.arms[1:]},
        **{key: value for key, value in fields(ablation.baseline).items() if key != "seed"},
    }


def _picked(pixels: Pixels, places: list[int]) -> Pixels:
    """Some images' pixels; detecting reads nothing else."""
    return pixels._replace(images=np.asarray(pixels.images[places]))
