"""Writers of a run's figures: to TensorBoard, MLflow, Weights & Biases, or a table.

Each is an optional package, asked for by name. What a run is and how far it was written before is
handed in; which steps are new is decided by who calls (`training/follow.py`).
"""

import csv
import io
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import replace_file

Kind = Literal["tensorboard", "csv", "mlflow", "wandb"]

MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Without these MLflow waits minutes for a server that is gone, and prints into a command's output;
a user's own settings stay."""
LINE = 200
"""Characters of an error that are told, at most."""
EVENTS = "tensorboard"
"""Folder of event files, in a run's home."""
MLFLOW_LENGTH = 500
"""Of a parameter's value, at most; older servers refuse more."""
MLFLOW_BATCH = 100
"""Parameters in a request, at most."""


@dataclass(frozen=True)
class Run:
    """One training, as a logger knows it."""

    home: Path
    """Folder of the training or the study."""
    name: str
    """What a person sees it by."""
    part: str = ""
    """Its folder or file among those of a study; empty where the home is its own."""
    project: str = "flaxyolo"
    """What it is found under, with others."""
    known: str | None = None
    """The id that an earlier command's `start` gave."""
    step: int | None = None
    """The last that an earlier command wrote."""


class Writer(Protocol):
    """Where the figures of one run go."""

    def start(self, run: Run, settings: Mapping[str, Any]) -> str | None:
        """Begin the run, or go on in the one that is known; returns its id, if it has one."""
        ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the figures of a step, which is an epoch; steps come in order."""
        ...

    def end(self, figures: Mapping[str, float] | None) -> None:
        """Close the run, with what is known of it as a whole; None where it is to go on later."""
        ...


def ready(kinds: Sequence[Kind], project: str) -> None:
    """InputError where a package is missing, or a server does not answer; before any work."""
    for kind in kinds:
        try:
            if kind != "csv":
                _package(kind)
            if kind == "mlflow":
                _experiment(_client(), project)
        except ImportError:
            needed = f'{PACKAGES[kind][0]}: pip install "flaxyolo[{kind}]"'
            raise InputError(f"--log {kind}: needs the package {needed}") from None
        except Exception as error:
            raise InputError(f"--log {kind}: {in_a_line(error)}") from None


def in_a_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    lines = (line for line in str(error).splitlines() if line.strip())
    told = next(lines, type(error).__name__)
    return told if len(told) <= LINE else f"{told[: LINE - 3]}..."


@dataclass
class Table:
    """`metrics.csv` of a training, or `metrics/NAME.csv` of a study: a line for each epoch.

    It is written anew each time, whole or not at all, so that nothing is there twice.
    """

    path: Path = Path()
    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Name the file; settings do not go into a table."""
        self.path = run.home / ("metrics.csv" if not run.part else f"metrics/{run.part}.csv")
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows[step] = dict(metrics)
        self._save()

    def end(self, figures: Mapping[str, float] | None) -> None:
        if figures:
            last = max(self.rows, default=0)
            self.rows[last] = {**self.rows.get(last, {}), **figures}
            self._save()

    def _save(self) -> None:
        columns = dict.fromkeys(name for row in self.rows.values() for name in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"epoch": step, **row} for step, row in sorted(self.rows.items()))
        replace_file(self.path, text.getvalue())


class TensorBoard:
    """Event files under `tensorboard/` of the home.

    They are written by this thread: that of tensorboardX's own writer dies unseen of a full disk,
    and whoever flushes then waits for it for ever.
    """

    def start(self, run: Run, settings: Mapping[str, Any]) -> None:
        """Open another file of the run; steps after the last one written are hidden."""
        self.proto = _package("tensorboard", ".proto.event_pb2")
        self.summary = _package("tensorboard", ".summary")
        files = _package("tensorboard", ".event_file_writer")
        self.step = run.step or 0
        folder = run.home / EVENTS / run.part
        folder.mkdir(parents=True, exist_ok=True)
        # The library names a file by the second, and would write over one that is as old; readers
        # take files by name.
        self.file = files.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if run.step is not None:
            begin = self.proto.SessionLog(status=self.proto.SessionLog.SessionStatus.START)
            self._add(run.step + 1, session_log=begin)
        else:
            rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
            table = f"| setting | value |\n|---|---|\n{rows}"
            self._add(0, summary=self.summary.text("settings", table))
        self.file.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step
        for name, value in metrics.items():
            self._add(step, summary=self.summary.scalar(name, value))
        self.file.flush()

    def end(self, figures: Mapping[str, float] | None) -> None:
        self.write(self.step, figures or {})
        self.file.close()

    def _add(self, step: int, **content: Any) -> None:
        self.file.write_event(self.proto.Event(wall_time=time.time(), step=step, **content))


class MLflow:
    """A run of the server or file that MLFLOW_TRACKING_URI names, else of MLflow's own choice."""

    def start(self, run: Run, settings: Mapping[str, Any]) -> str:
        """Begin a run of the project's experiment; one that is gone from there begins anew."""
        self.client = _client()
        self.past = -1
        known = None if run.known is None else self._known(run.known)
        if known is not None:
            self.id = known
            self.client.update_run(self.id, status="RUNNING")
            self.past = self._last_step()
        else:
            self.id = self.client.create_run(
                _experiment(self.client, run.project), run_name=run.name
            ).info.run_id
            self._keep(settings)
        self.step = max(self.past, run.step or 0)
        return self.id

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > self.past:
            self._add(step, metrics)

    def end(self, figures: Mapping[str, float] | None) -> None:
        if figures:
            self._add(self.step, figures)
        self.client.set_terminated(self.id, status="KILLED" if figures is None else "FINISHED")

    def _add(self, step: int, metrics: Mapping[str, float]) -> None:
        self.step, now = step, int(time.time() * 1000)
        metric = _package("mlflow", ".entities").Metric
        entries = [metric(name, value, now, step) for name, value in metrics.items()]
        self.client.log_batch(self.id, metrics=entries)

    def _known(self, run: str) -> str | None:
        """The run, unless it is not there: the address may be another one now."""
        try:
            return self.client.get_run(run).info.run_id
        except _package("mlflow", ".exceptions").MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _last_step(self) -> int:
        names = self.client.get_run(self.id).data.metrics
        history = (self.client.get_metric_history(self.id, name) for name in names)
        return max((metric.step for metrics in history for metric in metrics), default=-1)

    def _keep(self, settings: Mapping[str, Any]) -> None:
        param = _package("mlflow", ".entities").Param
        params = [param(name, str(value)[:MLFLOW_LENGTH]) for name, value in settings.items()]
        for place in range(0, len(params), MLFLOW_BATCH):
            self.client.log_batch(self.id, params=params[place : place + MLFLOW_BATCH])


class WandB:
    """A run of the project; kept on the disk where nobody is logged in, or WANDB_MODE says so."""

    def start(self, run: Run, settings: Mapping[str, Any]) -> str:
        """Begin a run, or go on in the known one."""
        wandb = _package("wandb")
        mode = None
        if "WANDB_MODE" not in os.environ and not wandb.login(prompt=False):
            mode = "offline"
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "flaxyolo"),
            group=run.project if run.part else None,
            name=run.name,
            id=run.known,
            dir=str(run.home),
            config=dict(settings),
            resume="allow" if run.known else None,
            reinit="create_new",
            mode=mode,
            save_code=False,
            settings=wandb.Settings(silent=True, console="off"),
        )
        # Of a run that goes on, the server knows which step is next.
        self.next = self.run.step
        return self.run.id

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self.next:
            self.run.log(dict(metrics), step=step, commit=True)

    def end(self, figures: Mapping[str, float] | None) -> None:
        self.run.summary.update(dict(figures or {}))
        self.run.finish(exit_code=1 if figures is None else 0)


PACKAGES: dict[Kind, tuple[str, str]] = {
    "tensorboard": ("tensorboardX", "SummaryWriter"),
    "mlflow": ("mlflow", "MlflowClient"),
    "wandb": ("wandb", "init"),
}
"""Of each kind the package, and a name that it has."""

WRITERS: dict[Kind, type[Writer]] = {
    "tensorboard": TensorBoard,
    "csv": Table,
    "mlflow": MLflow,
    "wandb": WandB,
}


def _package(kind: Kind, part: str = "") -> Any:
    """An optional package, or a module of it; ImportError where it is missing."""
    name, needed = PACKAGES[kind]
    package = import_module(name)
    if not hasattr(package, needed):
        # A folder of that name, such as one that wandb has left.
        raise ImportError(f"no package {name}")
    return import_module(f"{name}{part}") if part else package


def _client() -> Any:
    for name, value in MANNERS.items():
        os.environ.setdefault(name, value)
    client = _package("mlflow").MlflowClient()
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return client


def _experiment(client: Any, project: str) -> str:
    """The id of the experiment of this name, or of MLFLOW_EXPERIMENT_NAME; made where missing."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", project)
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found is not None else client.create_experiment(name)
