"""Where a study is kept: its file or database, what it is about, and the lock on its folder."""

import json
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from flaxyolo.base.errors import InputError
from flaxyolo.crew.databases import open_journal, open_url
from flaxyolo.crew.optuna_inside import copy, delete
from flaxyolo.machine.locks import held

STUDY_FILE = "study.log"
STARTUP_TRIALS = 4
"""Trials drawn at random before the sampler learns from them; Optuna's 10 is a whole sweep."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study folder alone; the system lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    # Several machines may share the folder, each with one sweep.
    path = folder / f".lock-{socket.gethostname()}"
    with held(path, wait=False) as is_ours:
        if not is_ours:
            raise InputError(
                f"{folder}: another command is at work here (process {path.read_text()}); "
                "wait for it, or give this one another name"
            )
        path.write_text(str(os.getpid()))
        yield


def runs_name(folder: Path) -> str:
    """Name of the study that holds a sweep's runs, beside the one that a person opens."""
    return f"{folder.name}.runs"


def open_study(
    folder: Path, *, name: str | None = None, storage: str | None = None, seed: int = 0
) -> optuna.Study:
    """Open or create a study of a folder, ready to run trials; its name is the folder's.

    The funnel decides what is tried and what goes on; the sampler draws parameters that it leaves
    open.
    """
    study = _opened(folder, name or folder.name, storage)
    # A sampler that goes on must not draw again what it drew at the start.
    study.sampler = _sampler(seed + 1_000_003 * len(study.get_trials(deepcopy=False)))
    return study


def open_front(folder: Path, storage: str | None = None) -> optuna.Study:
    """Open or create the study of a sweep that a person opens."""
    return _opened(folder, folder.name, storage)


def open_runs(folder: Path, *, storage: str | None = None, seed: int = 0) -> optuna.Study:
    """Open or create the study of a sweep's runs.

    Versions before had them in the study of the folder's name; those are moved. A move that was
    interrupted is made again: until it is whole, the runs are where they were.
    """
    name = runs_name(folder)
    before = _opened(folder, folder.name, storage)
    if "facts" in before.user_attrs:
        kept = optuna.get_all_study_names(open_storage(folder, storage))
        if name in kept:
            delete(_opened(folder, name, storage))
        copy(before, name)
        delete(before)
    return open_study(folder, name=name, storage=storage, seed=seed)


def read_study(
    folder: Path | str, storage: str | None = None, *, name: str | None = None
) -> optuna.Study:
    """Open an existing study to look at it, such as `runs/digits-8ms`."""
    folder = Path(folder)
    name, existing = name or folder.name, _existing(folder, storage)
    try:
        return optuna.load_study(study_name=name, storage=existing)
    except (KeyError, ValueError):
        raise InputError(f"{_shown(folder, storage)}: holds no study {name!r}") from None


def read_runs(folder: Path | str, storage: str | None = None) -> optuna.Study:
    """Open the runs of a sweep to look at them, also where a version before has left them."""
    folder = Path(folder)
    if folder.name in optuna.get_all_study_names(_existing(folder, storage)):
        before = read_study(folder, storage)
        if "facts" in before.user_attrs:
            return before
    return read_study(folder, storage, name=runs_name(folder))


def _existing(folder: Path, storage: str | None) -> BaseStorage:
    if storage is None and not (folder / STUDY_FILE).is_file():
        raise InputError(
            f"{folder / STUDY_FILE}: expected the study of a sweep, found no such file; "
            "run python -m flaxyolo.sweep first, or name another folder"
        )
    return open_storage(folder, storage)


def _opened(folder: Path, name: str, storage: str | None) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.create_study(
            study_name=name,
            storage=open_storage(folder, storage),
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
    except ValueError as error:
        raise InputError(
            f"{_shown(folder, storage)}: not a study that can be opened: {error}"
        ) from None


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The storage of a URL, or the study file of the folder."""
    return open_journal(folder / STUDY_FILE) if storage is None else open_url(storage)


def claim(study: optuna.Study, facts: Mapping[str, Any], where: str, flag: str = "--study") -> None:
    """Store what a study is about, or check that it is the very same; `flag` names another."""
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
                         f"name another with {flag}")  # fmt: skip


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
