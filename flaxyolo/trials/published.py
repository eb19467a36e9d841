"""The study that a person opens: one trial for each network, with its figures as flat attributes.

The runs of a sweep, which its workers claim and whose leases and records they keep, are a study of
their own beside it (`crew.storage.runs_name`); this one is made from those, and only ever read.
"""

import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import JAX_ENGINE
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.optuna_inside import begun, beside, constrain, delete
from flaxyolo.crew.storage import RUNS
from flaxyolo.machine.locks import held
from flaxyolo.search.controls import SCALED, Kind
from flaxyolo.search.results import NO_DRAWS
from flaxyolo.search.setting import FINAL_EPOCHS
from flaxyolo.trials.networks import Network
from flaxyolo.trials.standings import Standings

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "fail": TrialState.FAIL,
    "running": TrialState.RUNNING,
}
"""Optuna's state of a network's; what waits for the next command is RUNNING, which `ask` never
takes."""

CONTROLS: dict[Kind, str] = {
    "baseline": "the baseline",
    "YOLOv8 scaled": "no draw of the space: the parameters are those of the nearest point",
}


def publish(runs: optuna.Study, standings: Standings, folder: Path, *, ended: bool) -> optuna.Study:
    """Bring the study beside the runs in line with them; `ended` says that none is made now.

    Until the sweep ends, a network that may yet become a finalist has no outcome. A trial that is
    finished cannot be changed: where it has to, because a later command has trained more, the
    study is made anew.
    """
    with held(folder / ".publish"):
        now, outcomes = (wanted(runs, standings, over) for over in (ended, True))
        name = runs.study_name.removesuffix(RUNS)
        study = beside(runs, name)
        there = study.get_trials(deepcopy=False)
        # One that has its outcome keeps it while that is still what it would be.
        if len(there) > len(now) or any(map(_contradicts, there, outcomes)):
            delete(study)
            study, there = beside(runs, name), []
        for known, trial in zip(there, now, strict=False):
            if not known.state.is_finished():
                _bring(study, known, trial)
        for trial in now[len(there) :]:
            study.add_trial(trial)
        describe(study, runs, standings)
        return study


def attributes(network: Network) -> dict[str, Any]:
    """A network's figures, by names that tell their units; what is not known is left out."""
    record, cost, scores = network.shown, network.shown.cost, network.scores
    known: dict[str, Any] = {
        "outcome": network.note(),
        "origin": network.candidate.origin,
        "control": network.control and CONTROLS[network.control],
        "trained_as": trained_as(network),
    }
    if cost is not None:
        known |= cost_figures(cost)
    known |= scores
    known |= {
        "objective_half_width": network.half_width,
        "objective_se": network.objective_se,
        "seeds": len(network.runs) or None,
        "epochs": network.epochs or None,
        "train_seconds": network.seconds.get("train"),
        "all_seconds": sum(network.seconds.values()) or None,
        "predicted_latency_ms": network.candidate.predicted_ms,
        "run_folder": None if record.run is None else f"trials/{record.run}",
    }
    return {name: value for name, value in known.items() if value is not None}


def trained_as(network: Network) -> str:
    """Which schedule its value is of: candidates were trained for less than the others."""
    if not network.runs:
        return "candidate"
    return "finalist" if network.control is None else "control"


def cost_figures(cost: Measurement) -> dict[str, float]:
    """What a network costs, by names that tell their units; what is not known is left out."""
    known = {
        "latency_ms_p50": cost.latency_ms_p50,
        "latency_ms_p95": cost.latency_ms_p95,
        "network_ms_p50": cost.network_ms_p50,
        "fps": cost.fps,
        "vram_mib": cost.vram_mib,
        "train_vram_mib": cost.train_vram_mib,
        "params": cost.params,
        "gflops": cost.gflops,
        "image_size_px": cost.image_size,
    }
    return {name: value for name, value in known.items() if value is not None}


def wanted(runs: optuna.Study, standings: Standings, ended: bool) -> list[FrozenTrial]:
    """The trials that there should be; a network that was not begun has no parameters yet, and
    those after it wait for it, so that each keeps its number."""
    drawn = runs.get_trials(deepcopy=False)
    trials = []
    for network in standings.networks:
        source = drawn[network.candidate.number]
        if network.state == "waiting" or not source.distributions:
            break
        ends = [drawn[run.number] for run in (network.candidate, *network.runs)]
        trials.append(_trial(network, source, ends, standings.budget, ended))
    return trials


def _trial(
    network: Network, source: FrozenTrial, ends: list[FrozenTrial], budget: Budget, ended: bool
) -> FrozenTrial:
    state = STATES[network.state]
    if state == TrialState.COMPLETE and not network.runs and not ended:
        # It may become a finalist, or none.
        state = TrialState.RUNNING
    if state == TrialState.PRUNED and network.candidate.state == "complete" and not ended:
        state = TrialState.RUNNING
    cost = network.shown.cost
    excess = dict(network.candidate.constraints) if cost is None else budget.excess(cost)
    trial = create_trial(
        state=TrialState.WAITING,
        params=source.params,
        distributions=source.distributions,
        user_attrs=attributes(network),
        intermediate_values=network.history,
    )
    constrain(trial, excess, listed=True)
    trial.datetime_start = source.datetime_start or datetime.now()
    trial.state = state
    if state.is_finished():
        finished = [end.datetime_complete for end in ends if end.datetime_complete is not None]
        trial.datetime_complete = max(finished, default=trial.datetime_start)
        value = network.objective
        if state != TrialState.FAIL and value is not None:
            trial.values = [value]
    return trial


def _contradicts(known: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Whether a trial that is there cannot become the one that is wanted."""
    if known.params != wanted.params:
        return True
    if not known.state.is_finished():
        return False
    same = (known.state, known.values) == (wanted.state, wanted.values)
    return not same or known.user_attrs != wanted.user_attrs


def _bring(study: optuna.Study, known: FrozenTrial, wanted: FrozenTrial) -> None:
    """Bring a trial that runs up to date, and end it where it has its outcome."""
    trial = begun(study, known)
    for name, value in wanted.user_attrs.items():
        if known.user_attrs.get(name) != value:
            trial.set_user_attr(name, value)
    for epoch, value in wanted.intermediate_values.items():
        if epoch not in known.intermediate_values:
            trial.report(value, epoch)
    if known.constraints != wanted.constraints:
        named = {name: share for name, share in wanted.constraints.items() if not name.isdigit()}
        constrain(trial, named, listed=True)
    if wanted.state == TrialState.COMPLETE:
        study.tell(trial, wanted.values)
    elif wanted.state.is_finished():
        study.tell(trial, state=wanted.state)


def _drawn(network: Network) -> bool:
    """Whether its parameters make its network: a control may be no point of the space."""
    record = network.candidate
    if record.spec is None:
        return record.origin != SCALED
    size = record.params.get("image_size", record.spec.image_size)
    return record.origin != SCALED and size == record.spec.image_size


def describe(study: optuna.Study, runs: optuna.Study, standings: Standings) -> None:
    """What the study is about, where a person looks first."""
    facts = runs.user_attrs.get("facts", {})
    best = standings.best
    told = {
        "data": facts.get("source"),
        "budget": standings.budget.describe(),
        "objective": standings.objective.text,
        "device": facts.get("device"),
        "engine": facts.get("engine", JAX_ENGINE.name),
        "space": facts.get("space"),
        "best_trial": None if best is None else best.trial,
        "lead": standings.lead,
        NO_DRAWS: [n.number for n in standings.networks if not _drawn(n)] or None,
        FINAL_EPOCHS: runs.user_attrs.get(FINAL_EPOCHS),
        "runs": f"each training run is a trial of the study {runs.study_name!r}",
    }
    for name, value in told.items():
        if value is not None and study.user_attrs.get(name) != value:
            study.set_user_attr(name, value)
    if study.metric_names != [standings.objective.text]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([standings.objective.text])
