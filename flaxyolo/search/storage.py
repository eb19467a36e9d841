"""Where a study is kept: its file or database, the lock on its folder, and what a crash left."""

import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from flaxyolo.errors import InputError
from flaxyolo.search.results import INTERRUPTED
from flaxyolo.search.study import first_rung

STUDY_FILE = "study.log"
STARTUP_TRIALS = 4
"""Trials drawn at random before the sampler learns from them; Optuna's 10 is a whole sweep."""
REDUCTION = 2
"""Halving: of the trials that reach a rung, one in so many goes on."""

KEPT_WHEN_RESUMED = ("origin", "spec", "cost", "history", "scores", "seconds")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study folder alone; the system lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f"{folder}: another sweep is at work on this study (process {file.read()}); "
                "wait for it, or name another study with --study"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_study(
    folder: Path, *, storage: str | None = None, seed: int = 0, epochs: int = 1
) -> optuna.Study:
    """Open or create the study of a folder, with sampler and pruner, ready to run trials."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = open_storage(folder, storage)
    try:
        study = optuna.create_study(
            study_name=folder.name,
            storage=opened,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=first_rung(epochs), reduction_factor=REDUCTION
            ),
        )
    except ValueError as error:
        raise InputError(
            f"{_shown(folder, storage)}: not a study that can be opened: {error}"
        ) from None
    # A sampler that goes on must not draw again what it drew at the start.
    study.sampler = _sampler(seed + 1_000_003 * len(study.get_trials(deepcopy=False)))
    return study


def read_study(folder: Path | str, storage: str | None = None) -> optuna.Study:
    """Open an existing study to look at it, such as `runs/digits-8ms`."""
    folder = Path(folder)
    if storage is None and not (folder / STUDY_FILE).is_file():
        raise InputError(
            f"{folder / STUDY_FILE}: expected the study of a sweep, found no such file; "
            "run python -m flaxyolo.sweep first, or name another folder"
        )
    try:
        return optuna.load_study(study_name=folder.name, storage=open_storage(folder, storage))
    except (KeyError, ValueError):
        raise InputError(f"{_shown(folder, storage)}: holds no study {folder.name!r}") from None


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The storage of a URL, or the study file of the folder."""
    if storage is not None:
        try:
            return optuna.storages.get_storage(storage)
        except Exception as error:  # any driver's own
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"--storage {storage}: expected a database URL such as sqlite:///study.db: {line}"
            ) from None
    path = (folder / STUDY_FILE).resolve()
    if path.exists():
        drop_torn_line(path)
    # Absolute: Optuna's lock is a symbolic link to the file.
    return JournalStorage(JournalFileBackend(str(path)))


def drop_torn_line(path: Path) -> None:
    """Cut off the half of a record that a full disk or a crash left at the end."""
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if len(complete) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(complete))


def claim(study: optuna.Study, facts: Mapping[str, Any], where: str) -> None:
    """Store what a study is about, or check that it is about the very same."""
    known = study.user_attrs.get("facts")
    facts = json.loads(json.dumps(facts))
    if known is None:
        study.set_user_attr("facts", facts)
        return
    differing = [key for key in facts if known.get(key) != facts[key]]
    if differing:
        told = "; ".join(
            f"{key} was {_brief(known.get(key))}, now {_brief(facts[key])}" for key in differing
        )
        raise InputError(f"{where}: the study was begun with other settings: {told}; "
                         "name another with --study")  # fmt: skip


def worker_name(folder: Path) -> str:
    """Who runs trials in a folder: of several that share a database, each takes up its own."""
    return f"{socket.gethostname()}:{folder.resolve()}"


def take_up_interrupted(study: optuna.Study, worker: str) -> int:
    """End trials that `worker` left running, and enqueue them again; how many.

    Call it with the folder locked: then no such process is alive.
    """
    left = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if trial.user_attrs.get("worker", worker) == worker
    ]
    for trial in left:
        known = {k: v for k, v in trial.user_attrs.items() if k in KEPT_WHEN_RESUMED}
        # Enqueued before it is ended: a crash in between repeats this, and loses nothing.
        again = {"resumes": trial.number, **known}
        # An enqueued trial may have been ended before it had asked for all its parameters.
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if params:
            study.enqueue_trial(params, user_attrs=again)
        study._storage.set_trial_user_attr(trial._trial_id, "reason", INTERRUPTED)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(left)


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        # `group` is marked experimental; with it, parameters of one stage are drawn together.
        warnings.filterwarnings(
            "ignore", ".*group.*", category=optuna.exceptions.ExperimentalWarning
        )
        return optuna.samplers.TPESampler(
            multivariate=True, group=True, n_startup_trials=STARTUP_TRIALS, seed=seed % 2**32
        )


def _shown(folder: Path, storage: str | None) -> str:
    return storage or str(folder / STUDY_FILE)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
