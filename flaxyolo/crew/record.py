"""A trial's record: what a trial stores, typed; only this file and `custody` know the keys.

A field is stored as the user attribute of its own name, so what another version has written is
read as long as names and forms stay.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar

import optuna
from optuna.trial import FrozenTrial

from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.optuna_inside import constrain, latest
from flaxyolo.scoring.average_precision import Scores
from flaxyolo.spec import DetectorSpec, detector_from_dict, parse, to_dict

T = TypeVar("T")

CHEAP = "cheap"
"""Trials of the short schedule, one for each candidate."""
FINAL = "final"
"""Trials of the full schedule, one for each finalist and seed."""
INTERRUPTED = "interrupted"
"""Reason of a trial whose process ended, in studies of old; others went on in its place."""


@dataclass(frozen=True)
class Record:
    """One trial, of a sweep or of an ablation."""

    number: int
    state: Literal["complete", "pruned", "fail", "running", "waiting"]
    params: Mapping[str, Any] = field(default_factory=dict)
    """Of the space."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """How far outside (above 0) each limit of the budget it is, as a share of the limit."""
    refuted: bool = False
    """Whether it was over the budget in a fresh process, after all; the study knows."""

    network: int | None = None
    """Number of its network among those that the study tries; only all records together tell."""

    stage: str = CHEAP
    """cheap or final."""
    origin: str | None = None
    """Why it was tried: as the baseline, as the data advise, as proposed, or to explore."""
    finalist: int | None = None
    """The candidate that a final run trains."""
    again: int | None = None
    """The candidate that it stands for, which was taken to be over the budget by mistake."""
    arm: str | None = None
    """Of an ablation."""
    seed: int | None = None
    """Of a final run, or of an arm's."""

    inherited: float | None = None
    """How near its first weights were to another detector's, 0 to 1."""
    begun: Mapping[str, float] = field(default_factory=dict)
    """Of its parameters, the shares of layers that were copied, sliced, grown or fresh then."""
    mended: float | None = None
    """Share of the other's features that its fresh layers, fitted to them, missed at the start."""
    predicted_ms: float | None = None
    """Latency that the table of blocks gave before it was measured."""
    predicted_score: float | None = None
    table_error: str | None = None
    """What the table of blocks said of its own error then."""
    screened: int = 0
    """Specs that were drawn and judged to find it."""
    zero_cost: Mapping[str, float] = field(default_factory=dict)
    """Scores of the network before any training."""
    spec: DetectorSpec | None = None
    cost: Measurement | None = None
    looks: int = 0
    """Measurements in a row on a busy machine that left open whether it keeps the budget."""
    features: Mapping[str, float] = field(default_factory=dict)
    """Of its architecture, for the surrogate; empty until it was measured."""
    run: str | None = None
    """Name of the folder of its training run, where a trained detector is."""
    history: tuple[CurvePoint, ...] = ()
    scores: Scores | None = None
    """The last on the validation images."""
    train_scores: Scores | None = None
    """On as many training images."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Spent on each phase."""

    paused: int | None = None
    """Epoch after which it waits to be promoted; None if it does not."""
    duplicate_of: int | None = None
    reason: str = ""
    """Why it ended early."""
    crashes: tuple[str, ...] = ()
    """How it ended its worker, each time."""

    @property
    def trial(self) -> int:
        """The trial of the study that a person opens, which has one for each network."""
        return self.number if self.network is None else self.network

    @property
    def is_over(self) -> bool:
        """Whether it has its outcome; an interrupted trial is taken up by another."""
        return self.state in ("complete", "pruned", "fail") and self.reason != INTERRUPTED

    @property
    def epochs(self) -> int:
        """Epochs after which it was scored last."""
        return self.history[-1].epoch if self.history else 0

    @property
    def objective(self) -> float | None:
        """Its last score."""
        return self.history[-1].objective if self.history else None

    @property
    def objective_se(self) -> float | None:
        """Standard error of its last score over the validation images; None where not known."""
        return self.history[-1].objective_se if self.history else None

    @property
    def over_budget(self) -> bool:
        """Whether it oversteps a limit, as far as they are known."""
        return any(excess > 0 for excess in self.constraints.values())

    @property
    def undecided(self) -> bool:
        """Whether only a calmer machine can tell if it keeps the budget; it goes on meanwhile."""
        return self.looks > 0

    @property
    def known_features(self) -> Mapping[str, float]:
        """What the surrogate sees of it."""
        return {**self.features, **self.zero_cost}

    def point_at(self, epoch: int) -> CurvePoint | None:
        """What an epoch left; None where it was not trained so far."""
        return next((point for point in self.history if point.epoch == epoch), None)

    def objective_at(self, epoch: int) -> float | None:
        """Its score after an epoch; None where it has none."""
        point = self.point_at(epoch)
        return None if point is None else point.objective


def read(trial: FrozenTrial) -> Record:
    """What the storage holds of a trial; InputError where that cannot be a record."""
    # One that waits has not asked for its parameters yet.
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    state: Any = trial.state.name.lower()
    stored = _from_plain(trial.user_attrs, trial.number)
    return Record(trial.number, state, params, dict(trial.constraints), **stored)


def progress(trial: FrozenTrial) -> tuple[Hashable, ...]:
    """What changes whenever a trial has got further, or has crashed; cheaper than its record."""
    kept = trial.user_attrs
    return (
        trial.state,
        kept.get("paused"),
        len(kept.get("history", ())),
        len(kept.get("crashes", ())),
    )


def attributes(record: Record) -> dict[str, Any]:
    """The user attributes of a trial with this record; what is as ever is left out."""
    kept = {name: getattr(record, name) for name in STORED}
    return {name: _plain(name, value) for name, value in kept.items() if value != DEFAULTS[name]}


class Entry:
    """The record of a trial at work; what is added to it is stored at once."""

    def __init__(self, trial: optuna.Trial):
        stored = _from_plain(trial.user_attrs, trial.number)
        self.trial = trial
        self.record = Record(trial.number, "running", **stored)

    def keep(self, **changes: Any) -> Record:
        """Change fields of the record; TypeError where it has no such field."""
        self.record = replace(self.record, **changes)
        for name in changes:
            self.trial.set_user_attr(name, _plain(name, getattr(self.record, name)))
        return self.record

    def keep_point(self, point: CurvePoint) -> None:
        """Add an epoch to the history; what was known of it is forgotten."""
        before = (old for old in self.record.history if old.epoch != point.epoch)
        self.keep(history=(*before, point))

    def keep_score(self, point: CurvePoint, scores: Scores) -> None:
        """Add an epoch that was scored, and report it to Optuna; twice is once."""
        self.keep_point(point)
        self.keep(scores=scores)
        if point.objective is not None and point.epoch not in _reported(self.trial):
            self.trial.report(point.objective, point.epoch)

    def constrain(self, excess: Mapping[str, float]) -> None:
        """Tell Optuna how far inside (negative) or outside each limit the trial is."""
        constrain(self.trial, excess)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time spent inside to the phase's seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record.seconds
            spent = seconds.get(phase, 0.0) + time.perf_counter() - began
            self.keep(seconds={**seconds, phase: round(spent, 3)})

    def timed_each(self, phase: str, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time that each takes to come added to the phase."""
        while True:
            with self.timed(phase):
                item = next(items, None)
            if item is None:
                return
            yield item


def _reported(trial: optuna.Trial) -> dict[int, float]:
    return latest(trial.study, trial).intermediate_values


class _Form(NamedTuple):
    """How a field's value is stored, and read back; the second argument says where it was found."""

    plain: Callable[[Any], Any]
    value: Callable[[Any, str], Any]


def _plain(name: str, value: Any) -> Any:
    return FORMS[name].plain(value) if name in FORMS and value is not None else value


def _from_plain(attributes: Mapping[str, Any], number: int) -> dict[str, Any]:
    where = f"trial {number}"
    return {
        name: FORMS[name].value(attributes[name], where) if name in FORMS else attributes[name]
        for name in STORED
        if attributes.get(name) is not None
    }


def _points(rows: Any, where: str) -> tuple[CurvePoint, ...]:
    return tuple(parse(CurvePoint, row, f"{where}: history") for row in rows)


STORED = tuple(
    each.name
    for each in fields(Record)
    if each.name not in ("number", "state", "params", "constraints", "refuted", "network")
)
"""The fields that are user attributes."""

DEFAULTS = {name: getattr(Record(0, "waiting"), name) for name in STORED}

FORMS = {
    "spec": _Form(to_dict, detector_from_dict),
    "cost": _Form(Measurement.to_dict, Measurement.from_dict),
    "scores": _Form(Scores.to_dict, Scores.from_dict),
    "train_scores": _Form(Scores.to_dict, Scores.from_dict),
    "history": _Form(lambda points: [point.to_dict() for point in points], _points),
    "crashes": _Form(list, lambda texts, where: tuple(texts)),
}
