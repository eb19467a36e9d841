"""The training loop: one compiled step, and a generator of epochs. The caller decides the rest."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from flaxyolo.base.boxes import anchor_points
from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import Batch, DevicePixels, Picked, make_batch
from flaxyolo.data.feeds import Feed, Resident
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import (
    TrainedDetector,
    Weights,
    abstract_weights,
    graph,
    initial_weights,
)
from flaxyolo.nn.mesh import averaged_over_devices, devices_along, own_key, summed_over_devices
from flaxyolo.nn.regularize import randomness
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.assign import AssignConfig, Objects
from flaxyolo.training.loss import LossTerms, detection_loss
from flaxyolo.training.plan import Plan, make_optimizer, plan_run
from flaxyolo.training.state import has_state, load_state, save_state
from flaxyolo.training.vectors import as_arrays, as_vector

T = TypeVar("T")

log = logging.getLogger(__name__)

DEVICES = "devices"
"""Axis of the mesh that a batch is split over."""


class TrainState(NamedTuple):
    """Everything that changes from step to step; saved whole, so a run resumes bit for bit."""

    step: Int[Array, ""]
    weights: Weights
    optimizer: Any
    ema: Weights
    """Parameters and statistics as one vector each."""


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


class Run(NamedTuple):
    """The step that a run takes, with its state and its batches from there on."""

    step: Callable[..., Any]
    """Compiled: `state, terms, dropped = step(state, *batch)`."""
    state: TrainState
    batches: Iterator[Picked]


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def start(plan: Plan, initial: Weights | None = None) -> TrainState:
    """A fresh state, the same for a seed on every backend, or one with the `initial` weights."""
    if initial is None:
        weights = initial_weights(plan.spec, plan.config.seed)
    else:
        # Copies: donated buffers must not be shared.
        weights = jax.tree.map(jnp.copy, initial)
    optimizer, ema = _begun(_of_any_seed(plan), weights)
    return TrainState(jnp.int32(0), weights, optimizer, ema)


def _of_any_seed(plan: Plan) -> Plan:
    """What the programs of a plan are named by: every seed's has the same."""
    return replace(plan, config=replace(plan.config, seed=0))


@partial(jax.jit, static_argnames="plan")
def _begun(plan: Plan, weights: Weights) -> tuple[Any, Weights]:
    """The state of the optimizer and the average before the first step."""
    return make_optimizer(plan).init(weights.params), Weights(*map(as_vector, weights))


def total_loss(
    params: Any, stats: Any, batch: Batch, plan: Plan, key: Key[Array, ""]
) -> tuple[Float[Array, ""], tuple[LossTerms, Any]]:
    """The loss of a batch, times the batch size, with its terms and the new batch statistics.

    `key` is for the layers that drop something. Where devices share the step, `batch` is this
    one's part: their losses and terms sum to the whole batch's, the statistics are the mean.
    """
    config, spec = plan.config, plan.spec
    network = nnx.merge(graph(spec, train=True, dtype=plan.dtype), params, stats)
    with randomness(own_key(key)):
        predictions = network(batch.images)
    points, strides = anchor_points(spec.image_size, spec.strides)
    terms = detection_loss(
        predictions,
        jnp.asarray(points),
        jnp.asarray(strides),
        Objects(batch.boxes, batch.labels, batch.valid),
        AssignConfig(config.tal_topk, config.tal_alpha, config.tal_beta),
    )
    mean = config.box_gain * terms.box + config.class_gain * terms.cls + config.dfl_gain * terms.dfl
    stats = averaged_over_devices(nnx.as_pure(nnx.state(network, nnx.BatchStat)))
    return mean * config.batch_size, (terms, stats)


@partial(jax.jit, static_argnames=("plan", "mesh", "kind"), donate_argnames="state")
def train_step(
    plan: Plan,
    state: TrainState,
    pixels: DevicePixels,
    indices: Int[Array, " b"],
    seed: Int[Array, ""],
    mesh: Mesh | None = None,
    kind: type[Feed] = Resident,
) -> tuple[TrainState, LossTerms, Int[Array, ""]]:
    """One step: batch and augmentation, loss, gradients, optimizer, EMA.

    Returns the new state, the loss terms and the number of boxes that found no slot. With `mesh`
    its devices share the batch, each has the state, and all come to the same state. `kind` is that
    of the feed which the pixels are of: it says whether devices share them too. The seed is `seed`,
    whatever the plan's.
    """
    if mesh is None:
        return _step(plan, kind, state, pixels, indices, seed)
    whole, split = P(), P(DEVICES)
    # Unchecked: the gradients are summed by hand, and those of `conv2d` know of no mesh.
    step = jax.shard_map(
        partial(_step, plan, kind),
        mesh=mesh,
        in_specs=(whole, split if kind.parted else whole, split, whole),
        out_specs=whole,
        check_vma=False,
    )
    with devices_along(DEVICES):
        return step(state, pixels, indices, seed)


def _step(
    plan: Plan,
    kind: type[Feed],
    state: TrainState,
    pixels: DevicePixels,
    indices: Int[Array, " b"],
    seed: Int[Array, ""],
) -> tuple[TrainState, LossTerms, Int[Array, ""]]:
    config = plan.config
    epoch = state.step // plan.steps_per_epoch
    mosaic = epoch < config.epochs - config.augmentation.close_mosaic_epochs
    batch = make_batch(
        pixels,
        indices,
        seed=seed,
        epoch=epoch,
        config=config.augmentation,
        mosaic=mosaic,
        slots=plan.slots,
        sources=kind.sources(len(indices)),
    )
    gradient = jax.value_and_grad(total_loss, has_aux=True)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (_, (terms, stats)), grads = gradient(*state.weights, batch, plan, key)
    terms, grads = summed_over_devices((terms, grads))
    updates, optimizer = make_optimizer(plan).update(grads, state.optimizer, state.weights.params)
    weights = Weights(optax.apply_updates(state.weights.params, updates), stats)
    ramp = 1 - jnp.exp(-(state.step + 1) / config.ema_ramp_steps)
    vectors = Weights(*map(as_vector, weights))
    ema: Any = optax.incremental_update(vectors, state.ema, 1 - config.ema_decay * ramp)
    dropped = summed_over_devices(batch.dropped)
    return TrainState(state.step + 1, weights, optimizer, ema), terms, dropped


def train(
    spec: DetectorSpec,
    feed: Feed,
    class_names: tuple[str, ...],
    config: TrainConfig,
    *,
    run_dir: Path | None = None,
    report: Callable[[StepReport], None] | None = None,
    initial: Weights | None = None,
) -> Iterator[Epoch]:
    """Train, yielding every finished epoch; with `run_dir`, go on where an earlier run stopped.

    A run that goes on yields first the epoch that was saved last, in 0 seconds, and if that was its
    last one nothing else; any other run begins with `initial`, or with fresh weights. The state is
    saved under `run_dir/state` before an epoch is yielded, so what the caller does with an epoch
    may be done again after a crash, but is never lost.
    """
    plan = plan_run(spec, config, feed.pixels)
    state, first = start(plan, initial), 0
    state_path = run_dir / "state" if run_dir else None

    def epoch_of(number: int, state: TrainState, loss: LossTerms, seconds: float) -> Epoch:
        ema = jax.device_get(_on_one(state.ema))
        # Copies: the state's own buffers are donated to the next step.
        arrays = jax.tree.map(jnp.array, Weights(*map(as_arrays, ema, abstract_weights(spec))))
        return Epoch(number, TrainedDetector(spec, arrays, class_names), loss, seconds)

    if state_path and has_state(state_path):
        state, facts = load_state(state_path, jax.eval_shape(lambda: state))
        first = int(state.step) // plan.steps_per_epoch
        log.info("going on after epoch %d of %d", first, config.epochs)
        yield epoch_of(first, state, LossTerms(**facts["loss"]), 0.0)
        if first >= config.epochs:
            return
    step, state, batches = prepare(plan, state, feed, first)
    for epoch in range(first, config.epochs):
        began = time.perf_counter()
        state, loss, dropped = run_epoch(step, plan, state, batches, epoch, report)
        if dropped:
            log.warning("epoch %d: %d boxes found no slot of %d", epoch + 1, dropped, plan.slots)
        if state_path:
            save_state(state_path, _on_one(state), {"epoch": epoch + 1, "loss": loss._asdict()})
        yield epoch_of(epoch + 1, state, loss, time.perf_counter() - began)


def prepare(plan: Plan, state: TrainState, feed: Feed, first_epoch: int) -> Run:
    """Bring state and data to all devices that share the step, and compile it."""
    mesh = training_mesh(plan.config.batch_size)
    whole = None if mesh is None else NamedSharding(mesh, P())
    if whole is not None:
        state = jax.device_put(state, whole)
    batches = feed.batches(plan.config, first_epoch, whole)
    return Run(compile_step(plan, state, feed, mesh), state, batches)


def training_mesh(batch_size: int) -> Mesh | None:
    """This process's devices in a row; None where it has one, or the batch does not divide."""
    devices = jax.local_devices()
    count = len(devices)
    if count == 1:
        return None
    if batch_size % count:
        log.warning(
            "training on 1 of %d devices: a batch of %d does not divide by them", count, batch_size
        )
        return None
    log.info("training on %d devices, %d images of each batch on each", count, batch_size // count)
    return jax.make_mesh((count,), (DEVICES,), (AxisType.Auto,), devices=devices)


def _on_one(tree: T) -> T:
    """Arrays that every device of a mesh holds, on the first one alone."""
    return jax.tree.map(lambda x: x if len(x.devices()) == 1 else x.addressable_data(0), tree)


def compile_step(
    plan: Plan, state: Any, feed: Feed, mesh: Mesh | None = None
) -> jax.stages.Compiled:
    """The one compiled step of a run, from a state or its shapes; with a mesh it lies there."""
    pixels = feed.shapes(plan.config.batch_size)
    indices = jax.ShapeDtypeStruct((plan.config.batch_size,), jnp.int32)
    if mesh is None:
        # Where an array lies is part of a program's name: by shapes alone, whoever compiles a step
        # (for its memory, its training, or to go on from a checkpoint) finds the same one.
        state = jax.eval_shape(lambda: state)
    else:
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(DEVICES))
        pixels = _placed(pixels, split if feed.parted else whole)
        indices = _placed(indices, split)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    plan = _of_any_seed(plan)
    return compile_ahead(train_step, plan, state, pixels, indices, seed, mesh, type(feed))


def _placed(shapes: T, sharding: NamedSharding) -> T:
    """The same shapes, of arrays that lie there."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def run_epoch(
    step: Callable[..., Any],
    plan: Plan,
    state: TrainState,
    batches: Iterator[Picked],
    epoch: int,
    report: Callable[[StepReport], None] | None,
) -> tuple[TrainState, LossTerms, int]:
    """The next epoch of `batches`; the new state, mean losses, and boxes without a slot."""
    steps = plan.steps_per_epoch
    total, dropped, counted = np.zeros(3), 0, 0
    pending = []
    for number, batch in enumerate(islice(batches, steps), 1):
        state, terms, lost = step(state, *batch)
        pending.append((number, terms, lost))
        # Read the step before, so that an accelerator never waits for Python.
        while len(pending) > (1 if number < steps else 0):
            ready, terms, lost = pending.pop(0)
            values = np.array([float(term) for term in terms])
            if not np.isfinite(values).all():
                raise DivergedError(
                    f"epoch {epoch + 1}, step {ready} of {steps}: the loss is not finite "
                    f"(box {values[0]}, cls {values[1]}, dfl {values[2]})"
                )
            total, dropped, counted = total + values, dropped + int(lost), ready
        if report and counted:
            report(StepReport(epoch + 1, number, steps, LossTerms(*(total / counted))))
    return state, LossTerms(*(total / steps)), dropped
