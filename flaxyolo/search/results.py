"""The results of a study, as its storage holds them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from flaxyolo.cost.measurement import Measurement
from flaxyolo.search.spending import CHEAP, FINAL
from flaxyolo.spec import DetectorSpec, detector_from_dict

CONFIRMED = "confirmed"
"""Attribute of a study: what fresh processes measured of winners, by the trial's number."""

INTERRUPTED = "interrupted"
"""Reason of a trial whose process ended; its parameters were enqueued again."""

MIN_TRIALS_FOR_IMPORTANCE = 4
"""Complete trials below which an importance of parameters is noise."""


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial has its outcome; one that was interrupted has not."""
    return trial.state.is_finished() and trial.user_attrs.get("reason") != INTERRUPTED


def count_finished(study: optuna.Study) -> int:
    """Trials that count towards a sweep's total."""
    return sum(map(is_finished, study.get_trials(deepcopy=False)))


@dataclass(frozen=True)
class TrialResult:
    """One trial as it is reported; `objective` is the last epoch's that was scored."""

    number: int
    state: str
    """complete, pruned, fail, running or waiting."""
    reason: str
    spec: DetectorSpec | None
    cost: Measurement | None
    scores: Mapping[str, Any] | None
    """Keys as in `Scores`."""
    objective: float | None
    epochs: int
    over_budget: bool
    refuted: bool
    """Whether it was over the budget in a fresh process, after all."""
    duplicate_of: int | None
    stage: str
    """cheap or final."""
    paused: int | None
    """Epoch after which it waits to be promoted; None if it does not."""
    finalist: int | None
    """The candidate that a final run trains."""
    seed: int | None
    """Of a final run."""
    run: str | None
    """Name of the folder of its training run, where a trained detector is."""
    origin: str | None
    """Why it was tried: the baseline, a candidate that the data advise, the surrogate's proposal,
    or a draw that explores."""
    features: Mapping[str, float]
    """What the surrogate sees of it; empty until it was measured."""
    predicted_ms: float | None
    """Latency that the table of blocks gave before it was measured."""
    crashes: int
    """How often it ended its worker."""
    screened: int
    """Specs that were drawn and judged to find it."""
    params: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    seconds: Mapping[str, float]

    @property
    def is_over(self) -> bool:
        """Whether it has its outcome; an interrupted trial is taken up by another."""
        return self.state in ("complete", "pruned", "fail") and self.reason != INTERRUPTED


def results(study: optuna.Study) -> list[TrialResult]:
    """All trials of a study, by number; the storage is their only source."""
    known = study.user_attrs.get(CONFIRMED, {})
    refuted = {int(number) for number, each in known.items() if not each["inside"]}
    found = [_result(trial, refuted) for trial in study.get_trials(deepcopy=False)]
    # Two workers may have copied a candidate's run as the same run of a finalist.
    first: dict[tuple[int | None, int | None], int] = {}
    for place, each in enumerate(found):
        if each.stage == FINAL and each.state == "complete" and each.duplicate_of is None:
            number = first.setdefault((each.finalist, each.seed), each.number)
            if number != each.number:
                found[place] = replace(each, duplicate_of=number)
    return found


def merit(result: TrialResult) -> tuple[float, float]:
    """Sorts complete trials, best first: the higher objective, and of equals the faster."""
    latency = float("inf") if result.cost is None else result.cost.latency_ms_p95
    return -(result.objective or 0.0), latency


def _result(trial: FrozenTrial, refuted: Collection[int]) -> TrialResult:
    attrs = trial.user_attrs
    spec, cost = attrs.get("spec"), attrs.get("cost")
    history = tuple(attrs.get("history", ()))
    return TrialResult(
        number=trial.number,
        state=trial.state.name.lower(),
        reason=attrs.get("reason", ""),
        spec=None if spec is None else detector_from_dict(spec, f"trial {trial.number}"),
        cost=None if cost is None else Measurement.from_dict(cost, f"trial {trial.number}"),
        scores=attrs.get("scores"),
        objective=history[-1]["objective"] if history else None,
        epochs=history[-1]["epoch"] if history else 0,
        over_budget=any(excess > 0 for excess in trial.constraints.values()),
        refuted=trial.number in refuted,
        duplicate_of=attrs.get("duplicate_of"),
        stage=attrs.get("stage", CHEAP),
        paused=attrs.get("paused"),
        finalist=attrs.get("finalist"),
        seed=attrs.get("seed"),
        run=attrs.get("run"),
        origin=attrs.get("origin"),
        features=attrs.get("features", {}) | attrs.get("zero_cost", {}),
        predicted_ms=attrs.get("predicted_ms"),
        crashes=len(attrs.get("crashes", ())),
        screened=attrs.get("screened", 0),
        # One that waits has not asked for its parameters yet.
        params=trial.params or trial.system_attrs.get("fixed_params", {}),
        history=history,
        seconds=attrs.get("seconds", {}),
    )


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each parameter mattered (PED-ANOVA, sum 1), most first; empty for few trials."""
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    return optuna.importance.get_param_importances(study)
