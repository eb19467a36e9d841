"""The flags of the command `sweep`, and what follows from them alone."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import Engine
from flaxyolo.cost.measurement import EngineName
from flaxyolo.cost.target import Target, read_target
from flaxyolo.data.feeds import Keep
from flaxyolo.data.sources import Dataset, source_name
from flaxyolo.deploy.engines import read_engine
from flaxyolo.machine.clock import least_seconds
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.space import Suggest, load_space
from flaxyolo.search.spending import Spending, short_schedule
from flaxyolo.training.follow import LogFlag
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
        target.require_packages()
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


def hours_of(flags: Flags) -> float:
    """How long this run of the command may take, in hours."""
    if flags.hours is not None:
        return flags.hours
    return HOURS if flags.own_schedule else math.inf
