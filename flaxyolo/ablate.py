"""The command `ablate`: is it better, by how much, and how sure is that?"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import optuna
import tyro

from flaxyolo.ablation.analysis import Analysis
from flaxyolo.ablation.around import around_plan, read_winner, write_around
from flaxyolo.ablation.outcome import LEAST_SEEDS, conclude, remove_states, title
from flaxyolo.ablation.plan import AblationPlan, read_plan
from flaxyolo.ablation.progress import Display, outcome, tell_plan, tell_time
from flaxyolo.ablation.study import (
    Ablation,
    Task,
    add_missing,
    facts,
    open_runs,
    records_of,
)
from flaxyolo.ablation.table import markdown
from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.base.words import many
from flaxyolo.checks.run import preflight, require
from flaxyolo.config import Config, fitted, write_config
from flaxyolo.cost.measurement import device_name
from flaxyolo.crew.databases import answering
from flaxyolo.crew.leases import take_up
from flaxyolo.crew.storage import claim, known_as, locked, open_study
from flaxyolo.crew.supervise import spare_memory, supervise, worker_command
from flaxyolo.crew.task import write_task
from flaxyolo.data.feeds import Keep, open_feed
from flaxyolo.data.sources import Dataset, prefixed, read_dataset, source_name
from flaxyolo.machine.devices import default_workers, device_key, use_device
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.spec import describe

log = logging.getLogger("flaxyolo.ablate")

SEEDS = 3


@dataclass(frozen=True)
class Flags:
    """Flags of `ablate`."""

    plan: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="PLAN")] = None
    """A file of configs/ablations/, or one of your own."""
    data: str | None = None
    """digits, scenes, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME (digits; --around: the sweep's)."""
    around: Annotated[Path | None, tyro.conf.arg(metavar="BEST")] = None
    """Instead of a plan: undo the choices of a sweep's winner, such as runs/digits-8ms/best."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With --around: the file of the sweep's space, where it was not the default one. Python that
    is run, so it is not taken from the study's folder."""
    seeds: Annotated[int, tyro.conf.arg(metavar="INT")] = SEEDS
    """Runs of each arm; more can be added later, and nothing is repeated."""
    seed: int = 0
    """The first seed; the others count on from it."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Instead of the baseline's."""
    image_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Side of the square input, in pixels, instead of the baseline's."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Instead of the baseline's."""
    only: Annotated[str | None, tyro.conf.arg(metavar="ARM")] = None
    """Train this arm alone, such as on a machine of its own; then one seed is enough."""
    out: Path = Path("runs")
    """Folder of all studies; an ablation lies in its `ablations`."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Of the ablation's folder; by default the plan and the data, such as classic-digits."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Worker processes (one for each accelerator; one on a CPU)."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the runs, for many machines: postgresql://, grpc:// or sqlite:///; env:NAME takes
    the URL from that variable."""
    images: Keep = "auto"
    """Where images wait: in the device's memory, in a cache on the disk, or as files."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    no_preflight: bool = False
    """Leave out the check of data, transforms, gradients and memory before the first run."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


@cli.within_limits
def _run(flags: Flags) -> Analysis | None:
    """Train every arm with every seed, and say what may be concluded."""
    spare_memory()
    use_device(flags.device)
    check_numbers(flags)
    if (flags.plan is None) == (flags.around is None):
        raise InputError(
            "expected a plan, such as configs/ablations/classic.yaml, or --around "
            f"runs/STUDY/best, got {'none' if flags.plan is None else 'both'}"
        )
    # Read before the data, which may take a while.
    plan = None if flags.plan is None else read_plan(flags.plan)
    if flags.space is not None and flags.around is None:
        raise InputError("--space: is for --around, whose sweep drew from that file")
    winner = None if flags.around is None else read_winner(flags.around, flags.storage, flags.space)
    stem = f"around-{winner.study}" if winner else Path(flags.plan or "").stem
    source = prefixed(flags.data or (winner.source if winner else "digits"))
    folder = flags.out / "ablations" / ablation_name(flags, stem, source)
    if winner is not None:
        plan = around_plan(winner, folder)
    assert plan is not None
    ablation = prepare(flags, plan, read_dataset(source), source, folder)
    keep_compiled()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder), answering(flags.storage):
        study = open_study(folder, storage=flags.storage)
        data = ablation.data
        known = known_as(study, data.fingerprint, data.formerly)
        claim(study, facts(ablation, known, device_name()), str(folder), "--name")
        if winner is not None:
            write_around(winner, plan)
        keep_configs(ablation)
        tell_plan(ablation)
        run_open(study, ablation, flags)
        return finish(study, ablation)


run_ablate = as_function(
    Flags, _run, "ablate", "the Analysis, or None where too few runs are whole for one"
)


def check_numbers(flags: Flags) -> None:
    """InputError where a number is too small."""
    least = 1 if flags.only is not None else LEAST_SEEDS
    if flags.seeds < least:
        why = "" if least == 1 else "; one cannot tell a difference from luck"
        raise InputError(f"--seeds: expected at least {least}, got {flags.seeds}{why}")
    if not 0 <= flags.seed < 2**31 - flags.seeds:
        raise InputError(f"--seed: expected 0 to {2**31 - 1}, got {flags.seed}")
    cli.least_one(flags, "epochs", "image_size", "batch_size", "workers")


def ablation_name(flags: Flags, stem: str, source: str) -> str:
    """The name that was given, or the plan and the data: `classic-digits`."""
    if flags.name is not None:
        return cli.folder_name("--name", flags.name)
    return f"{stem}-{source_name(source)}"


def prepare(flags: Flags, plan: AblationPlan, data: Dataset, source: str, folder: Path) -> Ablation:
    """The plan, made to fit the data and the flags."""
    try:
        baseline = fitted(
            plan.baseline,
            num_classes=len(data.class_names),
            mirror=data.mirror,
            image_size=flags.image_size,
            epochs=flags.epochs,
            batch_size=flags.batch_size,
            seed=flags.seed,
        )
    except ValueError as error:
        raise InputError(f"the flags: {describe(error)}") from None
    names = [arm.name for arm in plan.arms]
    if flags.only is not None and flags.only not in names:
        raise InputError(f"--only: expected one of {', '.join(names)}, got {flags.only!r}")
    return Ablation(
        folder=folder,
        arms=plan.arms,
        configs=plan.configs(baseline),
        data=data,
        source=source,
        seeds=tuple(range(flags.seed, flags.seed + flags.seeds)),
        only=flags.only,
        keep=flags.images,
    )


def keep_configs(ablation: Ablation) -> None:
    """Write each arm's config, so that it can be trained by itself."""
    folder = ablation.folder / "arms"
    folder.mkdir(exist_ok=True)
    for arm in ablation.arms:
        write_config(folder / f"{arm.name}.yaml", ablation.configs[arm.name], arm.why)


def run_open(study: optuna.Study, ablation: Ablation, flags: Flags) -> None:
    """Train and measure what is not done yet; interrupted, say what there is."""
    new = not study.get_trials(deepcopy=False)
    step = clear(ablation) if new and not flags.no_preflight else None
    add_missing(study, ablation)
    left = take_up(study, ablation.folder)
    if left:
        log.info("going on with %s", many(len(left), "interrupted run"))
    if not open_runs(study, ablation):
        log.info("all %d runs are done", len(ablation.wanted))
        return
    workers = flags.workers or default_workers()
    tell_time(ablation, records_of(study), workers, step)
    write_task(ablation.folder, Task.of(ablation))
    try:
        watch(study, ablation, workers, flags.storage)
    except KeyboardInterrupt:
        log.warning("interrupted; what there is:")
        finish(study, ablation)
        raise


def clear(ablation: Ablation) -> float | None:
    """Pre-flight, on the baseline; InputError where a check fails. Seconds of a training step."""
    config: Config = ablation.baseline
    data = ablation.data
    feed = open_feed(data, "train", config.detector.image_size, keep=ablation.keep)
    with Gate(device_key()).training():
        done = require(
            preflight(
                config.detector,
                feed,
                data.train,
                data.class_names,
                config.training,
                fingerprint=data.fingerprint,
            )
        )
    return next((check.step_seconds for check in done if check.step_seconds), None)


def watch(study: optuna.Study, ablation: Ablation, workers: int, storage: str | None) -> None:
    """Run the workers to their end."""
    command = worker_command("flaxyolo.ablation.work", ablation.folder, workers, storage)
    display = Display(ablation, study, workers)
    with display.bars:
        supervise(
            study,
            ablation.folder,
            command,
            workers,
            changed=lambda: display.update(records_of(study)),
            draw=lambda: display.draw(records_of(study)),
        )


def finish(study: optuna.Study, ablation: Ablation) -> Analysis | None:
    """Print what may be concluded, or what there is where nothing may be."""
    remove_states(study, ablation)
    analysis = conclude(study, ablation)
    if analysis is None:
        for (arm, seed), record in records_of(study).items():
            if record.is_over:
                print(f"{arm}, seed {seed}: {outcome(record)}, in {ablation.run_folder(arm, seed)}")
        return None
    print(markdown(analysis, title(ablation)))
    folder = ablation.folder
    print(f"Table: {folder / 'ablation.md'} (.json, .csv)   Figure: {folder / 'ablation.png'}")
    return analysis


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.ablate",
        description="Change one variable at a time, with paired seeds, and say what came of it.",
    )
    return cli.run(partial(_run, flags), output=flags.out, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
