"""One trial of a sweep: a detector is drawn, measured, and trained as far as it is worth it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna

from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.again import settles
from flaxyolo.cost.budget import Budget, cheap_excess, cheap_overrun, overrun
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import keep_memory, with_training_memory
from flaxyolo.cost.target import on_target
from flaxyolo.crew.phases import (
    Prepared,
    Scored,
    curve_point,
    measured,
    prepared,
    scored,
    trained,
    validated,
)
from flaxyolo.crew.record import FINAL, Entry
from flaxyolo.crew.surroundings import ALONE, OutOfTimeError, PausedError, Stage, Surroundings
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.scoring.curves import curves
from flaxyolo.scoring.diagnosis import diagnose
from flaxyolo.scoring.matches import match
from flaxyolo.scoring.mistakes import mistakes
from flaxyolo.scoring.thresholds import thresholds
from flaxyolo.search.features import features
from flaxyolo.search.results import read_records
from flaxyolo.search.setting import Sweep
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source

LOOKS = 3
"""Measurements on a busy machine after which the last decides all the same."""
ERRORS_FILE = "errors.json"
"""In a finished run's folder: kinds of its errors, confusion and calibration."""
CURVES_FILE = "curves.json"
"""There too: precision against recall, and the intervals of its scores over the images."""
MISTAKES_FILE = "mistakes.json"
"""There too: the worst errors of each kind, as small pictures."""


def run_trial(
    trial: optuna.Trial, *, sweep: Sweep, until: int, around: Surroundings = ALONE
) -> float:
    """Draw a detector, measure it, and train it to an epoch if it fits. Returns its objective.

    Everything learnt is stored in the trial, and a trial that was paused or interrupted goes on
    from there; the trained detector is saved under `sweep.runs`. TrialPruned where it ends early,
    PausedError where `until` is not the end of its schedule, or where a calmer machine has to tell
    whether it keeps the budget; OutOfTimeError where the next score would come too late.
    """
    entry = Entry(trial)
    final = entry.record.stage == FINAL
    config = sweep.full(entry.record.seed or 0) if final else sweep.short
    rungs = (config.epochs,) if final else sweep.spending.rungs
    ready = prepared(drawn(entry, sweep), sweep.data, sweep.keep)
    afforded(entry, ready, config, sweep, around)
    # Candidates go without, so that many are tried; finalists and controls are alike.
    teacher = sweep.teacher if final else None
    name = run_name(ready.spec, config, sweep.fingerprint, sweep.initial, teacher)
    run_dir = sweep.runs / name
    entry.keep(run=name)
    with around.busy():
        detector, result = trained_until(until, rungs, entry, ready, config, sweep, around)
    afforded_trained(entry, ready, detector, sweep, around)
    save_trained(run_dir, entry, detector, result, ready)
    return sweep.objective.value(result.scores)


def drawn(entry: Entry, sweep: Sweep) -> DetectorSpec:
    """The detector of the trial's parameters; TrialPruned where it was tried before, or is over
    the budget by what is known without measuring.

    One that has its detector already, as a control that is no draw of the space has, keeps it; its
    parameters are asked for all the same, since Optuna's plots want them.
    """
    asked = replace(sweep.suggest(entry.trial), num_classes=len(sweep.data.class_names))
    spec = entry.record.spec or asked
    entry.keep(spec=spec)
    prune_duplicate(entry)
    counted = count_params(spec), count_gflops(spec)
    excess = cheap_excess(sweep.budget, *counted)
    if any(share > 0 for share in excess.values()):
        entry.constrain(excess)
        raise optuna.TrialPruned(f"{cheap_overrun(sweep.budget, *counted)}; not measured")
    return spec


def afforded(
    entry: Entry, ready: Prepared, config: TrainConfig, sweep: Sweep, around: Surroundings
) -> None:
    """Measure what was not measured before, or on a busy machine; TrialPruned where it is over
    the budget."""
    budget, known = sweep.budget, entry.record.cost
    # Memory on another device is known once its program is compiled.
    here = budget if sweep.target is None else replace(budget, vram_mib=None)
    # What is trained to its end is measured with its own weights.
    open_question = entry.record.undecided and entry.record.epochs < config.epochs
    if known is None or open_question:
        cost = measured(ready, budget, entry, around, engine=sweep.engine)
        cost = cost if known is None else keep_memory(cost, known)
        keep_look(entry, here, cost)
    else:
        cost = known
    keep_cost(entry, cost)
    prune_over(entry, here, cost)
    if not around.has_time(0.0):
        raise OutOfTimeError
    around.report(Stage("compiling"))
    if cost.train_vram_mib is None:
        with around.busy(), entry.timed("compile"):
            if sweep.target is None:
                cost = with_training_memory(cost, ready.spec, config, ready.feed)
            else:
                cost = on_target(cost, ready.spec, config, sweep.target)
        keep_cost(entry, cost)
        prune_over(entry, budget, cost)


def trained_until(
    until: int,
    rungs: Sequence[int],
    entry: Entry,
    ready: Prepared,
    config: TrainConfig,
    sweep: Sweep,
    around: Surroundings,
) -> tuple[TrainedDetector, Scored]:
    """Train to the end, scored at every rung; PausedError at `until`, where that is not the end."""
    run_dir = sweep.runs / (entry.record.run or "")
    teacher = sweep.teacher if entry.record.stage == FINAL else None
    for epoch in trained(ready, config, run_dir, entry, around, sweep.initial, teacher):
        last = epoch.number == config.epochs
        if epoch.number not in rungs:
            following = min(rung for rung in rungs if rung > epoch.number)
            if not around.has_time((following - epoch.number) * epoch.seconds):
                raise OutOfTimeError
            continue
        if last or entry.record.objective_at(epoch.number) is None:
            around.report(Stage("evaluating", epoch.number - 1, config.epochs))
            result = scored(epoch.detector, ready, entry)
            objective = sweep.objective.value(result.scores)
            point = curve_point(
                epoch,
                result.scores,
                objective,
                objective_se=sweep.objective.standard_error(result.matched),
                val_loss=validated(epoch.detector, ready, config, entry),
            )
            entry.keep_score(point, result.scores)
            around.report(Stage("scored", epoch.number, config.epochs, result.told))
            if last:
                return epoch.detector, result
        if epoch.number == until:
            raise PausedError(until)
    raise AssertionError("the last epoch is scored")


def afforded_trained(
    entry: Entry,
    ready: Prepared,
    detector: TrainedDetector,
    sweep: Sweep,
    around: Surroundings,
) -> None:
    """Measure with the trained weights; TrialPruned where that is over the budget after all.

    PausedError where a calmer machine has to tell. A candidate whose figure from before leaves room
    for what training adds keeps it: what is shipped is measured once more anyway.
    """
    known = entry.record.cost
    assert known is not None, "it was measured before it was trained"
    if entry.record.stage != FINAL and settles(sweep.budget, known):
        entry.constrain(sweep.budget.excess(known))
        return
    cost = measured(ready, sweep.budget, entry, around, detector.weights, known, sweep.engine)
    cost = keep_memory(cost, known)
    keep_look(entry, sweep.budget, cost)
    keep_cost(entry, cost)
    entry.constrain(sweep.budget.excess(cost))
    prune_over(entry, sweep.budget, cost, " once trained")
    if entry.record.undecided:
        raise PausedError(entry.record.epochs)


def save_trained(
    run_dir: Path, entry: Entry, detector: TrainedDetector, result: Scored, ready: Prepared
) -> None:
    """Write the trained detector, how good it is, and where its errors are."""
    assert entry.record.cost is not None, "it was measured before it was trained"
    facts = {
        "trial": entry.record.number,
        "scores": result.scores.to_dict(),
        "cost": entry.record.cost.to_dict(),
    }
    save_detector(run_dir / "detector", detector, facts)
    diagnosis = diagnose(result.truth, result.detections)
    reached = thresholds(diagnosis.case, match(diagnosis.case))
    worst = mistakes(diagnosis, ready.data.val)
    for name, content in (
        (ERRORS_FILE, diagnosis.to_dict()),
        (CURVES_FILE, curves(reached, result.matched).to_dict()),
        (MISTAKES_FILE, [one.to_dict() for one in worst]),
    ):
        replace_file(run_dir / name, f"{json.dumps(content, indent=1)}\n")


def prune_over(entry: Entry, budget: Budget, cost: Measurement, when: str = "") -> None:
    """TrialPruned, with the constraints stored, where the cost is over the budget.

    While that is undecided, the constraints are those of the least that it may be.
    """
    if entry.record.undecided and budget.undecided(cost):
        entry.constrain(budget.least_excess(cost))
    elif not budget.allows(cost):
        entry.constrain(budget.excess(cost))
        raise optuna.TrialPruned(f"{overrun(budget, cost)}{when}")


def keep_look(entry: Entry, budget: Budget, cost: Measurement) -> None:
    """Count a measurement that leaves open whether the budget is kept; after a few it decides."""
    looks = entry.record.looks + 1 if budget.undecided(cost) else 0
    entry.keep(looks=looks if looks < LOOKS else 0)


def keep_cost(entry: Entry, cost: Measurement) -> None:
    """Store the cost, and what the surrogate sees of the detector."""
    spec = entry.record.spec
    assert spec is not None, "it was drawn before it was measured"
    seen = features(spec, latency_ms=cost.latency_ms_p50, params=cost.params, gflops=cost.gflops)
    entry.keep(cost=cost, features=seen)


def run_name(
    spec: DetectorSpec,
    config: TrainConfig,
    fingerprint: str,
    source: Source | None = None,
    teacher: Source | None = None,
) -> str:
    """Name of a run's folder: the same detector, training, data, first weights and teacher have the
    same."""
    facts = [to_dict(spec), to_dict(config), fingerprint]
    if source is not None:
        facts.append(source.fingerprint)
    if teacher is not None:
        facts.append({"teacher": teacher.fingerprint})
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def prune_duplicate(entry: Entry) -> None:
    """Prune a trial whose detector was tried before; of two that run at once the later."""
    trial, mine = entry.trial, entry.record
    for twin_trial, twin in read_records(trial.study):
        if twin.number >= mine.number:
            break
        if twin.number == mine.again:
            continue
        # Two workers may have added the same run of a finalist.
        if (twin.spec, twin.stage, twin.seed) != (
            mine.spec,
            mine.stage,
            mine.seed,
        ) or twin.duplicate_of is not None:
            continue
        entry.keep(duplicate_of=twin.number)
        if twin.is_over:
            known = {"cost": twin.cost, "scores": twin.scores, "history": twin.history}
            entry.keep(**{name: value for name, value in known.items() if value})
            # What a sampler learns from a trial: its constraints, and its last value.
            entry.constrain(twin.constraints)
            for epoch, value in twin_trial.intermediate_values.items():
                trial.report(value, epoch)
        raise optuna.TrialPruned(f"the same detector as trial {twin.number}")
