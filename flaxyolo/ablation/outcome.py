"""What the runs of an ablation have come to so far: its table and its figure."""

import logging
import shutil
from dataclasses import replace
from typing import Any

import optuna

from flaxyolo.ablation import table
from flaxyolo.ablation.analysis import Analysis, analyse
from flaxyolo.ablation.figure import draw_differences
from flaxyolo.ablation.results import Run
from flaxyolo.ablation.study import Ablation, failures, read_runs, records_of, whole_seeds
from flaxyolo.base.detections import Detections
from flaxyolo.scoring.error_kinds import error_kinds
from flaxyolo.scoring.truth import GroundTruth, ground_truth

log = logging.getLogger(__name__)

LEAST_SEEDS = 2
"""One seed cannot tell a difference from luck."""


def conclude(study: optuna.Study, ablation: Ablation) -> Analysis | None:
    """Compare the arms over the seeds that are whole, and write the table and the figure.

    None, with the reason in the log, where there are fewer than two such seeds. What is left out
    is named.
    """
    runs, notes = _usable(read_runs(study, ablation))
    failed = failures(study)
    arms = []
    for arm in ablation.arms:
        reasons = {seed: why for (name, seed), why in failed.items() if name == arm.name}
        told = "; ".join(f"seed {seed}: {why}" for seed, why in sorted(reasons.items()))
        if reasons and sum(run.arm == arm.name for run in runs) < LEAST_SEEDS:
            notes.append(f"left out: {arm.name}, which failed ({told})")
            continue
        if reasons:
            notes.append(f"{arm.name} failed with some seeds ({told})")
        arms.append(arm)
    for note in notes:
        log.warning("%s", note)
    names = [arm.name for arm in arms]
    seeds = whole_seeds(runs, names)
    if ablation.arms[0] not in arms or len(arms) < 2 or len(seeds) < LEAST_SEEDS:
        log.info("nothing to conclude yet: %d seed%s of %d arm%s whole; a comparison takes the "
                 "baseline, an arm, and %d seeds", len(seeds), "" if len(seeds) == 1 else "s",
                 len(arms), " is" if len(arms) == 1 else "s are", LEAST_SEEDS)  # fmt: skip
        return None
    known = records_of(study)
    done = {key for key, record in known.items() if record.state == "complete"}
    missing = [key for key in ablation.wanted if key not in done and key not in failed]
    if missing:
        notes.append(
            f"not finished: {len(missing)} of {len(ablation.wanted)} runs are still to be made; "
            f"{len(seeds)} whole seeds are compared"
        )
        log.warning("%s", notes[-1])
    data = ablation.data
    analysis = analyse(
        arms,
        [run for run in runs if run.arm in names],
        ground_truth(data.val, data.class_names, data.category_ids),
        error_kinds=errors_of,
    )
    analysis = replace(analysis, notes=(*analysis.notes, *notes))
    table.write(analysis, ablation.folder, title(ablation))
    draw_differences(analysis, ablation.folder / "ablation.png", title(ablation))
    return analysis


def title(ablation: Ablation) -> str:
    """What the table and the figure are of."""
    return f"{ablation.folder.name}, on {ablation.data.name}"


def errors_of(truth: GroundTruth, detections: Detections) -> dict[str, Any]:
    """Error kinds of a run's detections, with the AP that each costs by its name."""
    found = error_kinds(truth, detections)
    kinds = {
        **found.kinds,
        "false positives": found.false_positives,
        "false negatives": found.false_negatives,
    }
    return {"cost": {name: kind.cost for name, kind in kinds.items()}, **found.to_dict()}


def remove_states(study: optuna.Study, ablation: Ablation) -> None:
    """Remove what only serves to go on with training, of runs that are complete."""
    for (arm, seed), record in records_of(study).items():
        if record.state == "complete":
            shutil.rmtree(ablation.run_folder(arm, seed) / "state", ignore_errors=True)


def _usable(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs whose detections are here, and the others in words."""
    here = [run for run in runs if (run.folder / "detections.npz").is_file()]
    return here, [
        f"left out: {run.arm}, seed {run.seed}: no detections in {run.folder}; it ran elsewhere"
        for run in runs
        if run not in here
    ]
