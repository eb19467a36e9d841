"""The parent of a sweep: the network that is trained first, and whose weights all begin with.

A network that begins with those of a trained relative scores at once what takes dozens of epochs
from fresh ones, so that short trainings tell networks apart (arXiv 1511.05641, 2006.12986). The
parent is as large as the budget allows: what grows from a small one learns no more in a few epochs
than that does (on digits 9 epochs after a small parent's 16 gave an objective of 1.74 to the small
network and 1.73 to one of three times its latency; 6 after 16 of a large one 1.45 and 1.76).

Its rate does not fall at the end, as that of its children does: they go on from the middle of a
schedule, which costs no epochs twice (arXiv 2404.06395, 2405.18392), and not from the end of one.
"""

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial

from flaxyolo.base import cli
from flaxyolo.crew.phases import prepared
from flaxyolo.machine.devices import device_key
from flaxyolo.machine.gate import Gate
from flaxyolo.scoring.detect import evaluate
from flaxyolo.search.advised import Fill
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import Suggest, reference_params
from flaxyolo.spec import DetectorSpec, detector_from_dict, to_dict
from flaxyolo.statistics.advice import candidates
from flaxyolo.training.loop import StepReport, train
from flaxyolo.training.state import goes_on
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, read_source

log = logging.getLogger(__name__)

PARENT = "parent"
"""Attribute of a study: the parent's spec."""
FOLDER = "parent"
"""In a study's folder: where the parent is."""
EPOCHS = "parent_epochs"
"""Attribute of a study: for how many epochs its parent is trained."""
DECAY = "parent_decay_share"
"""Attribute of a study: the share of those epochs over which its parent's rate falls."""
SHARE = 0.35
"""Of the time of a command, what the parent may take: without its candidates and controls there is
no answer."""
LEAST_EPOCHS = 3
TOLD_EACH = 6
"""Epochs between two lines in the log."""


def baseline_spec(sweep: Sweep, usual: Suggest) -> DetectorSpec:
    """The reference network as the data advise it, in the `usual` ranges of the space."""
    spec = usual(FixedTrial(reference_params(usual, _advised(sweep))))
    return replace(spec, num_classes=len(sweep.data.class_names))


def parent_spec(
    study: optuna.Study, sweep: Sweep, baseline: DetectorSpec, fill: Fill
) -> DetectorSpec:
    """The network that the data advise, grown into the budget; a study keeps the one that it has.

    That of a study which was begun before the kind of parent was stored is its `baseline`.
    """
    known = study.user_attrs.get(PARENT)
    if known is not None:
        return detector_from_dict(known, f"{sweep.folder}: the parent")
    if study.get_trials(deepcopy=False) or (sweep.folder / FOLDER).is_dir():
        return baseline
    params = fill(reference_params(sweep.suggest, _advised(sweep)))[0]
    spec = sweep.suggest(FixedTrial(params))
    spec = replace(spec, num_classes=len(sweep.data.class_names))
    study.set_user_attr(PARENT, to_dict(spec))
    return spec


def bounded_epochs(
    study: optuna.Study, wanted: int, epoch_seconds: float | None, seconds: float
) -> int:
    """Epochs of the parent: those that are wanted, or as many as a third of the time allows.

    An epoch was timed as `epoch_seconds`, None where none was; a study keeps its number.
    """
    known = study.user_attrs.get(EPOCHS)
    if known is not None:
        return known
    epochs = wanted
    if epoch_seconds is not None and seconds < math.inf:
        epochs = min(wanted, max(LEAST_EPOCHS, int(SHARE * seconds / epoch_seconds)))
    if epochs < wanted:
        each = cli.duration(epoch_seconds or 0.0)
        log.warning("parent: %d epochs instead of %d, as one takes %s here (--parent-epochs or "
                    "--hours for more)", epochs, wanted, each)  # fmt: skip
    study.set_user_attr(EPOCHS, epochs)
    return epochs


def with_its_rate(study: optuna.Study, sweep: Sweep) -> Sweep:
    """The sweep with the schedule that the study's parent began with.

    That of a study which was begun before schedules were stored fell, as a candidate's does.
    """
    decay = study.user_attrs.get(DECAY)
    if decay is None:
        begun = study.get_trials(deepcopy=False) or (sweep.folder / FOLDER).is_dir()
        decay = sweep.short.decay_share if begun else sweep.parent_decay
        study.set_user_attr(DECAY, decay)
    if decay > sweep.parent_decay:
        log.info("parent: its rate falls over the last %.0f %% of its epochs, as it did when this "
                 "study was begun; a new study's does not", 100 * decay)  # fmt: skip
    return replace(sweep, parent_decay=decay)


def _advised(sweep: Sweep) -> Mapping[str, Any]:
    return candidates(sweep.advice).get("advised", {})


def trained_parent(sweep: Sweep, spec: DetectorSpec) -> Source:
    """Train the parent from fresh weights, or read it where that is done; interrupted, it goes on.

    It need not keep the budget.
    """
    folder = sweep.folder / FOLDER
    if not (folder / "detector").is_dir():
        with Gate(device_key()).training():
            _train(sweep, spec, folder)
    return read_source(folder / "detector")


def _train(sweep: Sweep, spec: DetectorSpec, folder: Path) -> None:
    data, config = sweep.data, sweep.parent_training
    epochs = config.epochs
    ready = prepared(spec, data, sweep.keep)
    goes_on(folder / "state")
    spent = 0.0
    with cli.steps_bar() as progress:
        task = progress.add_task("parent: compiling", total=None)

        def report(step: StepReport) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            text = f"parent: epoch {step.epoch} of {epochs}"
            progress.update(task, description=text, completed=done, total=step.steps * epochs)

        for epoch in train(spec, ready.feed, data.class_names, config, run_dir=folder,
                           report=report):  # fmt: skip
            spent += epoch.seconds
            if epoch.number % TOLD_EACH == 0 and epoch.number < epochs:
                left = cli.duration(spent / epoch.number * (epochs - epoch.number))
                log.info("parent: %d of %d epochs, about %s left", epoch.number, epochs, left)
            if epoch.number == epochs:
                scores = evaluate(
                    epoch.detector, data.val, ready.val, data.class_names, data.category_ids
                )
                before = "" if config.decay_share else ", before its rate falls"
                log.info("parent: mAP %.3f, mAP50 %.3f%s; every network begins with its weights",
                         scores.map or 0, scores.map_50 or 0, before)  # fmt: skip
                save_detector(folder / "detector", epoch.detector, {"scores": scores.to_dict()})
    shutil.rmtree(folder / "state", ignore_errors=True)
