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
from typing import Annotated, Any, Literal

import jax
import optuna
import tyro
from optuna.trial import FixedTrial
from rich.console import Console

from flaxyolo import cli, report
from flaxyolo.cost import Budget, device_name
from flaxyolo.data.sources import read_dataset
from flaxyolo.data.stream import Keep, is_streamed, open_pixels
from flaxyolo.errors import InputError
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.outputs import remove_states, sweep_report, update_outputs
from flaxyolo.preflight import preflight, require
from flaxyolo.search.advised import enqueue_opening, learn
from flaxyolo.search.confirm import confirm, confirmed_line
from flaxyolo.search.devices import default_workers, device_key, pinned
from flaxyolo.search.finalists import chosen
from flaxyolo.search.gate import Gate
from flaxyolo.search.leases import bury, take_up
from flaxyolo.search.objective import DEFAULT, Objective
from flaxyolo.search.progress import Display
from flaxyolo.search.results import TrialResult, results
from flaxyolo.search.setting import BATCH_SIZE, Sweep
from flaxyolo.search.space import (
    image_sizes_for,
    load_space,
    reference_params,
    with_image_sizes,
)
from flaxyolo.search.spending import CHEAP, Spending, short_schedule
from flaxyolo.search.storage import STUDY_FILE, claim, locked, open_study
from flaxyolo.search.work import EXHAUSTED, STORAGE, Task, hand_over
from flaxyolo.search.workers import Crew, Died
from flaxyolo.spec import to_dict
from flaxyolo.transfer import read_source

log = logging.getLogger("flaxyolo.sweep")

# The schedule of a sweep without flags: it decides how long the first command takes.
TRIALS = 8
EPOCHS = 24
FINALISTS = 3
SEEDS = 3
HOURS = 0.2
"""Of the first command: digits, with the trials and epochs above, and one seed."""

NO_CANDIDATE = "no candidate met the budget"


@dataclass(frozen=True)
class Flags:
    """Flags of `sweep`."""

    budget_ms: Annotated[float | None, tyro.conf.arg(metavar="MS")] = None
    """Largest latency of one image, in ms, with decoding and NMS."""
    budget_stat: Literal["p95", "p50"] = "p95"
    """Whether that is the 95th percentile or the median."""
    budget_vram_mib: Annotated[float | None, tyro.conf.arg(metavar="MIB")] = None
    """Largest memory of detecting in one image, in MiB."""
    budget_train_vram_mib: Annotated[float | None, tyro.conf.arg(metavar="MIB")] = None
    """Largest memory of a training step on this device, in MiB, beside the data set."""
    budget_params: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """Most trainable parameters, such as 3.2e6."""
    budget_gflops: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """Most GFLOPs of one image."""
    objective: str = DEFAULT
    """What is to be largest: a sum of scores such as "map_small + 0.5*map"."""
    data: str = "digits"
    """digits, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME."""
    repair: bool = False
    """Leave out or mend faulty labels, in a copy under the study's folder, instead of stopping."""
    images: Keep = "auto"
    """Where images wait: in the device's memory, in a cache on the disk, or as files."""
    trials: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Candidates in all, those of earlier runs of this study included (8)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the full schedule (24; a study that goes on keeps its own)."""
    short_epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the short schedule that candidates are told apart by (a third of --epochs; all of
    them below 27)."""
    finalists: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Candidates that are trained on the full schedule (3)."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Runs of each finalist (3; 1 on digits with its own schedule)."""
    hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop after so long; the same command goes on (0.2 on digits with its own schedule)."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Worker processes (one for each accelerator; one on a CPU)."""
    study: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the study; by default the data and the budget, such as digits-8ms."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the study, for sweeps on many machines: postgresql://, grpc:// or sqlite:///."""
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

    def budget(self) -> Budget:
        """The limits; InputError where there is none."""
        return Budget(
            latency_ms=self.budget_ms,
            latency_stat=self.budget_stat,
            vram_mib=self.budget_vram_mib,
            train_vram_mib=self.budget_train_vram_mib,
            params=self.budget_params,
            gflops=self.budget_gflops,
        )

    @property
    def own_schedule(self) -> bool:
        """Whether it is the first command, whose spending is set so that it ends soon."""
        return self.data == "digits" and self.trials is None and self.epochs is None


def study_name(flags: Flags) -> str:
    """The name that was given, or the data and the limits: `digits-8ms`, `bccd-40ms-500mib`."""
    if flags.study is not None:
        if flags.study in ("", ".", "..") or set(flags.study) & set("/\\"):
            raise InputError(
                f"--study: expected a name without slashes, got {flags.study!r}; "
                "--out names the folder it lies in"
            )
        return flags.study
    kind, _, root = flags.data.partition(":")
    limits = (
        (flags.budget_ms, "ms"),
        (flags.budget_vram_mib, "mib"),
        (flags.budget_train_vram_mib, "mib-train"),
        (flags.budget_params, "params"),
        (flags.budget_gflops, "gflops"),
    )
    told = [f"{limit:g}{unit}" for limit, unit in limits if limit is not None]
    told += ["p50"] * (flags.budget_stat == "p50")
    return "-".join([Path(root).resolve().name if root else kind, *told])


def spending_of(flags: Flags, known: dict[str, Any]) -> Spending:
    """What the flags allow; a study that goes on keeps its schedules."""
    numbers = ("trials", "epochs", "short_epochs", "finalists", "seeds", "workers")
    for name in numbers:
        value = getattr(flags, name)
        if value is not None and value < 1:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: expected at least 1, got {value}")
    before = known.get("schedule", {})
    epochs = flags.epochs or before.get("epochs", EPOCHS)
    short = flags.short_epochs or before.get("short_epochs", short_schedule(epochs))
    if short > epochs:
        raise InputError(f"--short-epochs: expected at most --epochs {epochs}, got {short}")
    seeds = flags.seeds or (1 if flags.own_schedule else SEEDS)
    return Spending(
        trials=flags.trials or TRIALS,
        short_epochs=short,
        epochs=epochs,
        finalists=flags.finalists or FINALISTS,
        seeds=tuple(range(flags.seed, flags.seed + seeds)),
    )


def run_sweep(flags: Flags) -> None:
    """Search, keep every output up to date, and print the table."""
    began = time.time()
    if not 0 <= flags.seed < 2**31:
        raise InputError(f"--seed: expected 0 to {2**31 - 1}, got {flags.seed}")
    if flags.hours is not None and not 0 < flags.hours < math.inf:
        raise InputError(f"--hours: expected a number above 0, got {flags.hours:g}")
    budget, objective = flags.budget(), Objective(flags.objective)
    if not budget.limits:
        raise InputError("expected at least one limit, such as --budget-ms 8, got none")
    spending_of(flags, {})
    load_space(flags.space)
    initial = None if flags.init is None else read_source(flags.init)
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
        sweep = Sweep(
            suggest=with_image_sizes(load_space(flags.space), sizes),
            budget=budget,
            data=data,
            source=flags.data,
            folder=folder,
            spending=spending_of(flags, study.user_attrs.get("facts", {})),
            objective=objective,
            seed=flags.seed,
            advice=advice,
            keep=flags.images,
            initial=initial,
        )
        claim(study, facts(sweep, flags), str(folder))
        new = not study.get_trials(deepcopy=False)
        step = clear(sweep) if flags.preflight and new else None
        tell_plan(sweep, step, hours_of(flags))
        enqueue_opening(study, sweep.suggest, advice)
        left = take_up(study, folder)
        if left:
            log.info("going on with %d interrupted trial%s", len(left), "s" * (len(left) > 1))
        workers = flags.workers or default_workers()
        deadline = began + 3600 * hours_of(flags)
        hand_over(Task(sweep, flags.space, sizes, workers, deadline))
        watch(study, sweep, workers, flags.storage)
        finish(study, sweep)


def hours_of(flags: Flags) -> float:
    """How long this run of the command may take, in hours."""
    if flags.hours is not None:
        return flags.hours
    return HOURS if flags.own_schedule else math.inf


def facts(sweep: Sweep, flags: Flags) -> dict[str, Any]:
    """What must not change while a study grows: its trials could not be compared."""
    space = "default"
    if flags.space is not None:
        digest = hashlib.sha256(flags.space.read_bytes()).hexdigest()[:12]
        space = f"{flags.space.name} ({digest})"
    return {
        "data": sweep.data.name,
        "fingerprint": sweep.data.fingerprint,
        "source": sweep.source,
        "budget": sweep.budget.to_dict(),
        "objective": sweep.objective.text,
        "space": space,
        "schedule": {
            "short_epochs": sweep.spending.short_epochs,
            "epochs": sweep.spending.epochs,
        },
        "training": to_dict(sweep.short),
        "init": None if sweep.initial is None else sweep.initial.fingerprint,
        "device": device_name(),
    }


def clear(sweep: Sweep) -> float | None:
    """Pre-flight, on the baseline; InputError where a check fails. Seconds of a training step."""
    baseline = sweep.suggest(FixedTrial(reference_params(sweep.suggest)))
    spec = replace(baseline, num_classes=len(sweep.data.class_names))
    pixels = open_pixels(sweep.data, "train", spec.image_size, keep=sweep.keep)
    with Gate(device_key()).training():
        done = require(
            preflight(
                spec,
                pixels,
                sweep.data.train,
                sweep.data.class_names,
                sweep.short,
                streamed=is_streamed(pixels, sweep.keep),
            )
        )
    return next((check.step_seconds for check in done if check.step_seconds), None)


def tell_plan(sweep: Sweep, step_seconds: float | None, hours: float) -> None:
    """Log what will be spent, with its expected time where a training step was timed."""
    log.info("plan: %s", sweep.spending.describe())
    if step_seconds is not None:
        steps = -(-len(sweep.data.train) // BATCH_SIZE) * sweep.spending.training_epochs
        told = cli.duration(steps * step_seconds)
        log.info("plan: about %s of training at the baseline's pace, if all are inside the budget; "
                 "compiling and measuring come on top", told)  # fmt: skip
    if hours < math.inf:
        log.info("plan: ends after %s at the latest, finalists first; the same command goes on",
                 cli.duration(3600 * hours))  # fmt: skip


def watch(study: optuna.Study, sweep: Sweep, workers: int, storage: str | None) -> None:
    """Run the workers to their end; every output is up to date after each change."""
    gate = Gate(device_key())

    def command(index: int) -> tuple[list[str], dict[str, str]]:
        environment = pinned(index, workers)
        if storage is not None:
            environment[STORAGE] = storage
        argv = [sys.executable, "-m", "flaxyolo.search.work", str(sweep.folder), str(index)]
        return argv, environment

    found = results(study)
    with (
        Crew(sweep.folder, command, workers) as crew,
        Display(sweep, found, workers) as display,
    ):
        update_outputs(found, sweep, gate)
        while not crew.done:
            mark = tuple((each.number, each.state, each.epochs, each.crashes) for each in found)
            for event in crew.poll(mark):
                if not isinstance(event, Died):
                    continue
                log.warning("a worker ended and is started again: %s; its log is %s",
                            event.reason, event.log)  # fmt: skip
                crash = event.reason if event.crashed else None
                bury(study, sweep.folder, event.worker, crash=crash, log_file=event.log)
            found = results(study)
            if display.update(found):
                update_outputs(found, sweep, gate)
    found = results(study)
    display.update(found)
    update_outputs(found, sweep, gate)


def finish(study: optuna.Study, sweep: Sweep) -> None:
    """Print the table and what to do next; InputError where no candidate met the budget."""
    gate = Gate(device_key())
    confirm(study, sweep, gate)
    found = results(study)
    update_outputs(found, sweep, gate)
    cheap = sum(each.stage == CHEAP for each in found)
    exhausted = study.user_attrs.get(EXHAUSTED, False)
    if all(each.is_over for each in found) and (cheap >= sweep.spending.trials or exhausted):
        remove_states(sweep)
    else:
        log.info(
            "the time is up after %d of %d candidates; the same command goes on",
            sum(each.stage == CHEAP and each.is_over for each in found),
            sweep.spending.trials,
        )
    told = Console(highlight=False, markup=False)
    if not told.is_terminal:
        told.width = max(told.width, 160)
    shown = sweep_report(found, sweep)
    told.print(report.table(shown))
    for line in shown.told:
        told.print(line, soft_wrap=True)
    best = chosen(found)
    if best is None or best.cost is None:
        raise InputError(nothing_found(found, sweep.budget))
    folder = sweep.folder
    told.print(
        f"Best: trial {best.number}, {report.outcome(best)}, {best.cost.image_size} px",
        soft_wrap=True,
    )
    if again := confirmed_line(study, best.number):
        told.print(again, soft_wrap=True)
    told.print(
        f"Checkpoint: {folder / 'best'}   Pictures: {folder / 'detections.png'}", soft_wrap=True
    )
    if (folder / STUDY_FILE).exists():
        told.print(f"Look closer: optuna-dashboard {folder / STUDY_FILE}", soft_wrap=True)
    told.print(
        f"Next, train it for longer: python -m flaxyolo.train {folder / 'best.yaml'} "
        f"--data {sweep.source} --epochs {10 * sweep.spending.epochs} --out {folder}-trained",
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
