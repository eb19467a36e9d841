"""Everything that stays the same from trial to trial of a sweep."""

import hashlib
from dataclasses import dataclass, fields, replace
from math import inf
from pathlib import Path

from pydantic.dataclasses import dataclass as checked

from flaxyolo.base.errors import InputError
from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.target import Target
from flaxyolo.crew.task import NamedData, NamedDetector
from flaxyolo.data.feeds import Keep
from flaxyolo.data.sources import Dataset
from flaxyolo.search.objective import Objective
from flaxyolo.search.space import Ranges, Suggest, load_space, suggest_detector, with_ranges
from flaxyolo.search.spending import Spending
from flaxyolo.spec import STRICT
from flaxyolo.statistics.rules import Advice
from flaxyolo.weights.transfer import Source

BATCH_SIZE = 16
LEARNING_RATE = 0.006
CLASS_GAIN = 1.0
DEFAULT_OBJECTIVE = Objective()
LATER = 10
"""Times the full schedule, the one that the best is trained with in the end."""
FINAL_EPOCHS = "final_epochs"
"""Attribute of a study: the epochs of the schedule that its best is meant for."""
MOSAIC_EPOCHS = 50
"""Shorter runs do without mosaic."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is searched, for whom, and how long; a worker process gets it as a `Task`."""

    suggest: Suggest
    budget: Budget
    data: Dataset
    source: str
    """The data as the user named it."""
    folder: Path
    spending: Spending
    objective: Objective = DEFAULT_OBJECTIVE
    seed: int = 0
    advice: tuple[Advice, ...] = ()
    """What the data say a detector should be."""
    keep: Keep = "auto"
    """Where images wait to be trained on."""
    target: Target | None = None
    """A GPU whose memory counts instead of this device's."""
    initial: Source | None = None
    """A detector whose arrays every run begins with, where they fit."""
    known_as: str = ""
    """Fingerprint by which its study knows the data, where that is not their own of today."""
    parent_epochs: int = 0
    """Of the parent that is trained first; 0 where there is none of the sweep's own."""
    parent_decay: float = 0.0
    """Of those epochs, the share at the end over which its rate falls."""
    teacher: Source | None = None
    """A detector that the full runs, of finalists and controls alike, learn from."""
    engine: Engine = JAX_ENGINE
    """What the latencies are measured on."""
    later_epochs: int | None = None
    """Of the schedule that the user will train the best with; None is `LATER` times the full."""

    @property
    def fingerprint(self) -> str:
        """Of the data, as the study and the names of its runs have it."""
        return self.known_as or self.data.fingerprint

    @property
    def final_epochs(self) -> int:
        """Of the schedule that the best is meant for."""
        return self.later_epochs or LATER * max(self.spending.epochs, self.parent_epochs)

    @property
    def runs(self) -> Path:
        """Folder of the training runs."""
        return self.folder / "trials"

    @property
    def short(self) -> TrainConfig:
        """How candidates are trained."""
        return sweep_training(self.spending.short_epochs, mirror=self.data.mirror, seed=self.seed)

    @property
    def parent_training(self) -> TrainConfig:
        """How the parent is trained: as far as others go on from."""
        usual = sweep_training(self.parent_epochs, mirror=self.data.mirror, seed=self.seed)
        return replace(usual, decay_share=self.parent_decay)

    def full(self, seed: int) -> TrainConfig:
        """How finalists are trained; the same as the candidates if it is their schedule."""
        return sweep_training(self.spending.epochs, mirror=self.data.mirror, seed=seed)


def sweep_training(epochs: int, *, mirror: bool = True, seed: int = 0) -> TrainConfig:
    """How a candidate is trained: the usual recipe, made to fit a few epochs.

    Small networks bear a higher rate, classes are what they learn last, and mosaics pay only in
    longer runs.
    """
    recipe = Augmentation()
    return TrainConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        class_gain=CLASS_GAIN,
        warmup_epochs=1.0,
        augmentation=replace(
            recipe,
            close_mosaic_epochs=epochs if epochs < MOSAIC_EPOCHS else recipe.close_mosaic_epochs,
            flip=recipe.flip if mirror else 0.0,
        ),
        seed=seed,
    )


@checked(frozen=True, config=STRICT)
class SpaceFile:
    """A file of a space, which is run; by where it is."""

    path: Path
    digest: str
    """sha256."""

    @classmethod
    def of(cls, path: Path | None) -> "SpaceFile | None":
        """That of a path, if there is one."""
        return None if path is None else cls(path, digest_of(path))

    def load(self) -> Suggest:
        """Run it for its space; InputError where it is another file by now."""
        if digest_of(self.path) != self.digest:
            raise InputError(f"--space {self.path}: was changed since the sweep's command began; "
                             "start it once more")  # fmt: skip
        return load_space(self.path)


def digest_of(path: Path) -> str:
    """sha256 of a file of a space."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"--space {path}: cannot be read: {error.strerror}") from None


@checked(frozen=True, config=STRICT)
class Task:
    """A sweep as its parent hands it over: plain data, in which files stand for all else."""

    space: SpaceFile | None
    ranges: Ranges
    """What the space is given where it leaves it open."""
    workers: int
    ends: float | None
    """In seconds since 1970; None is never."""
    data: NamedData
    initial: NamedDetector | None
    teacher: NamedDetector | None
    budget: Budget
    source: str
    spending: Spending
    objective: Objective
    seed: int
    advice: tuple[Advice, ...]
    keep: Keep
    target: Target | None
    known_as: str
    parent_epochs: int
    parent_decay: float
    engine: Engine
    later_epochs: int | None

    @classmethod
    def of(
        cls, sweep: Sweep, space: Path | None, ranges: Ranges, workers: int, deadline: float
    ) -> "Task":
        """That of a sweep, whose workers have until `deadline`, in seconds since 1970."""
        return cls(
            space=SpaceFile.of(space),
            ranges=ranges,
            workers=workers,
            ends=deadline if deadline < inf else None,
            data=NamedData.of(sweep.data),
            initial=NamedDetector.of(sweep.initial),
            teacher=NamedDetector.of(sweep.teacher),
            **{name: getattr(sweep, name) for name in AS_THEY_ARE},
        )

    @property
    def deadline(self) -> float:
        """In seconds since 1970; infinity is none."""
        return inf if self.ends is None else self.ends

    def restored(self, folder: Path) -> Sweep:
        """The sweep of a folder, with its space, images and weights."""
        suggest = suggest_detector if self.space is None else self.space.load()
        return Sweep(
            suggest=with_ranges(suggest, self.ranges),
            data=self.data.read(),
            folder=folder,
            initial=self.initial and self.initial.read(),
            teacher=self.teacher and self.teacher.read(),
            **{name: getattr(self, name) for name in AS_THEY_ARE},
        )


AS_THEY_ARE = tuple(
    each.name
    for each in fields(Sweep)
    if each.name not in ("suggest", "data", "folder", "initial", "teacher")
)
"""Fields of a sweep that a task has too."""
