"""Everything that stays the same from trial to trial of a sweep."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.gpu import Target
from flaxyolo.crew.worker import write_task
from flaxyolo.data.feeds import Keep
from flaxyolo.data.sources import Dataset
from flaxyolo.search.objective import Objective
from flaxyolo.search.space import Ranges, Suggest, load_space, suggest_detector, with_ranges
from flaxyolo.search.spending import Spending
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
    """What is searched, for whom, and how long; a worker process gets it whole."""

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
        """How the parent is trained."""
        return sweep_training(self.parent_epochs, mirror=self.data.mirror, seed=self.seed)

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


@dataclass(frozen=True)
class Task:
    """A sweep as its parent hands it over; the space is named, because functions do not travel."""

    sweep: Sweep
    space: Path | None
    ranges: Ranges
    """What the space is given where it leaves it open."""
    workers: int
    deadline: float
    """In seconds since 1970; infinity is none."""

    def restored(self) -> Sweep:
        """The sweep with its space."""
        return replace(self.sweep, suggest=with_ranges(load_space(self.space), self.ranges))

    def __setstate__(self, state: dict[str, Any]):
        """Unpickle; sweeps begun before ranges were stored have handed over sizes alone."""
        sizes = state.pop("image_sizes", None)
        self.__dict__.update(state if sizes is None else state | {"ranges": Ranges(sizes)})


def hand_over(task: Task) -> None:
    """Write a task where the workers of its folder find it."""
    # The default space stands for the one of a file, which cannot be pickled.
    write_task(
        task.sweep.folder, replace(task, sweep=replace(task.sweep, suggest=suggest_detector))
    )
