"""Why is a sweep's winner better? The plan that undoes its choices one at a time."""

import logging
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FixedTrial

from flaxyolo.ablation.paths import changed, differences
from flaxyolo.ablation.plan import BASELINE, AblationPlan, write_plan
from flaxyolo.ablation.results import Arm
from flaxyolo.base.errors import InputError
from flaxyolo.config import Config, read_config, write_config
from flaxyolo.crew.record import Record
from flaxyolo.crew.storage import STUDY_FILE, read_runs
from flaxyolo.crew.task import read_task
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.search.advised import BASELINE as BASELINE_ORIGIN
from flaxyolo.search.controls import SCALED
from flaxyolo.search.ranges import stored_ranges
from flaxyolo.search.results import results
from flaxyolo.search.setting import Task, digest_of
from flaxyolo.search.space import Suggest, load_space, with_ranges
from flaxyolo.spec import DetectorSpec, describe
from flaxyolo.weights.checkpoint import read_metadata

log = logging.getLogger(__name__)


DEFAULT = "default"
"""What a study calls the space of no file."""


class Winner(NamedTuple):
    """A sweep's best detector, with what it was drawn from."""

    study: str
    trial: int
    config: Config
    params: dict[str, Any]
    """Of the space."""
    baseline: dict[str, Any]
    """The parameters of the study's baseline."""
    suggest: Suggest
    source: str
    """The data as the sweep's user named it."""


class Undone(NamedTuple):
    """The arms of a plan around a winner, and the choices that made none, with the reason."""

    arms: tuple[Arm, ...]
    left_out: dict[str, str]


def read_winner(best: Path, storage: str | None = None, space: Path | None = None) -> Winner:
    """What `runs/<study>/best` and its study say; InputError where one of them is missing.

    `space` is the file that the sweep drew from, None for the default space: a study names its
    file, which may be anyone's, and it is not run for that.
    """
    folder = best.resolve().parent
    facts = read_metadata(best)["facts"]
    study = read_runs(folder, None if (folder / STUDY_FILE).is_file() else storage)
    records = results(study)
    won = next((record for record in records if _is_run(record, facts)), None)
    if won is None:
        raise InputError(f"{best}: expected the best detector of a sweep, which names its trial")
    candidate = won if won.finalist is None else records[won.finalist]
    if candidate.origin == SCALED:
        raise InputError(f"{best}: expected a network that the space has drawn, got the control "
                         f"{SCALED!r}, trial {won.trial}; it has no choices to undo")  # fmt: skip
    start = next(filter(_is_baseline, records), None)
    if start is None:
        raise InputError(f"{folder}: its study has no baseline to go back to")
    winner = Winner(
        study=folder.name,
        trial=won.trial,
        config=read_config(folder / "best.yaml"),
        params=dict(won.params),
        baseline=dict(start.params),
        suggest=_space(study, folder, space),
        source=study.user_attrs["facts"]["source"],
    )
    if _drawn(winner, winner.params) != winner.config.detector:
        raise InputError(
            f"{best}: the space no longer draws this detector from the parameters of trial "
            f"{won.trial}; it was changed since the sweep"
        )
    return winner


def undo(winner: Winner) -> Undone:
    """The winner with one parameter of the space set back to the baseline's, for each that differs.

    What such a network is asked beside it is answered as the baseline does.
    """
    arms: list[Arm] = []
    left_out: dict[str, str] = {}
    made: dict[DetectorSpec, str] = {winner.config.detector: "the winner"}
    for name, value in winner.params.items():
        if name not in winner.baseline:
            left_out[name] = "the baseline does not have it"
            continue
        before = winner.baseline[name]
        if before == value:
            continue
        try:
            spec = _drawn(winner, winner.params | {name: before})
            abstract_weights(spec)
        except ValueError as error:
            left_out[name] = f"{before} makes no valid detector: {describe(error)}"
            continue
        if spec in made:
            left_out[name] = f"{before} makes the same detector as {made[spec]}"
            continue
        made[spec] = f"that without {name}"
        changes = differences(winner.config, Config(spec, winner.config.training))
        # What is written is what will be read.
        assert changed(winner.config, changes, name).detector == spec
        why = f"The choice {name}: {value} undone, back to the baseline's {before}"
        joint = len(changes) > 1
        if joint:
            why += f"; one parameter of the space, which decides {len(changes)} fields"
        arms.append(Arm(_arm_name(name), changes, joint, f"{why}."))
    return Undone(tuple(arms), left_out)


def around_plan(winner: Winner, folder: Path) -> AblationPlan:
    """The plan around a winner, to be written there; choices without an arm are told."""
    arms, left_out = undo(winner)
    for name, why in left_out.items():
        log.warning("%s is not undone: %s", name, why)
    if not arms:
        raise InputError(
            f"study {winner.study}: trial {winner.trial} has no choice to undo: none of its "
            f"{len(winner.params)} parameters differs from the baseline's in a way that can be "
            "trained"
        )
    log.info("plan: of the choices of trial %d of study %s %d are undone, one at a time; %d cannot "
             "be", winner.trial, winner.study, len(arms), len(left_out))  # fmt: skip
    return AblationPlan(folder / "plan.yaml", winner.config, (Arm(BASELINE, {}), *arms))


def write_around(winner: Winner, plan: AblationPlan) -> None:
    """Write the plan, with the winner as its baseline beside it; `read_plan` reads it back."""
    config = plan.path.with_name("winner.yaml")
    write_config(config, winner.config, f"Trial {winner.trial} of study {winner.study}")
    left_out = undo(winner).left_out
    lines = [f"The choices of trial {winner.trial} of study {winner.study}, undone one at a time."]
    lines += [f"Not undone, {len(left_out)} in all:"] * bool(left_out)
    lines += [f"- {name}: {why}" for name, why in left_out.items()]
    write_plan(plan, config.name, "\n".join(lines))


def _drawn(winner: Winner, params: dict[str, Any]) -> DetectorSpec:
    detector = winner.config.detector
    with warnings.catch_warnings():
        # Of a value that this point of the space does not offer; the spec tells whether it is one.
        warnings.simplefilter("ignore", UserWarning)
        spec = winner.suggest(FixedTrial(winner.baseline | params))
    return replace(spec, num_classes=detector.num_classes)


def _is_run(record: Record, facts: dict[str, Any]) -> bool:
    """Whether a checkpoint is of this run; versions before named the number of its record."""
    if "run" in facts:
        return record.run is not None and record.run == facts["run"]
    return record.number == facts.get("trial")


def _is_baseline(record: Record) -> bool:
    return BASELINE_ORIGIN in (record.origin or "").split(" = ")


def _space(study: optuna.Study, folder: Path, path: Path | None) -> Suggest:
    """The space of a sweep, in the ranges that it was searched in."""
    known = study.user_attrs["facts"]["space"]
    if path is None and known != DEFAULT:
        raise InputError(f"{folder}: its sweep drew from {known}: name that file with --space, "
                         "which runs it")  # fmt: skip
    if path is not None and known == DEFAULT:
        raise InputError(f"--space {path}: the sweep of {folder} drew from the default space")
    suggest = load_space(None)
    if path is not None:
        if digest_of(path)[:12] not in known:
            raise InputError(f"--space {path}: is not the file of the sweep of {folder}, or was "
                             f"changed since: that was {known}")  # fmt: skip
        suggest = load_space(path)
    return with_ranges(suggest, stored_ranges(study) or read_task(folder, Task).ranges)


def _arm_name(parameter: str) -> str:
    """A name that may be a folder's; parameters such as `c4.depth` are names already."""
    return "without-" + re.sub(r"[^A-Za-z0-9._-]", "-", parameter)
