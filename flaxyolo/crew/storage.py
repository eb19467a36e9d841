"""Where a study is kept: its file or database, what it is about, and the lock on its folder."""

import json
import logging
import os
import socket
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from flaxyolo.base.errors import InputError
from flaxyolo.base.urls import hidden
from flaxyolo.crew.databases import answering, open_journal, open_url
from flaxyolo.crew.optuna_inside import beside, copy, delete
from flaxyolo.machine.locks import held

log = logging.getLogger(__name__)

STUDY_FILE = "study.log"
RUNS = ".runs"
"""Ends the name of the study of a sweep's runs."""
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


def runs_name(folder: Path, storage: str | None = None) -> str:
    """Name of the study that holds a sweep's runs, beside the one that a person opens."""
    return f"{study_name(folder, storage)}{RUNS}"


def study_name(folder: Path, storage: str | None = None) -> str:
    """The name of a folder's study: the folder's own, or that of before it was renamed.

    InputError where the file holds several, none of the folder's name.
    """
    if storage is not None or not (folder / STUDY_FILE).exists():
        return folder.name
    kept = optuna.get_all_study_names(open_storage(folder, storage))
    names = sorted({name.removesuffix(RUNS) for name in kept})
    if folder.name in names or not names:
        return folder.name
    if len(names) > 1:
        raise InputError(
            f"{folder / STUDY_FILE}: expected the study {folder.name!r}, found "
            f"{', '.join(map(repr, names))}: rename the folder to one of them"
        )
    return names[0]


def open_study(
    folder: Path, *, name: str | None = None, storage: str | None = None, seed: int = 0
) -> optuna.Study:
    """Open or create a study of a folder, ready to run trials; by default the folder's own.

    The funnel decides what is tried and what goes on; the sampler draws parameters that it leaves
    open.
    """
    study = _opened(folder, name or study_name(folder, storage), storage)
    # A sampler that goes on must not draw again what it drew at the start.
    study.sampler = _sampler(seed + 1_000_003 * len(study.get_trials(deepcopy=False)))
    return study


def open_runs(folder: Path, *, storage: str | None = None, seed: int = 0) -> optuna.Study:
    """Open or create the study of a sweep's runs."""
    return open_study(folder, name=runs_name(folder, storage), storage=storage, seed=seed)


def move_runs(folder: Path, storage: str | None = None) -> None:
    """Move the runs of a sweep, which versions before had in the study of the folder's name.

    A move that was interrupted is made again: until it is whole, the runs are where they were.
    """
    before = _opened(folder, study_name(folder, storage), storage)
    if "facts" not in before.user_attrs:
        return
    name = runs_name(folder, storage)
    delete(beside(before, name))
    copy(before, name)
    delete(before)


def read_study(
    folder: Path | str, storage: str | None = None, *, name: str | None = None
) -> optuna.Study:
    """Open an existing study to look at it, such as `runs/digits-8ms`."""
    folder = Path(folder)
    existing = _existing(folder, storage)
    name = name or study_name(folder, storage)
    try:
        with answering(storage):
            return optuna.load_study(study_name=name, storage=existing)
    except InputError:
        raise
    except (KeyError, ValueError):
        raise InputError(f"{_shown(folder, storage)}: holds no study {name!r}") from None


def read_runs(folder: Path | str, storage: str | None = None) -> optuna.Study:
    """Open the runs of a sweep to look at them, also where a version before has left them."""
    folder = Path(folder)
    existing = _existing(folder, storage)
    with answering(storage):
        names = optuna.get_all_study_names(existing)
    if study_name(folder, storage) in names:
        before = read_study(folder, storage)
        if "facts" in before.user_attrs:
            return before
    return read_study(folder, storage, name=runs_name(folder, storage))


def open_storage(folder: Path, storage: str | None) -> BaseStorage:
    """The storage of a URL, or the study file of the folder."""
    if storage is not None:
        return open_url(storage)
    path = folder / STUDY_FILE
    if path.is_file() and path.stat().st_size == 0 and _has_runs(folder):
        raise InputError(
            f"{path}: expected the study of the runs in this folder, found an empty file; put back "
            "a copy of it, or begin a study of another name"
        )
    return open_journal(path)


def _has_runs(folder: Path) -> bool:
    """Whether a sweep or an ablation has trained here."""
    return any(next(folder.glob(pattern), None) for pattern in ("trials/*", "runs/*/*"))


def _existing(folder: Path, storage: str | None) -> BaseStorage:
    if storage is None and not (folder / STUDY_FILE).is_file():
        raise InputError(
            f"{folder / STUDY_FILE}: expected the study of a sweep, found no such file; "
            "run python -m flaxyolo.sweep first, or name another folder"
        )
    return open_storage(folder, storage)


def _opened(folder: Path, name: str, storage: str | None) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    if storage is None and not (folder / STUDY_FILE).exists() and _has_runs(folder):
        log.warning("%s is not there, though its folder holds runs: a new study is begun",
                    folder / STUDY_FILE)  # fmt: skip
    opened = open_storage(folder, storage)
    try:
        with answering(storage):
            return optuna.create_study(
                study_name=name,
                storage=opened,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),
            )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{_shown(folder, storage)}: not a study that can be opened: {error}"
        ) from None


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


def known_as(study: optuna.Study, fingerprint: str, formerly: Collection[str]) -> str:
    """By which fingerprint a study knows data that have this one now.

    Its own where an earlier version of the reader gave it to the same files, so that it goes on.
    """
    known = study.user_attrs.get("facts", {}).get("fingerprint")
    return known if known in formerly else fingerprint


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
    return str(folder / STUDY_FILE) if storage is None else hidden(storage)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
