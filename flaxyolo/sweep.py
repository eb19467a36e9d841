"""The command `sweep`: from images to the best detector under a budget."""

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import optuna
import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.base.urls import hidden, hide_in_argv
from flaxyolo.base.words import many
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import Engine
from flaxyolo.cost.measure import forget_programs, least_seconds
from flaxyolo.cost.measurement import EngineName
from flaxyolo.cost.target import Target, read_target, require_packages
from flaxyolo.crew.databases import answering
from flaxyolo.crew.leases import take_up
from flaxyolo.crew.storage import claim, known_as, locked, move_runs, open_runs
from flaxyolo.crew.supervise import spare_memory
from flaxyolo.crew.task import write_task
from flaxyolo.data.feeds import Keep
from flaxyolo.data.sources import Dataset, prefixed, read_dataset, source_name
from flaxyolo.deploy.engines import read_engine
from flaxyolo.machine.devices import default_workers, use_device
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.search.advised import (
    affordable_sizes,
    enqueue_opening,
    expected_ms,
    expected_share,
    learn,
)
from flaxyolo.search.filling import Filler
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.ranges import USUAL
from flaxyolo.search.setting import BATCH_SIZE, FINAL_EPOCHS, Sweep, Task
from flaxyolo.search.space import (
    Ranges,
    Suggest,
    image_sizes_for,
    load_space,
    with_ranges,
)
from flaxyolo.search.spending import Spending, short_schedule
from flaxyolo.spec import DetectorSpec
from flaxyolo.statistics.rules import Advice
from flaxyolo.training.follow import Followers, LogFlag
from flaxyolo.training.writers import ready
from flaxyolo.trials.conditions import keep_conditions
from flaxyolo.trials.parent import baseline_spec, parent_spec, trained_parent
from flaxyolo.trials.prepare import (
    check_space,
    clear,
    facts,
    ranges_of,
    reference_spec,
    same_engine,
    same_search,
    with_bounded_parent,
    with_teaching,
)
from flaxyolo.trials.run import finish, tell_plan, watch
from flaxyolo.trials.swept import Swept
from flaxyolo.weights.transfer import Source, read_source

log = logging.getLogger("flaxyolo.sweep")

# The schedule of a sweep without flags: it decides how long the first command takes.
TRIALS = 12
EPOCHS = 24
FIRST_EPOCHS = 4
"""Of the first command, whose networks begin with a parent's weights."""
FIRST_PARENT_EPOCHS = 14
"""Of that parent."""
FINALISTS = 2
FIRST_FINALISTS = 1
"""Of the first command: beside it both controls are trained as long."""
SEEDS = 3
ANNOUNCE_S = 50.0
"""Left of the hours for the winner's last measurement and its pictures."""
HOURS = 0.2
"""Of the first command: digits, with the trials and epochs above."""


@dataclass(frozen=True)
class Flags:
    """Flags of `sweep`."""

    budget_ms: Annotated[float | None, tyro.conf.arg(metavar="MS")] = None
    """Largest latency of one image, in ms, with decoding and NMS."""
    budget_stat: Literal["p95", "p50"] = "p95"
    """Whether that is the 95th percentile or the median."""
    engine: EngineName = "jax"
    """What latencies are measured on, NMS included: JAX, another engine on this processor, or a
    command of yours that times each ONNX model elsewhere (a phone, another host)."""
    engine_command: Annotated[str | None, tyro.conf.arg(metavar="COMMAND")] = None
    """Of --engine command: a program that is given the path of an ONNX model, and prints
    milliseconds on its last line, one number or two (p50 p95)."""
    engine_timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """How long that may take for one model (300)."""
    budget_vram_mib: Annotated[float | None, tyro.conf.arg(metavar="MIB")] = None
    """Largest memory of detecting in one image, in MiB."""
    budget_train_vram_mib: Annotated[float | None, tyro.conf.arg(metavar="MIB")] = None
    """Largest memory of a training step on this device, in MiB, beside the data set."""
    budget_params: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """Most trainable parameters, such as 3.2e6."""
    budget_gflops: Annotated[float | None, tyro.conf.arg(metavar="NUMBER")] = None
    """Most GFLOPs of one image."""
    target: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """Judge memory on a GPU or TPU that is not in this machine: h100, l4, v5e, or a GPU's file."""
    objective: Annotated[str | None, tyro.conf.arg(metavar="SCORES")] = None
    """What is to be largest: a sum of scores such as "map_small + 0.5*map" (map_small, map_medium
    and map_large, less of those with under 100 validation boxes; a study that goes on keeps its
    own)."""
    data: str = "digits"
    """digits, scenes, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME."""
    repair: bool = False
    """Leave out or mend faulty labels, in a copy under the study's folder, instead of stopping."""
    images: Keep = "auto"
    """Where images wait: in the device's memory, in a cache on the disk, or as files."""
    trials: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Candidates in all, those of earlier runs of this study included (12)."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the full schedule (24, of the first command 4; a study that goes on keeps its
    own)."""
    short_epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the short schedule that candidates are told apart by (a third of --epochs; all of
    them below 27)."""
    search: Literal["funnel", "random"] = "funnel"
    """How candidates are chosen: by the funnel, or at random in the band under the budget and all
    trained to the end, to compare with."""
    from_scratch: bool = False
    """Train no parent first: every network begins with fresh weights."""
    parent_epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the parent, the advised network, which is trained first; all others begin with its
    weights (24, of the first command 14, or --epochs if that is more)."""
    final_epochs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Epochs of the schedule that you will train the best with in the end (10 times --epochs)."""
    finalists: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Candidates that are trained on the full schedule (2, of the first command 1), beside the
    controls."""
    seeds: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Most runs of each finalist and control, the further ones as long as it is not told apart
    from the leader (3)."""
    no_controls: bool = False
    """Leave out the full runs of the baseline and of a YOLOv8 scaled into the budget, with which
    the end compares the best."""
    hours: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Stop after so long; the same command goes on (0.2 on digits with its own schedule)."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Worker processes (one for each accelerator; one on a CPU)."""
    study: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the study; by default the data and the budget, such as digits-8ms."""
    storage: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Database of the study, for sweeps on many machines: postgresql://, grpc:// or sqlite:///;
    env:NAME takes the URL from that variable, as others see the words of a command."""
    space: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A file of sweeps/ with a function `suggest`, instead of the default space. Python that is
    run: only files that you trust."""
    seed: int = 0
    """Of the draws, the first weights and the order of images."""
    out: Path = Path("runs")
    """Folder of all studies."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    no_preflight: bool = False
    """Leave out the check of data, transforms, gradients and memory before the first trial."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Begin every trial with what this detector has, whatever its network."""
    teacher: Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Let the full runs, the controls' like the finalists', learn from this larger detector too;
    candidates do without."""
    log: LogFlag = ()
    """Log each training there too, several if you like: a run for each, csv in metrics/."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""

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

    @property
    def first(self) -> bool:
        """Whether it is the first command, and a new study of it trains a parent."""
        return self.own_schedule and self.may_have_parent

    @property
    def may_have_parent(self) -> bool:
        """Whether a new study trains a parent of its own; sweeps on many machines would train
        many."""
        return not (self.from_scratch or self.init or self.storage)


def study_name(flags: Flags) -> str:
    """The name that was given, or the data and the limits: `digits-8ms`, `bccd-40ms-500mib`."""
    if flags.study is not None:
        return cli.folder_name("--study", flags.study)
    return "-".join([source_name(flags.data), *told_limits(flags)])


def former_name(flags: Flags) -> str:
    """The name that a study without `--study` had before data.yaml was named by its folder."""
    kind, _, root = flags.data.partition(":")
    return "-".join([Path(root).resolve().name if root else kind, *told_limits(flags)])


def told_limits(flags: Flags) -> list[str]:
    """The limits as parts of a name."""
    limits = (
        (flags.budget_ms, "ms"),
        (flags.budget_vram_mib, "mib"),
        (flags.budget_train_vram_mib, "mib-train"),
        (flags.budget_params, "params"),
        (flags.budget_gflops, "gflops"),
    )
    told = [f"{limit:g}{unit}" for limit, unit in limits if limit is not None]
    engine = [flags.engine] if flags.engine != "jax" else []
    random = ["random"] if flags.search == "random" else []
    return told + ["p50"] * (flags.budget_stat == "p50") + engine + random


def spending_of(flags: Flags) -> Spending:
    """What the flags allow a new study."""
    cli.least_one(
        flags, "trials", "epochs", "short_epochs", "final_epochs", "parent_epochs", "finalists",
        "seeds", "workers",
    )  # fmt: skip
    short, epochs = schedules(flags, {})
    return Spending(
        trials=flags.trials or TRIALS,
        short_epochs=short,
        epochs=epochs,
        finalists=flags.finalists or (FIRST_FINALISTS if flags.first else FINALISTS),
        seeds=tuple(range(flags.seed, flags.seed + (flags.seeds or SEEDS))),
        controls=not flags.no_controls,
        blind=flags.search == "random",
    )


def schedules(flags: Flags, before: Mapping[str, int]) -> tuple[int, int]:
    """Epochs of the short and of the full schedule; `before` are those of a study that goes on."""
    usual = FIRST_EPOCHS if flags.first else EPOCHS
    epochs = flags.epochs or before.get("epochs", usual)
    usual = epochs if flags.search == "random" else short_schedule(epochs)
    short = flags.short_epochs or before.get("short_epochs", usual)
    if short > epochs:
        raise InputError(f"--short-epochs: expected at most --epochs {epochs}, got {short}")
    if flags.final_epochs is not None and flags.final_epochs < epochs:
        raise InputError(
            f"--final-epochs: expected at least --epochs {epochs}, got {flags.final_epochs}"
        )
    return short, epochs


def objective_of(flags: Flags, data: Dataset, before: Mapping[str, Any]) -> Objective:
    """What is to be largest; `before` are the facts of a study that goes on."""
    written = before.get("objective") if flags.objective is None else flags.objective
    return supported(support(data.val)) if written is None else Objective(written)


class Given(NamedTuple):
    """What the flags name, read."""

    budget: Budget
    spending: Spending
    suggest: Suggest
    engine: Engine
    target: Target | None
    initial: Source | None
    teacher: Source | None


def read_given(flags: Flags) -> Given:
    """Everything that can be refused before the data are read; InputError where it is."""
    if not 0 <= flags.seed < 2**31:
        raise InputError(f"--seed: expected 0 to {2**31 - 1}, got {flags.seed}")
    if flags.hours is not None and not 0 < flags.hours < math.inf:
        raise InputError(f"--hours: expected a number above 0, got {flags.hours:g}")
    budget = flags.budget()
    if flags.objective is not None:
        Objective(flags.objective)
    least_seconds()
    if not budget.limits:
        raise InputError("expected at least one limit, such as --budget-ms 8, got none")
    target = None if flags.target is None else read_target(flags.target)
    if target is not None:
        require_packages(target)
    return Given(
        budget=budget,
        engine=read_engine(flags.engine, flags.engine_command, flags.engine_timeout),
        spending=spending_of(flags),
        suggest=load_space(flags.space),
        target=target,
        initial=None if flags.init is None else read_source(flags.init),
        teacher=None if flags.teacher is None else read_source(flags.teacher),
    )


def folder_of(flags: Flags) -> Path:
    """The study's folder; says where a study of such data had another name once."""
    folder = flags.out / study_name(flags)
    if flags.study is None and not folder.exists() and (flags.out / former_name(flags)).exists():
        log.warning(
            "%s: a study of data of this name; --study %s goes on with it",
            flags.out / former_name(flags),
            former_name(flags),
        )
    return folder


class Setting(NamedTuple):
    """A sweep before its parent is trained."""

    sweep: Sweep
    ranges: Ranges
    baseline: DetectorSpec | None
    """Of a sweep that has a parent of its own."""


def settled(
    study: optuna.Study, flags: Flags, given: Given, data: Dataset, folder: Path
) -> Setting:
    """What the study searches, and how; InputError where it was begun with something else."""
    before = study.user_attrs.get("facts", {})
    same_engine(given.engine, before)
    same_search(flags.search, before)
    if given.teacher is None and before.get("teacher"):
        raise InputError("--teacher: this study was begun with one, which its full runs need "
                         "again; name another with --study")  # fmt: skip
    short, epochs = schedules(flags, before.get("schedule", {}))
    budget, engine = given.budget, given.engine
    ranges = ranges_of(study, given.suggest, longest_side(data), budget, data, flags.seed, engine)
    usual = with_ranges(given.suggest, replace(USUAL, image_sizes=ranges.image_sizes))
    expected = partial(expected_ms, budget.latency_stat, engine=engine)
    shares = affordable_sizes(expected, usual, ranges.image_sizes, budget)
    advice = learn(data, ranges.image_sizes, BATCH_SIZE, shares)
    tell_advice(advice, flags)
    parent_epochs = parent_epochs_of(flags, epochs, before)
    sweep = Sweep(
        suggest=with_ranges(given.suggest, ranges),
        budget=budget,
        data=data,
        source=flags.data,
        folder=folder,
        spending=replace(
            given.spending,
            short_epochs=short,
            epochs=epochs,
            inherited=bool(parent_epochs or (given.initial and given.initial.spec)),
        ),
        objective=objective_of(flags, data, before),
        seed=flags.seed,
        advice=advice,
        keep=flags.images,
        initial=given.initial,
        teacher=given.teacher,
        target=given.target,
        known_as=known_as(study, data.fingerprint, data.formerly),
        engine=engine,
        parent_epochs=parent_epochs,
        later_epochs=flags.final_epochs or study.user_attrs.get(FINAL_EPOCHS),
    )
    baseline = baseline_spec(sweep, usual) if parent_epochs else None
    if sweep.teacher is not None:
        sweep = with_teaching(sweep, baseline or reference_spec(sweep))
    kept = facts(sweep, space=flags.space, target=flags.target, search=flags.search)
    claim(study, kept, str(folder))
    study.set_user_attr(FINAL_EPOCHS, sweep.final_epochs)
    return Setting(sweep, ranges, baseline)


def begun(study: optuna.Study, flags: Flags, setting: Setting) -> Sweep:
    """The sweep with its plan told, its parent trained and its first candidates enqueued."""
    sweep, ranges, baseline = setting
    new = not study.get_trials(deepcopy=False)
    fill = Filler(sweep)
    parent = None if baseline is None else parent_spec(study, sweep, baseline, fill)
    step = clear(sweep, parent) if new and not flags.no_preflight else None
    hours = hours_of(flags)
    if parent is not None and flags.parent_epochs is None:
        sweep = with_bounded_parent(study, sweep, step, 3600 * hours)
    if ranges.why:
        log.info("plan: %s", ranges.why)
    share = None if parent is None else expected_share(parent, sweep.budget, sweep.engine)
    tell_plan(sweep, step, share, hours)
    if parent is not None:
        sweep = replace(sweep, initial=trained_parent(sweep, parent))
    if not sweep.spending.blind:
        enqueue_opening(study, sweep.suggest, sweep.advice, baseline, fill)
    elif sweep.spending.controls:
        enqueue_opening(study, sweep.suggest, (), baseline, fill)
    return sweep


def longest_side(data: Dataset) -> int:
    """Of the images to learn from, in pixels."""
    return max(max(example.height, example.width) for example in data.train)


@cli.within_limits
def _run(flags: Flags) -> Swept:
    """Search, keep every output up to date, and print the table."""
    began = time.time()
    spare_memory()
    use_device(flags.device)
    given = read_given(flags)
    hide_in_argv(flags.storage)
    # It is kept with the study, and shown on its page.
    shown = None if flags.storage is None else hidden(flags.storage)
    command = cli.command_line("sweep", *cli.given(replace(flags, storage=shown)))
    flags = replace(flags, data=prefixed(flags.data))
    folder = folder_of(flags)
    ready(flags.log, folder.name)
    data = read_dataset(flags.data, repair=folder / "repaired" if flags.repair else None)
    check_space(
        with_ranges(given.suggest, Ranges(image_sizes_for(longest_side(data)))), flags.space
    )
    keep_compiled()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with locked(folder), answering(flags.storage):
        move_runs(folder, flags.storage)
        study = open_runs(folder, storage=flags.storage, seed=flags.seed)
        setting = settled(study, flags, given, data, folder)
        sweep = begun(study, flags, setting)
        left = take_up(study, folder)
        if left:
            log.info("going on with %s", many(len(left), "interrupted trial"))
        workers = flags.workers or default_workers()
        keep_conditions(study, command=command, workers=workers, seed=sweep.seed,
                        spending=sweep.spending, advice=sweep.advice)  # fmt: skip
        limit = 3600 * hours_of(flags)
        deadline = began + limit - min(ANNOUNCE_S, 0.1 * limit)
        write_task(folder, Task.of(sweep, flags.space, setting.ranges, workers, deadline))
        logs = Followers(flags.log, folder, folder.name)
        logs.begin(anew=False)
        # Those of the space's ranges and of the parent, which no worker shares.
        forget_programs()
        watch(study, sweep, workers, flags.storage, began, deadline, logs)
        finish(study, sweep)
    return Swept(folder, flags.storage)


run_sweep = as_function(Flags, _run, "sweep", "a Swept with `folder`, `study` and `best`")


def parent_epochs_of(flags: Flags, epochs: int, before: Mapping[str, Any]) -> int:
    """Epochs of the study's own parent, 0 where it has none; `before` are the facts of a study that
    goes on, which keeps its own."""
    if before:
        kept = before.get("parent_epochs", 0)
        if kept and (flags.from_scratch or flags.init):
            flag = "--from-scratch" if flags.from_scratch else "--init"
            raise InputError(f"{flag}: this study has a parent, with whose weights its networks "
                             "begin; name another with --study")  # fmt: skip
        return kept
    if not flags.may_have_parent:
        return 0
    usual = FIRST_PARENT_EPOCHS if flags.first else EPOCHS
    return flags.parent_epochs or max(usual, epochs)


def tell_advice(advice: Sequence[Advice], flags: Flags) -> None:
    """Log what the data advise, why that input size, and where the other reasons are told."""
    size = next((each for each in advice if each.key == "image_size"), None)
    if size is not None:
        log.info("advice: image_size %s: %s", size.value, size.why)
    others = ", ".join(f"{each.key} {each.value}" for each in advice if each is not size)
    # That command knows of JAX's latencies.
    in_jax = flags.budget_ms if flags.engine == "jax" else None
    budget = () if in_jax is None else ("--budget-ms", f"{in_jax:g}")
    log.info("advice: %s; reasons: %s", others, cli.command_line("stats", flags.data, *budget))


def hours_of(flags: Flags) -> float:
    """How long this run of the command may take, in hours."""
    if flags.hours is not None:
        return flags.hours
    return HOURS if flags.own_schedule else math.inf


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.sweep",
        description="Search for the best detector under a budget; the same command goes on.",
    )
    return cli.run(partial(_run, flags), output=flags.out, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
