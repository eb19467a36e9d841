"""Train one detector: a generator of epochs, one compiled step, and the command."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array, Float, Int
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from flaxyolo import cli
from flaxyolo.boxes import anchor_points
from flaxyolo.checkpoint import has_state, load_state, save_detector, save_state
from flaxyolo.config import Config, TrainConfig, read_config, write_config
from flaxyolo.data.batches import Batch, DevicePixels, epoch_indices, make_batch, to_device
from flaxyolo.data.cache import Pixels, load_pixels
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.errors import InputError
from flaxyolo.evaluate import evaluate, shown
from flaxyolo.loss import LossTerms, detection_loss
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import TrainedDetector, Weights, graph, initial_weights
from flaxyolo.plan import Plan, make_optimizer, plan_run
from flaxyolo.spec import DetectorSpec, describe

log = logging.getLogger(__name__)


class TrainState(NamedTuple):
    """Everything that changes from step to step; saved whole, so a run resumes bit for bit."""

    step: Int[Array, ""]
    weights: Weights
    optimizer: Any
    ema: Weights


class StepReport(NamedTuple):
    """Where a run stands; `loss` is the mean of the epoch so far, before gains."""

    epoch: int
    step: int
    steps: int
    loss: LossTerms


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one finished epoch leaves: EMA weights as a detector, mean losses, seconds."""

    number: int
    detector: TrainedDetector
    loss: LossTerms
    seconds: float


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def start(plan: Plan) -> TrainState:
    """A fresh state, the same for a seed on every backend."""
    weights = initial_weights(plan.spec, plan.config.seed)
    optimizer = make_optimizer(plan).init(weights.params)
    # Copies: donated buffers must not be shared.
    return TrainState(jnp.int32(0), weights, optimizer, jax.tree.map(jnp.copy, weights))


def total_loss(
    params: Any, stats: Any, batch: Batch, plan: Plan
) -> tuple[Float[Array, ""], tuple[LossTerms, Any]]:
    """The loss of a batch, times the batch size, with its terms and the new batch statistics."""
    config, spec = plan.config, plan.spec
    network = nnx.merge(graph(spec, train=True, dtype=plan.dtype), params, stats)
    predictions = network(batch.images)
    points, strides = anchor_points(spec.image_size, spec.strides)
    terms = detection_loss(
        predictions,
        jnp.asarray(points),
        jnp.asarray(strides),
        batch.boxes,
        batch.labels,
        batch.valid,
        topk=config.tal_topk,
        alpha=config.tal_alpha,
        beta=config.tal_beta,
    )
    mean = config.box_gain * terms.box + config.class_gain * terms.cls + config.dfl_gain * terms.dfl
    return mean * config.batch_size, (terms, nnx.as_pure(nnx.state(network, nnx.BatchStat)))


@partial(jax.jit, static_argnames="plan", donate_argnames="state")
def train_step(
    plan: Plan, state: TrainState, pixels: DevicePixels, indices: Int[Array, " b"]
) -> tuple[TrainState, LossTerms, Int[Array, ""]]:
    """One step: batch and augmentation, loss, gradients, optimizer, EMA.

    Returns the new state, the loss terms and the number of boxes that found no slot.
    """
    config = plan.config
    epoch = state.step // plan.steps_per_epoch
    mosaic = epoch < config.epochs - config.augmentation.close_mosaic_epochs
    batch = make_batch(
        pixels,
        indices,
        seed=config.seed,
        epoch=epoch,
        config=config.augmentation,
        mosaic=mosaic,
        slots=plan.slots,
    )
    gradient = jax.value_and_grad(total_loss, has_aux=True)
    (_, (terms, stats)), grads = gradient(state.weights.params, state.weights.stats, batch, plan)
    updates, optimizer = make_optimizer(plan).update(grads, state.optimizer, state.weights.params)
    weights = Weights(optax.apply_updates(state.weights.params, updates), stats)
    ramp = 1 - jnp.exp(-(state.step + 1) / config.ema_ramp_steps)
    ema: Any = optax.incremental_update(weights, state.ema, 1 - config.ema_decay * ramp)
    return TrainState(state.step + 1, weights, optimizer, ema), terms, batch.dropped


def train(
    spec: DetectorSpec,
    pixels: Pixels,
    class_names: tuple[str, ...],
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    report: Callable[[StepReport], None] | None = None,
) -> Iterator[Epoch]:
    """Train, yielding every finished epoch; with `run_dir`, go on where an earlier run stopped.

    The state is saved under `run_dir/state` before an epoch is yielded, so what the caller does
    with an epoch may be done again after a crash, but is never lost.
    """
    plan = plan_run(spec, config, pixels)
    state = start(plan)
    state_path = run_dir / "state" if run_dir else None
    if state_path and has_state(state_path):
        state, _ = load_state(state_path, jax.eval_shape(lambda: state))
        log.info(
            "going on after epoch %d of %d", int(state.step) // plan.steps_per_epoch, config.epochs
        )
    device_pixels = to_device(pixels)
    step = compile_step(plan, state, device_pixels)
    for epoch in range(int(state.step) // plan.steps_per_epoch, config.epochs):
        began = time.perf_counter()
        state, loss, dropped = run_epoch(step, plan, state, device_pixels, epoch, report)
        if dropped:
            log.warning("epoch %d: %d boxes found no slot of %d", epoch + 1, dropped, plan.slots)
        if state_path:
            save_state(state_path, state, {"epoch": epoch + 1, "loss": loss._asdict()})
        seconds = time.perf_counter() - began
        # A copy: the state's own buffers are donated to the next step.
        ema = jax.tree.map(jnp.copy, state.ema)
        yield Epoch(epoch + 1, TrainedDetector(spec, ema, class_names), loss, seconds)


def compile_step(plan: Plan, state: Any, pixels: Any) -> jax.stages.Compiled:
    """The one compiled step of a run, from arrays or their shapes."""
    indices = jax.ShapeDtypeStruct((plan.config.batch_size,), jnp.int32)
    return compile_ahead(train_step, plan, state, pixels, indices)


def run_epoch(
    step: jax.stages.Compiled,
    plan: Plan,
    state: TrainState,
    pixels: DevicePixels,
    epoch: int,
    report: Callable[[StepReport], None] | None,
) -> tuple[TrainState, LossTerms, int]:
    """One epoch; the new state, mean losses, and the count of boxes without a slot."""
    batches = epoch_indices(
        len(pixels.images), plan.config.batch_size, seed=plan.config.seed, epoch=epoch
    )
    total, dropped, counted = np.zeros(3), 0, 0
    pending = []
    for number, indices in enumerate(batches, 1):
        state, terms, lost = step(state, pixels, jnp.asarray(indices))
        pending.append((number, terms, lost))
        # Read the step before, so that an accelerator never waits for Python.
        while len(pending) > (1 if number < len(batches) else 0):
            ready, terms, lost = pending.pop(0)
            values = np.array([float(term) for term in terms])
            if not np.isfinite(values).all():
                raise DivergedError(
                    f"epoch {epoch + 1}, step {ready} of {len(batches)}: the loss is not finite "
                    f"(box {values[0]}, cls {values[1]}, dfl {values[2]})"
                )
            total, dropped, counted = total + values, dropped + int(lost), ready
        if report and counted:
            report(StepReport(epoch + 1, number, len(batches), LossTerms(*(total / counted))))
    return state, LossTerms(*(total / len(batches))), dropped


@dataclass(frozen=True)
class Flags:
    """What a run is given on the command line; the rest is in the config."""

    config: Annotated[Path, tyro.conf.Positional]
    """A file of configs/, or the best.yaml of a sweep."""
    out: Path
    """Folder of the run; the same command goes on with what is there."""
    data: str = "digits"
    """digits, or coco:DIR."""
    image_size: int | None = None
    """Side of the square input, in pixels, instead of the config's."""
    epochs: int | None = None
    """Instead of the config's."""
    batch_size: int | None = None
    """Instead of the config's."""
    seed: int | None = None
    """Instead of the config's."""
    evaluate_every: int = 5
    """Epochs between evaluations; the last epoch is always evaluated."""


def configure(flags: Flags, dataset: Dataset) -> Config:
    """The config of the run: the file's, with the flags' values and the data's classes."""
    config = read_config(flags.config)
    try:
        detector = replace(
            config.detector,
            num_classes=len(dataset.class_names),
            image_size=flags.image_size or config.detector.image_size,
        )
        training = replace(
            config.training,
            epochs=flags.epochs or config.training.epochs,
            batch_size=flags.batch_size or config.training.batch_size,
            seed=config.training.seed if flags.seed is None else flags.seed,
        )
    except ValueError as error:
        raise InputError(f"the flags: {describe(error)}") from None
    return Config(detector, training)


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


def run_training(flags: Flags) -> None:
    """Train, evaluate and save; print the scores of the last and of the best epoch."""
    if flags.evaluate_every < 1:
        raise InputError(f"--evaluate-every must be at least 1, got {flags.evaluate_every}")
    dataset = read_dataset(flags.data)
    config = configure(flags, dataset)
    claim_run(flags.out, config, dataset)
    size = config.detector.image_size
    pixels, val = (load_pixels(dataset, split, size) for split in ("train", "val"))
    record = Record(flags.out / "metrics.jsonl")
    with progress_bar() as progress:
        task = progress.add_task("compiling", total=None)

        def report(step: StepReport) -> None:
            done = (step.epoch - 1) * step.steps + step.step
            losses = " ".join(f"{k} {v:.3f}" for k, v in step.loss._asdict().items())
            text = f"epoch {step.epoch}/{config.training.epochs} {losses}"
            progress.update(
                task, description=text, completed=done, total=step.steps * config.training.epochs
            )

        epochs = train(
            config.detector,
            pixels,
            dataset.class_names,
            config.training,
            run_dir=flags.out,
            report=report,
        )
        for epoch in epochs:
            last = epoch.number == config.training.epochs
            row = {
                "epoch": epoch.number,
                "seconds": round(epoch.seconds, 2),
                **epoch.loss._asdict(),
            }
            if last or epoch.number % flags.evaluate_every == 0:
                began = time.perf_counter()
                scores = evaluate(
                    epoch.detector, dataset.val, val, dataset.class_names, dataset.category_ids
                ).to_dict()
                best = max((r["map"] or 0 for r in record.rows() if "map" in r), default=-1.0)
                row["evaluation_seconds"] = round(time.perf_counter() - began, 2)
                row |= {key: value for key, value in scores.items() if key != "per_class"}
                facts = {"data": dataset.name, "epoch": epoch.number, "scores": scores}
                if (scores["map"] or 0) > best:
                    save_detector(flags.out / "best", epoch.detector, facts)
                if last:
                    save_detector(flags.out / "last", epoch.detector, facts)
            record.add(row)
            log.info("%s", ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
    scored = [row for row in record.rows() if "map" in row]
    best = max(scored, key=lambda row: row["map"] or 0)
    for name, row in (("last", scored[-1]), ("best", best)):
        parts = ("map", "map_50", "map_small", "map_medium", "map_large")
        figures = ", ".join(f"{part} {shown(row[part])}" for part in parts)
        print(f"{name}: epoch {row['epoch']}, {figures}, in {flags.out / name}")
    print(f"next: python -m flaxyolo.evaluate {flags.out / 'best'} --data {flags.data}")


@dataclass(frozen=True)
class Record:
    """The epochs of a run, a JSON line each; an epoch done again replaces its line."""

    path: Path

    def rows(self) -> list[dict[str, Any]]:
        """All epochs so far, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def add(self, row: dict[str, Any]) -> None:
        """Append an epoch, dropping what an interrupted run wrote from it on."""
        kept = [old for old in self.rows() if old["epoch"] < row["epoch"]]
        partial_path = self.path.with_suffix(".partial")
        partial_path.write_text("".join(json.dumps(r) + "\n" for r in [*kept, row]))
        partial_path.replace(self.path)


def progress_bar() -> Progress:
    """A bar on stderr with the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} steps"),
        TimeRemainingColumn(),
        console=cli.CONSOLE,
        disable=not cli.CONSOLE.is_terminal,
    )


def _short(value: float | int | None) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else shown(value)
        if value is None
        else str(value)
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.train",
        description="Train one detector; the same command goes on where it was interrupted.",
    )
    return cli.run(partial(run_training, flags), output=flags.out, resumes=True)


if __name__ == "__main__":
    sys.exit(main())
