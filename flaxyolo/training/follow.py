"""Loggers follow the records of runs: each is given what it has not written yet.

How far each has come is kept beside the runs, so that a command that goes on writes nothing twice,
and what a logger missed, because it failed or was not asked for, is written by a later command.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from flaxyolo.base.files import replace_file
from flaxyolo.machine.locks import lock, open_lock
from flaxyolo.training.writers import EVENTS, WRITERS, Kind, Run, Writer, in_a_line

log = logging.getLogger(__name__)

LOCK_FILE = ".logging"
STATE_FILE = "logged.json"
"""In the folder of a training or a study: what each logger has written."""

LogFlag = Annotated[tuple[Kind, ...], tyro.conf.arg(metavar="tensorboard|csv|mlflow|wandb")]
"""Type of the flag `--log`."""


@dataclass
class Mark:
    """How far a logger has come with a run."""

    id: str | None = None
    step: int | None = None
    ended: bool = False


class Followers:
    """The loggers of a training, or of all trainings of a study."""

    def __init__(self, kinds: Sequence[Kind], home: Path, project: str):
        self.kinds, self.home, self.project = tuple(dict.fromkeys(kinds)), home, project
        self.failed: set[Kind] = set()
        self.writers: dict[tuple[Kind, str], Writer] = {}
        self.marks: dict[str, dict[str, Mark]] = {}
        self.alone: int | None = None

    def begin(self, *, anew: bool) -> None:
        """Take up where an earlier command stopped, or forget what it wrote.

        Where another command, on another machine perhaps, logs what is in this folder already,
        nothing is written.
        """
        path = self.home / STATE_FILE
        if self.kinds:
            self.alone = open_lock(self.home / LOCK_FILE)
            if not lock(self.alone, wait=False):
                log.info("log: another command logs what is in %s", self.home)
                self.kinds = ()
        if anew:
            path.unlink(missing_ok=True)
            shutil.rmtree(self.home / EVENTS, ignore_errors=True)
        elif path.exists():
            for kind, runs in json.loads(path.read_text()).items():
                self.marks[kind] = {key: Mark(**mark) for key, mark in runs.items()}
        for kind in self.kinds:
            log.info("log: %s", self._where(kind))

    def follow(
        self,
        key: str,
        rows: Sequence[tuple[int, Mapping[str, float]]],
        settings: Mapping[str, Any],
        *,
        name: str,
        part: str = "",
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """Write what is new of a run: epochs with their figures, in order.

        `figures` are those of the run as a whole, once it is over.
        """
        for kind in self.kinds:
            if kind not in self.failed:
                try:
                    self._follow(kind, key, rows, settings, name, part, figures)
                except Exception as error:
                    # Whatever a logger's library raises: the training is worth more.
                    self._give_up(kind, error)

    def __enter__(self) -> "Followers":
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open; those runs go on with a later command."""
        try:
            self._close()
        finally:
            if self.alone is not None:
                os.close(self.alone)

    def _close(self) -> None:
        for kind, key in list(self.writers):
            writer = self.writers.pop((kind, key))
            if kind not in self.failed:
                try:
                    writer.end(None)
                except Exception as error:
                    self._give_up(kind, error)

    def is_over(self, key: str) -> bool:
        """Whether all that is to be written of a run is written, or nothing can be."""
        marks = (
            self.marks.get(kind, {}).get(key) for kind in self.kinds if kind not in self.failed
        )
        return all(mark is not None and mark.ended for mark in marks)

    def _follow(
        self,
        kind: Kind,
        key: str,
        rows: Sequence[tuple[int, Mapping[str, float]]],
        settings: Mapping[str, Any],
        name: str,
        part: str,
        figures: Mapping[str, float] | None,
    ) -> None:
        mark = self.marks.setdefault(kind, {}).setdefault(key, Mark())
        if mark.ended:
            return
        new = [row for row in rows if mark.step is None or row[0] > mark.step]
        if not new and (figures is None or (mark == Mark() and not figures)):
            return
        writer = self.writers.get((kind, key))
        if writer is None:
            writer = WRITERS[kind]()
            run = Run(self.home, name, part, self.project, mark.id, mark.step)
            mark.id = writer.start(run, flat(settings))
            self.writers[kind, key] = writer
        try:
            for step, metrics in new:
                writer.write(step, metrics)
                mark.step = step
            if figures is not None:
                del self.writers[kind, key]
                writer.end(figures)
                mark.ended = True
        finally:
            self._save()

    def _give_up(self, kind: Kind, error: Exception) -> None:
        self.failed.add(kind)
        log.warning(
            "log: %s failed: %s; the work goes on without it, and the same command again writes "
            "what is missing", kind, in_a_line(error),
        )  # fmt: skip

    def _save(self) -> None:
        # A table is written anew by each command.
        plain = {
            kind: {key: asdict(mark) for key, mark in runs.items()}
            for kind, runs in self.marks.items()
            if kind != "csv"
        }
        if plain:
            replace_file(self.home / STATE_FILE, json.dumps(plain))

    def _where(self, kind: Kind) -> str:
        named = "MLFLOW_TRACKING_URI" in os.environ
        server = "where MLFLOW_TRACKING_URI says" if named else "which `mlflow ui` shows from here"
        return {
            "tensorboard": f"tensorboard --logdir {self.home}",
            "csv": f"metrics.csv, of a study metrics/, in {self.home}, with the common names",
            "mlflow": f"MLflow, experiment {self.project}, {server}",
            "wandb": "Weights & Biases; where nobody is logged in runs are kept, and are sent by "
            f"wandb sync {self.home}/wandb/offline-run-*",
        }[kind]


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as one level, with names such as `training.epochs` and `stages.0.width`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, list | tuple):
            value = {str(place): each for place, each in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
