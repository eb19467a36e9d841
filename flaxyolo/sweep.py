"""The command `sweep`: from images to the best detector under a budget."""

import hashlib
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import optuna
import tyro
from optuna.trial import FixedTrial, FrozenTrial
from rich.console import Console

from flaxyolo import cli, report
from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.cost import Budget, device_name
from flaxyolo.data.sources import read_dataset
from flaxyolo.data.stream import Keep, is_streamed, open_pixels
from flaxyolo.errors import InputError
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.outputs import Sweep, outcome, update_outputs
from flaxyolo.preflight import preflight, require
from flaxyolo.search.advised import enqueue_opening, learn
from flaxyolo.search.progress import Display
from flaxyolo.search.results import TrialResult, best_result, count_finished, results
from flaxyolo.search.space import (
    image_sizes_for,
    load_space,
    reference_params,
    with_image_sizes,
)
from flaxyolo.search.storage import (
    STUDY_FILE,
    claim,
    locked,
    open_study,
    take_up_interrupted,
    worker_name,
)
from flaxyolo.search.study import OutOfTimeError, run_study, run_trial
from flaxyolo.spec import to_dict
from flaxyolo.transfer import Source, read_source

log = logging.getLogger("flaxyolo.sweep")

# The schedule of a sweep without flags: it decides how long the first command takes.
TRIALS = 8
EPOCHS = 24
BATCH_SIZE = 16
LEARNING_RATE = 0.006
CLASS_GAIN = 1.0
HOURS = 0.2
"""Of the first command: digits, with the trials and epochs above."""
MOSAIC_EPOCHS = 50
"""Shorter runs do without mosaic."""

NO_CANDIDATE = "no candidate met the budget"


@dataclass(frozen=True)
class Flags:
    """Flags of `sweep`."""

    budget_ms: float
    """Largest latency of one image, in ms: the 95th percentile, with decoding and NMS."""
    budget_vram_mib: Annotated[float | None, tyro.conf.arg(metavar="MIB")] = None
    """Largest memory of detecting in one image, in MiB."""
    data: str = "digits"
    """digits, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME."""
    repair: bool = False
    """Leave out or mend faulty labels, in a copy under the study's folder, instead of stopping."""
    images: Keep = "auto"
    """Where images wait: in the device's memory, in a cache on the disk, or as files."""
    trials: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Trials in all, those of earlier runs of this study included (8)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of a trial that is not stopped early (24; a study that goes on keeps its own)."""
    hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop after so long; the same command goes on (0.2 on digits with its own schedule)."""
    study: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the study; by default the data and the budget, such as digits-8ms."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the study, such as sqlite:///studies.db, instead of a file in its folder."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of sweeps/ with a function `suggest`, instead of the default space."""
    seed: int = 0
    """Of the draws, the first weights and the order of images."""
    out: Path = Path("runs")
    """Folder of all studies."""
    preflight: bool = True
    """Check data, transforms, gradients and memory on the baseline before the first trial."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Begin every trial with the arrays of this detector that fit."""


def sweep_training(epochs: int, *, mirror: bool = True, seed: int = 0) -> TrainConfig:
    """How a candidate is trained: the usual recipe, made to fit a few epochs.

    Small networks bear a higher rate, classes are what they learn last, and mosaics pay only in
    longer runs.
    """
    recipe = Augmentation()
    return TrainConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        class_gain=CLASS_GAIN,
        warmup_epochs=1.0,
        augmentation=replace(
            recipe,
            close_mosaic_epochs=epochs if epochs < MOSAIC_EPOCHS else recipe.close_mosaic_epochs,
            flip=recipe.flip if mirror else 0.0,
        ),
        seed=seed,
    )


def study_name(flags: Flags) -> str:
    """The name that was given, or the data and the budget: `digits-8ms`, `bccd-40ms-500mib`."""
    if flags.study is not None:
        if flags.study in ("", ".", "..") or set(flags.study) & set("/\\"):
            raise InputError(
                f"--study: expected a name without slashes, got {flags.study!r}; "
                "--out names the folder it lies in"
            )
        return flags.study
    kind, _, root = flags.data.partition(":")
    name = Path(root).resolve().name if root else kind
    memory = "" if flags.budget_vram_mib is None else f"-{flags.budget_vram_mib:g}mib"
    return f"{name}-{flags.budget_ms:g}ms{memory}"


def run_sweep(flags: Flags) -> None:
    """Search, keep every output up to date, and print the table."""
    for flag, value in (("--trials", flags.trials), ("--epochs", flags.epochs)):
        if value is not None and value < 1:
            raise InputError(f"{flag}: expected at least 1, got {value}")
    if not 0 <= flags.seed < 2**31:
        raise InputError(f"--seed: expected 0 to {2**31 - 1}, got {flags.seed}")
    if flags.hours is not None and not 0 < flags.hours < math.inf:
        raise InputError(f"--hours: expected a number above 0, got {flags.hours:g}")
    deadline = time.monotonic() + 3600 * hours_of(flags)
    budget = Budget(flags.budget_ms, flags.budget_vram_mib)
    suggest = load_space(flags.space)
    source = None if flags.init is None else read_source(flags.init)
    folder = flags.out / study_name(flags)
    data = read_dataset(flags.data, repair=folder / "repaired" if flags.repair else None)
    longest = max(max(example.height, example.width) for example in data.train)
    sizes = image_sizes_for(longest, budget.latency_ms, jax.default_backend())
    advice = learn(data, sizes, BATCH_SIZE)
    for each in advice:
        log.info("advice: %s %s: %s", each.key, each.value, each.why)
    keep_compiled(flags.out)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder):
        study = open_study(folder, storage=flags.storage, seed=flags.seed)
        known = study.user_attrs.get("facts", {})
        epochs = flags.epochs or known.get("training", {}).get("epochs", EPOCHS)
        config = sweep_training(epochs, mirror=data.mirror, seed=flags.seed)
        sweep = Sweep(
            with_image_sizes(suggest, sizes),
            budget,
            data,
            flags.data,
            config,
            folder,
            advice,
            flags.images,
        )
        claim(study, facts(sweep, flags, source), str(folder))
        study = open_study(folder, storage=flags.storage, seed=flags.seed, epochs=epochs)
        if flags.preflight and not study.get_trials(deepcopy=False):
            clear(sweep)
        trials = flags.trials or TRIALS
        try:
            search(study, sweep, trials=trials, deadline=deadline, source=source)
        except OutOfTimeError:
            log.info(
                "the time is up after %d of %d trials; the same command goes on",
                count_finished(study),
                trials,
            )
            update_outputs(results(study), sweep)
        finish(results(study), sweep)


def hours_of(flags: Flags) -> float:
    """How long this run of the command may take, in hours."""
    if flags.hours is not None:
        return flags.hours
    own_schedule = flags.trials is not None or flags.epochs is not None
    return HOURS if flags.data == "digits" and not own_schedule else math.inf


def facts(sweep: Sweep, flags: Flags, source: Source | None = None) -> dict[str, Any]:
    """What must not change while a study grows: its trials could not be compared."""
    space = "default"
    if flags.space is not None:
        digest = hashlib.sha256(flags.space.read_bytes()).hexdigest()[:12]
        space = f"{flags.space.name} ({digest})"
    return {
        "data": sweep.data.name,
        "fingerprint": sweep.data.fingerprint,
        "source": sweep.source,
        "budget": {
            "latency_ms": sweep.budget.latency_ms,
            "vram_mib": sweep.budget.vram_mib,
        },
        "space": space,
        "training": to_dict(sweep.config),
        "init": None if source is None else source.fingerprint,
        "device": device_name(),
    }


def clear(sweep: Sweep) -> None:
    """Pre-flight, on the baseline; InputError where a check fails."""
    baseline = sweep.suggest(FixedTrial(reference_params(sweep.suggest)))
    spec = replace(baseline, num_classes=len(sweep.data.class_names))
    pixels = open_pixels(sweep.data, "train", spec.image_size, keep=sweep.keep)
    require(
        preflight(
            spec,
            pixels,
            sweep.data.train,
            sweep.data.class_names,
            sweep.config,
            streamed=is_streamed(pixels, sweep.keep),
        )
    )


def search(
    study: optuna.Study,
    sweep: Sweep,
    *,
    trials: int,
    deadline: float = math.inf,
    source: Source | None = None,
) -> None:
    """Run trials up to this number in all; every output is up to date after each."""
    worker = worker_name(sweep.folder)
    left = take_up_interrupted(study, worker)
    if left:
        log.info("going on with %d interrupted trial%s", left, "" if left == 1 else "s")
    enqueue_opening(study, sweep.suggest, sweep.advice)
    update_outputs(results(study), sweep)
    with Display(study, trials) as display:
        objective = partial(
            run_trial,
            suggest=sweep.suggest,
            budget=sweep.budget,
            data=sweep.data,
            config=sweep.config,
            folder=sweep.runs,
            report=display.show,
            keep=sweep.keep,
            source=source,
            deadline=deadline,
        )

        def after(trial: FrozenTrial) -> None:
            found = results(study)
            result = found[trial.number]
            update_outputs(found, sweep)
            display.finish(result, outcome(result))

        run_study(study, objective, trials=trials, worker=worker, after=after, deadline=deadline)


def finish(found: list[TrialResult], sweep: Sweep) -> None:
    """Print the table and what to do next; InputError where no candidate met the budget."""
    told = Console(highlight=False, markup=False)
    if not told.is_terminal:
        told.width = max(told.width, 160)
    told.print(report.table(sweep.report(found)))
    for line in sweep.report(found).advice:
        told.print(f"Advice: {line}", soft_wrap=True)
    best = best_result(found)
    if best is None or best.cost is None:
        raise InputError(nothing_found(found, sweep.budget))
    folder = sweep.folder
    told.print(
        f"Best: trial {best.number}, {outcome(best)}, {best.cost.image_size} px", soft_wrap=True
    )
    told.print(
        f"Checkpoint: {folder / 'best'}   Pictures: {folder / 'detections.png'}", soft_wrap=True
    )
    if (folder / STUDY_FILE).exists():
        told.print(f"Look closer: optuna-dashboard {folder / STUDY_FILE}", soft_wrap=True)
    told.print(
        f"Next, train it for longer: python -m flaxyolo.train {folder / 'best.yaml'} "
        f"--data {sweep.source} --epochs {10 * sweep.config.epochs} --out {folder}-trained",
        soft_wrap=True,
    )


def nothing_found(found: list[TrialResult], budget: Budget) -> str:
    """Why there is no best detector, with the nearest candidate and its figure."""
    measured = [result for result in found if result.cost is not None]
    if not measured:
        return f"{NO_CANDIDATE}: none of the {len(found)} could be measured; see the table"
    fastest = min(measured, key=lambda result: result.cost.latency_ms_p95 if result.cost else 0.0)
    assert fastest.cost is not None
    inside = [result for result in measured if result.cost and budget.allows(result.cost)]
    figures = (
        f"the fastest of {len(measured)} measured is trial {fastest.number} with "
        f"{fastest.cost.latency_ms_p95:.2f} ms p95 and {fastest.cost.vram_mib:.1f} MiB"
    )
    if inside:
        return f"{len(inside)} candidates met the budget but none finished its training; {figures}"
    return (
        f"{NO_CANDIDATE} ({budget.describe()}): {figures}; raise the budget, or name a space "
        "of smaller networks with --space"
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.sweep",
        description="Search for the best detector under a budget; the same command goes on.",
    )
    return cli.run(partial(run_sweep, flags), output=flags.out, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
