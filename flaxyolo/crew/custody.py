"""In whose hands a trial is: its lease, its signs of life, and how it has fared there."""

import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Annotated, Any

import optuna
from optuna.trial import FrozenTrial
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from flaxyolo.base.kept import brief
from flaxyolo.crew.optuna_inside import set_attr
from flaxyolo.spec import describe

log = logging.getLogger(__name__)

AHEAD_S = 86_400.0
"""Clocks of machines differ by less."""


def _not_ahead(seconds: float) -> float:
    if seconds > time.time() + AHEAD_S:
        raise ValueError(f"expected a time of before, got {seconds}")
    return seconds


Past = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_not_ahead)]
"""Seconds since 1970."""
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Hold:
    """Who runs a trial; without a worker no one does."""

    at: Past = 0.0
    """Since when, in seconds since 1970."""
    token: str = ""
    """Of this one time that the worker took it."""
    worker: str | None = None
    host: str | None = None
    lock: str | None = None
    """File that the worker holds locked."""
    parent: str | None = None
    """File that its supervisor holds locked."""


@dataclass(frozen=True)
class Custody:
    """In whose hands a trial is, and how it has fared there; cheaper to read than its record."""

    lease: Hold = Hold()
    beat: Past = 0.0
    """When its worker was heard of last, in seconds since 1970."""
    interruptions: Count = 0
    fruitless: Count = 0
    """Interruptions in a row without a checkpoint in between."""
    crashes: tuple[str, ...] = ()
    reason: str = ""


_CUSTODY: dict[str, TypeAdapter[Any]] = {
    "lease": TypeAdapter(Hold),
    "beat": TypeAdapter(Past),
    "interruptions": TypeAdapter(Count),
    "fruitless": TypeAdapter(Count),
    "crashes": TypeAdapter(tuple[str, ...]),
    "reason": TypeAdapter(str),
}


def custody(trial: FrozenTrial | optuna.Trial) -> Custody:
    """In whose hands a trial is; what cannot be is told, and as if it were not stored."""
    kept = trial.user_attrs
    known: dict[str, Any] = {}
    for name, kind in _CUSTODY.items():
        if kept.get(name) is None:
            continue
        try:
            known[name] = kind.validate_python(kept[name])
        except ValidationError as error:
            _tell_once(f"trial {trial.number}: {name}: {brief(ValueError(describe(error)))}")
    return Custody(**known)


@lru_cache(maxsize=1024)
def _tell_once(line: str) -> None:
    """A warning, but not at every look at a trial."""
    log.warning("%s; it counts as not stored", line)


def keep_custody(study: optuna.Study, trial: FrozenTrial | optuna.Trial, **changes: Any) -> None:
    """Change fields of the custody of any trial, its holder's or not; TypeError for another name.

    UpdateFinishedTrialError where the trial is finished.
    """
    replace(Custody(), **changes)
    for name, value in changes.items():
        plain = asdict(value) if isinstance(value, Hold) else value
        set_attr(study, trial, name, list(plain) if isinstance(plain, tuple) else plain)
