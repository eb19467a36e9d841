"""What a finished sweep leaves, for programs and notebooks."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import optuna

from flaxyolo.crew.storage import read_study
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.weights.checkpoint import BEST, load_detector


@dataclass(frozen=True)
class Swept:
    """A study after a run of its sweep."""

    folder: Path
    """Where its tables, pictures and checkpoints lie."""
    storage: str | None = field(default=None, repr=False)
    """The database, where the study is not in a file of the folder; its URL may have a password."""

    @cached_property
    def best(self) -> TrainedDetector | None:
        """The best detector; None where none was trained to the end yet."""
        return load_detector(self.folder) if (self.folder / BEST).is_dir() else None

    @cached_property
    def study(self) -> optuna.Study:
        """The Optuna study: a trial for each network."""
        return read_study(self.folder, self.storage)
