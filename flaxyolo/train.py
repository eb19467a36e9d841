"""The command that trains one detector."""

import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from flaxyolo.base import cli
from flaxyolo.base.detections import Detections
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.checks.run import preflight, require
from flaxyolo.config import Config, fitted, read_config, write_config
from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import Feed, Keep, Streamed, open_feed, open_pixels
from flaxyolo.data.sources import Dataset, absolute, read_dataset
from flaxyolo.machine.devices import choose_device, require_device
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.nn.detector import TrainedDetector, Weights, abstract_weights
from flaxyolo.scoring.confusion import confusion_matrix
from flaxyolo.scoring.detect import evaluate, run_detector, shown
from flaxyolo.scoring.matches import case_of, match
from flaxyolo.scoring.pictures import draw_confusion, draw_precision_recall, draw_sample, sample
from flaxyolo.scoring.thresholds import thresholds
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.spec import describe, to_dict
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.distill import Teacher, teacher_for
from flaxyolo.training.follow import Followers, LogFlag, flat
from flaxyolo.training.history import Record, draw_curve, write_csv
from flaxyolo.training.hosts import Hosts, sharers
from flaxyolo.training.loop import DivergedError, Epoch, StepReport, train
from flaxyolo.training.meeting import Joined, Joining, leave
from flaxyolo.training.metrics import epoch_metrics
from flaxyolo.training.profile import profiling
from flaxyolo.training.state import has_state
from flaxyolo.training.writers import ready
from flaxyolo.weights.checkpoint import BEST, SOURCE, load_detector, save_detector
from flaxyolo.weights.transfer import Begun, Source, begun_from, read_source

log = logging.getLogger("flaxyolo.train")

PROJECT = "flaxyolo"
"""What loggers keep single trainings under."""
CURVE = "curve.png"
PICTURES = ("detections.png", "pr.png", "confusion.png")
"""Of the best detector, in the folder of the run."""


@dataclass(frozen=True)
class Flags:
    """What a run is given on the command line; the rest is in the config."""

    config: Annotated[Path, tyro.conf.Positional]
    """A file of configs/, or the best.yaml of a sweep."""
    out: Path
    """Folder of the run; the same command goes on with what is there."""
    data: str = "digits"
    """digits, scenes, coco:DIR, yolo:FILE, voc:DIR or tfds:NAME."""
    repair: bool = False
    """Leave out or mend faulty labels, in a copy under --out, instead of stopping."""
    images: Keep = "auto"
    """Where images wait: in the device's memory, in a cache on the disk, or as files."""
    image_size: int | None = None
    """Side of the square input, in pixels, instead of the config's."""
    epochs: int | None = None
    """Instead of the config's."""
    batch_size: int | None = None
    """Instead of the config's."""
    seed: int | None = None
    """Instead of the config's."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    devices: int | None = None
    """How many devices of this process share each step, instead of all (or of one, where the batch
    does not divide by them)."""
    cluster: bool = False
    """Train together with the other tasks of this job of Slurm, Kubernetes or Open MPI, or the
    other hosts of this TPU pod; each is given the same command."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Or together with processes that are started by hand: where process 0 is."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which of them this is, from 0 on; process 0 writes --out."""
    lost_after: int = 60
    """Seconds without a sign of life after which another process counts as lost; all others then
    end with code 75, and the same commands go on, also with fewer."""
    evaluate_every: int = 5
    """Epochs between evaluations; the last epoch is always evaluated."""
    no_preflight: bool = False
    """Leave out the check of data, transforms, gradients and memory before the first epoch."""
    init: Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Begin with what this detector has, whatever its network; a run that goes on does not."""
    teacher: Annotated[Path | None, tyro.conf.arg(metavar="CHECKPOINT")] = None
    """Learn from this larger detector too: its class scores, boxes and features, with the gains of
    training.distillation; its share of a step's time is told. A run that goes on needs it again."""
    log: LogFlag = ()
    """Log each epoch there too, several if you like; csv gives metrics.csv, which is always
    written, the names that the others have (train/box_loss, val/map_50)."""
    profile: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Trace a few steps into this folder for xprof or Perfetto; the dearest operations are told."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


def configure(flags: Flags, dataset: Dataset) -> Config:
    """The config of the run: the file's, with the flags' values and the data's classes."""
    config = read_config(flags.config)
    if config.training.augmentation.flip and not dataset.mirror:
        log.info("%s: a mirrored object is another one here, so flip is off", dataset.name)
    try:
        config = fitted(
            config,
            num_classes=len(dataset.class_names),
            mirror=dataset.mirror,
            image_size=flags.image_size,
            epochs=flags.epochs,
            batch_size=flags.batch_size,
            seed=flags.seed,
        )
    except ValueError as error:
        raise InputError(f"the flags: {describe(error)}") from None
    try:
        abstract_weights(config.detector)
    except ValueError as error:
        raise InputError(f"{flags.config}: {error}") from None
    return config


def claim_run(out: Path, config: Config, dataset: Dataset) -> None:
    """Write what this run is into its folder, or check that the folder holds this very run."""
    facts = {"data": dataset.name, "fingerprint": dataset.fingerprint}
    path, data_path = out / "config.yaml", out / "data.json"
    if path.exists() and read_config(path) != config:
        raise InputError(
            f"{out}: holds a run of another config (see {path}); choose another --out, "
            "or remove the folder to start anew"
        )
    if data_path.exists() and json.loads(data_path.read_text()) != facts:
        raise InputError(
            f"{out}: holds a run on other data (see {data_path}); choose another --out, "
            "or remove the folder to start anew"
        )
    out.mkdir(parents=True, exist_ok=True)
    data_path.write_text(json.dumps(facts))
    write_config(path, config)


def feed_of(flags: Flags, dataset: Dataset, size: int, hosts: Hosts) -> Feed:
    """The images to train on; of several processes each streams its own, unless --images says."""
    if hosts.processes > 1 and flags.images == "auto":
        return Streamed(open_pixels(dataset, "train", size, keep="auto"))
    return open_feed(dataset, "train", size, keep=flags.images)


def first_weights(parent: Source, begun: Begun, config: Config, feed: Feed) -> Weights:
    """What is inherited, with the fresh layers fitted to the parent where that gains."""
    task = to_mend(config.detector, parent, begun)
    if task is None:
        return begun.weights
    fit = mend(task, feed, config.training, parent, begun)
    log.info("%s: %s", parent.path, fit.describe())
    return fit.weights


def run_training(flags: Flags) -> None:
    """Train, evaluate and save; print the scores of the last and of the best epoch."""
    if flags.evaluate_every < 1:
        raise InputError(f"--evaluate-every must be at least 1, got {flags.evaluate_every}")
    cli.least_one(flags, "devices")
    choose_device(flags.device)
    joining = Joining(
        flags.cluster, flags.coordinator, flags.processes, flags.process, flags.lost_after
    )
    with Joined(joining, flags.devices) as hosts:
        require_device(flags.device)
        run_together(flags, hosts)


class Job(NamedTuple):
    """A run, as each of its processes has it."""

    flags: Flags
    hosts: Hosts
    dataset: Dataset
    config: Config
    feed: Feed
    teacher: Teacher | None
    begun: bool
    """Whether it goes on."""

    @property
    def best(self) -> Path:
        """Folder of the best detector."""
        return self.flags.out / BEST

    @property
    def facts(self) -> dict[str, Any]:
        """What its checkpoints tell of it."""
        name = self.dataset.name
        named = {"data": name, SOURCE: absolute(name)}
        return named if self.teacher is None else named | {"teacher": self.teacher.fingerprint}

    def epochs(self, **given: Any) -> Iterator[Epoch]:
        """Train."""
        config = self.config
        return train(
            config.detector,
            self.feed,
            self.dataset.class_names,
            config.training,
            run_dir=self.flags.out,
            teacher=self.teacher,
            hosts=self.hosts,
            **given,
        )


def run_together(flags: Flags, hosts: Hosts) -> None:
    """What this process has of a run: process 0 reads and writes its folder, and validates."""
    if hosts.first:
        ready(flags.log, PROJECT)
    repair = flags.out / "repaired" if flags.repair else None
    dataset = hosts.first_before_others("data", lambda: read_dataset(flags.data, repair=repair))
    config = configure(flags, dataset)
    count = sharers(config.training.batch_size, hosts)
    settings = {name: str(value) for name, value in flat(to_dict(config)).items()}
    hosts.require_same({"data": dataset.fingerprint, "devices": str(count), **settings})
    teacher = None
    if flags.teacher is not None:
        source = read_source(flags.teacher)
        teacher = teacher_for(source, config.detector, dataset.class_names)
    begun = hosts.of_first("has state", lambda: has_state(flags.out / "state"))
    start = None
    if flags.init is not None and not begun and hosts.first:
        parent, names = read_source(flags.init), dataset.class_names
        start = parent, begun_from(parent, config.detector, config.training.seed, names)
    hosts.of_first("claimed", lambda: claim_run(flags.out, config, dataset))
    keep_compiled()
    size = config.detector.image_size
    feed = hosts.first_before_others("images", lambda: feed_of(flags, dataset, size, hosts))
    job = Job(flags, hosts, dataset, config, feed, teacher, begun)
    if hosts.first:
        lead(job, start)
        return
    hosts.of_first("checked", lambda: None)
    for _ in job.epochs():
        pass


def lead(job: Job, start: tuple[Source, Begun] | None) -> None:
    """What process 0 does: check, train, validate, save, and tell."""
    flags, config, dataset = job.flags, job.config, job.dataset
    val = open_pixels(dataset, "val", config.detector.image_size, keep=flags.images)
    checked = flags.no_preflight or job.begun
    job.hosts.of_first("checked", (lambda: None) if checked else partial(check, job))
    initial = None if start is None else first_weights(*start, config, job.feed)
    record = Record(flags.out / "metrics.jsonl")
    if not job.begun:
        record.clear()
        for name in PICTURES:
            (flags.out / name).unlink(missing_ok=True)
    recorded = {row["epoch"] for row in record.rows()}
    logs = Followers(flags.log, flags.out, PROJECT)
    logs.begin(anew=not job.begun)
    follow = partial(follow_record, logs, record, config, dataset)
    with profiling(flags.profile) as profile, cli.steps_bar() as progress, logs:
        follow()
        task = progress.add_task("compiling", total=None)

        def report(step: StepReport) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            losses = " ".join(f"{k} {v:.3f}" for k, v in step.loss._asdict().items())
            text = f"epoch {step.epoch}/{config.training.epochs} {losses}"
            progress.update(
                task, description=text, completed=done, total=step.steps * config.training.epochs
            )

        for epoch in job.epochs(report=report, initial=initial, profile=profile):
            # A run that goes on begins with the epoch that was saved last.
            if epoch.number in recorded:
                continue
            row = {
                "epoch": epoch.number,
                "seconds": round(epoch.seconds, 2),
                **epoch.loss._asdict(),
            }
            last = epoch.number == config.training.epochs
            if last or epoch.number % flags.evaluate_every == 0:
                row |= validate(job, epoch, val, record, last=last)
            record.add(row)
            follow()
            if "map" in row:
                write_curve(flags.out, record, table="csv" not in flags.log)
            log.info("%s", ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
        follow(ended=True)
    write_curve(flags.out, record, table="csv" not in flags.log)
    tell_end(job, record, val)


def check(job: Job) -> None:
    """Pre-flight; InputError where a check fails."""
    require(
        preflight(
            job.config.detector,
            job.feed,
            job.dataset.train,
            job.dataset.class_names,
            job.config.training,
            fingerprint=job.dataset.fingerprint,
            teacher=job.teacher,
        )
    )


def validate(job: Job, epoch: Epoch, val: Pixels, record: Record, *, last: bool) -> dict[str, Any]:
    """An epoch's scores for the record; its detector is saved where it is the best or the last."""
    began, dataset = time.perf_counter(), job.dataset
    scores = evaluate(
        epoch.detector, dataset.val, val, dataset.class_names, dataset.category_ids
    ).to_dict()
    seconds = round(time.perf_counter() - began, 2)
    best = max((row["map"] or 0 for row in record.rows() if "map" in row), default=-1.0)
    facts = job.facts | {"epoch": epoch.number, "scores": scores}
    if (scores["map"] or 0) > best:
        save_detector(job.best, epoch.detector, facts)
    if last:
        save_detector(job.flags.out / "last", epoch.detector, facts)
    numbers = {key: value for key, value in scores.items() if key != "per_class"}
    return {"evaluation_seconds": seconds, **numbers}


def tell_end(job: Job, record: Record, val: Pixels) -> None:
    """Print the scores of the last and of the best epoch, and draw what the best one finds."""
    out = job.flags.out
    scored = [row for row in record.rows() if "map" in row]
    best = max(scored, key=lambda row: row["map"] or 0)
    for name, row in (("last", scored[-1]), ("best", best)):
        parts = ("map", "map_50", "map_small", "map_medium", "map_large")
        figures = ", ".join(f"{part} {shown(row[part])}" for part in parts)
        print(f"{name}: epoch {row['epoch']}, {figures}, in {out / name}")
    draw_outputs(out, job.dataset, val, best)
    print(f"pictures: {', '.join((CURVE, *PICTURES))} in {out}")
    print(f"next: {cli.command_line('evaluate', job.best, '--data', job.flags.data)}")


def follow_record(
    logs: Followers, record: Record, config: Config, dataset: Dataset, *, ended: bool = False
) -> None:
    """Give the loggers what they do not have of a run's record."""
    if not logs.kinds:
        return
    spec, images = config.detector, len(dataset.train)
    rows = [
        (row["epoch"], epoch_metrics(
            row["epoch"], row, row["seconds"], spec, config.training, images))
        for row in record.rows()
    ]  # fmt: skip
    settings = {"data": dataset.name, "images": images, **to_dict(config)}
    logs.follow("run", rows, settings, name=logs.home.name, figures={} if ended else None)


def write_curve(out: Path, record: Record, *, table: bool) -> None:
    """Bring the curve of a run in line with its record, and the table where no logger writes it."""
    if table:
        write_csv(record.rows(), out / "metrics.csv")
    draw_curve(record.rows(), out / CURVE, out.name)


def draw_outputs(out: Path, dataset: Dataset, val: Pixels, row: dict[str, Any]) -> None:
    """Draw what the best detector, that of this row of the record, finds in validation, and how
    well, unless the pictures are there.
    """
    if all((out / name).exists() for name in PICTURES):
        return
    found = run_detector(load_detector(out / BEST), dataset.val, val)
    truth = ground_truth(dataset.val, dataset.class_names, dataset.category_ids)
    case = case_of(truth, found)
    places = sample(len(dataset.val))
    drawn = Detections.joined([found.part(found.image == place) for place in places])
    examples = [dataset.val[place] for place in places]
    title = f"{out.name}: epoch {row['epoch']}, mAP50 {shown(row['map_50'])}"
    draw_sample(drawn, examples, dataset, out / "detections.png", title)
    draw_precision_recall(thresholds(case, match(case)), out / "pr.png", title)
    draw_confusion(confusion_matrix(case), out / "confusion.png", title)


def _short(value: float | int | None) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else shown(value)
        if value is None
        else str(value)
    )


@cli.within_limits
def _run(flags: Flags) -> None:
    try:
        run_training(flags)
    except DivergedError as error:
        raise InputError(
            f"{flags.out}: {error}; lower training.learning_rate in the config and train anew"
        ) from None


def _trained(flags: Flags) -> TrainedDetector:
    _run(flags)
    return load_detector(flags.out / BEST)


run_train = as_function(Flags, _trained, "train", "the best detector")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.train",
        description="Train one detector; the same command goes on where it was interrupted.",
    )
    return leave(cli.run(partial(_run, flags), output=flags.out, resumes=True))


if __name__ == "__main__":
    sys.exit(main())
