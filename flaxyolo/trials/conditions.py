"""How a sweep was made: what somebody needs who wants to make it again, beside its facts."""

import platform
import shlex
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version

import optuna

from flaxyolo.base.urls import without_password
from flaxyolo.cost.measurement import versions
from flaxyolo.search.spending import Spending
from flaxyolo.spec import parse
from flaxyolo.statistics.rules import Advice

CONDITIONS = "conditions"
"""Attribute of a study: those of its last command."""
ALSO = ("optax", "optuna", "numpy")
"""Packages whose versions are told beside those that decide a latency."""


@dataclass(frozen=True)
class Conditions:
    """Of one command."""

    command: str
    """As it can be typed again."""
    began: str
    """Local time, such as 2025-03-01 12:30."""
    versions: dict[str, str]
    """Of Python, the system and packages."""
    workers: int
    seed: int
    spending: Spending
    advice: tuple[Advice, ...] = ()


def keep_conditions(
    study: optuna.Study,
    *,
    command: str,
    workers: int,
    seed: int,
    spending: Spending,
    advice: tuple[Advice, ...],
) -> None:
    """Store with the study of a sweep's runs how it is made."""
    system = {"python": platform.python_version(), "system": platform.platform()}
    made = Conditions(
        command=command,
        began=datetime.now().strftime("%Y-%m-%d %H:%M"),
        versions=versions() | {name: version(name) for name in ALSO} | system,
        workers=workers,
        seed=seed,
        spending=spending,
        advice=advice,
    )
    study.set_user_attr(CONDITIONS, asdict(made))


def conditions(study: optuna.Study) -> Conditions | None:
    """Those of the last command; None where they were not stored yet."""
    known = study.user_attrs.get(CONDITIONS)
    if known is None:
        return None
    found = parse(Conditions, known, "the study's conditions")
    # Versions before have stored the URL of a database whole.
    words = map(without_password, shlex.split(found.command))
    return replace(found, command=shlex.join(words))
