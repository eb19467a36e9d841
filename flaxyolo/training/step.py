"""What a training compiles: its state, the loss, and the one step that changes the state."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, Key

from flaxyolo.base.boxes import anchor_points
from flaxyolo.data.batches import Batch, DevicePixels, make_batch
from flaxyolo.data.feeds import Feed, Resident
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import Fused, Weights, graph, initial_weights
from flaxyolo.nn.mesh import averaged_over_devices, devices_along, own_key, summed_over_devices
from flaxyolo.nn.regularize import randomness
from flaxyolo.training.assign import AssignConfig, Objects
from flaxyolo.training.distill import (
    TaughtTerms,
    ask,
    new_projections,
    seen,
    teaching_loss,
    weighted,
)
from flaxyolo.training.hosts import DEVICES
from flaxyolo.training.loss import LossTerms, detection_loss
from flaxyolo.training.plan import Plan, make_optimizer
from flaxyolo.training.vectors import as_vector

T = TypeVar("T")
Terms = LossTerms | TaughtTerms


class TrainState(NamedTuple):
    """Everything that changes from step to step; saved whole, so a run resumes bit for bit."""

    step: Int[Array, ""]
    weights: Weights
    optimizer: Any
    ema: Weights
    """Parameters and statistics as one vector each."""
    projections: dict[str, Any]
    """From its features to a teacher's; empty without one."""


def start(plan: Plan, initial: Weights | None = None) -> TrainState:
    """A fresh state, the same for a seed on every backend, or one with the `initial` weights."""
    if initial is None:
        weights = initial_weights(plan.spec, plan.config.seed)
    else:
        # Copies: donated buffers must not be shared.
        weights = jax.tree.map(jnp.copy, initial)
    projections = new_projections(plan.lesson, plan.spec, plan.config.seed)
    optimizer, ema = _begun(_of_any_seed(plan), weights, projections)
    return TrainState(jnp.int32(0), weights, optimizer, ema, projections)


def _of_any_seed(plan: Plan) -> Plan:
    """What the programs of a plan are named by: every seed's has the same."""
    return replace(plan, config=replace(plan.config, seed=0))


@partial(jax.jit, static_argnames="plan")
def _begun(plan: Plan, weights: Weights, projections: dict[str, Any]) -> tuple[Any, Weights]:
    """The state of the optimizer and the average before the first step."""
    learnt = weights.params, projections
    return make_optimizer(plan).init(learnt), Weights(*map(as_vector, weights))


def total_loss(
    params: Any,
    stats: Any,
    batch: Batch,
    plan: Plan,
    key: Key[Array, ""],
    projections: dict[str, Any] | None = None,
    teacher: Fused | None = None,
) -> tuple[Float[Array, ""], tuple[Terms, Any]]:
    """The loss of a batch, times the batch size, with its terms and the new batch statistics.

    `key` is for the layers that drop something; a plan with a lesson needs the `teacher` that gives
    it, and the student's `projections`. Where devices share the step, `batch` is this one's part:
    their losses and terms sum to the whole batch's, the statistics are the mean.
    """
    config, spec = plan.config, plan.spec
    network = nnx.merge(graph(spec, train=True, dtype=plan.dtype), params, stats)
    with randomness(own_key(key)):
        features = network.pyramid(batch.images)
        predictions = network.predictions(features)
    points, strides = anchor_points(spec.image_size, spec.strides)
    with jax.named_scope("loss"):
        terms = detection_loss(
            predictions,
            jnp.asarray(points),
            jnp.asarray(strides),
            Objects(batch.boxes, batch.labels, batch.valid),
            AssignConfig(config.tal_topk, config.tal_alpha, config.tal_beta),
        )
    mean = config.box_gain * terms.box + config.class_gain * terms.cls + config.dfl_gain * terms.dfl
    if plan.lesson is not None:
        assert teacher is not None, "who has a lesson has a teacher"
        lesson, gains = plan.lesson, config.distillation
        ours = seen(lesson, spec, [own for own, _ in lesson.classes], predictions, features)
        with jax.named_scope("teacher"):
            theirs = ask(lesson, teacher, batch.images, plan.dtype)
        taught = teaching_loss(lesson, ours, theirs, projections or {}, gains.temperature)
        mean += weighted(taught, gains)
        terms = TaughtTerms(*terms, *taught)
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
    teacher: Fused | None = None,
) -> tuple[TrainState, Terms, Int[Array, ""]]:
    """One step: batch and augmentation, loss, gradients, optimizer, EMA.

    Returns the new state, the loss terms and the number of boxes that found no slot. With `mesh`
    its devices share the batch, each has the state, and all come to the same state. `kind` is that
    of the feed which the pixels are of: it says whether devices share them too. The seed is `seed`,
    whatever the plan's. A plan with a lesson needs its `teacher`, which each device has.
    """
    if mesh is None:
        return _step(plan, kind, state, pixels, indices, seed, teacher)
    whole, split = P(), P(DEVICES)
    given = () if teacher is None else (teacher,)
    # Unchecked: the gradients are summed by hand, and those of `conv2d` know of no mesh.
    step = jax.shard_map(
        partial(_step, plan, kind),
        mesh=mesh,
        in_specs=(whole, split if kind.parted else whole, split, whole, *(whole for _ in given)),
        out_specs=whole,
        check_vma=False,
    )
    with devices_along(DEVICES):
        return step(state, pixels, indices, seed, *given)


def _step(
    plan: Plan,
    kind: type[Feed],
    state: TrainState,
    pixels: DevicePixels,
    indices: Int[Array, " b"],
    seed: Int[Array, ""],
    teacher: Fused | None = None,
) -> tuple[TrainState, Terms, Int[Array, ""]]:
    config = plan.config
    epoch = state.step // plan.steps_per_epoch
    mosaic = epoch < config.epochs - config.augmentation.close_mosaic_epochs
    with jax.named_scope("batch"):
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
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def loss(learnt: tuple[Any, dict[str, Any]]) -> tuple[Float[Array, ""], tuple[Terms, Any]]:
        params, projections = learnt
        return total_loss(params, state.weights.stats, batch, plan, key, projections, teacher)

    learnt = state.weights.params, state.projections
    (_, (terms, stats)), grads = jax.value_and_grad(loss, has_aux=True)(learnt)
    terms, grads = summed_over_devices((terms, grads))
    with jax.named_scope("optimizer"):
        updates, optimizer = make_optimizer(plan).update(grads, state.optimizer, learnt)
        changed: Any = optax.apply_updates(learnt, updates)
    params, projections = changed
    weights = Weights(params, stats)
    ramp = 1 - jnp.exp(-(state.step + 1) / config.ema_ramp_steps)
    with jax.named_scope("average"):
        vectors = Weights(*map(as_vector, weights))
        ema: Any = optax.incremental_update(vectors, state.ema, 1 - config.ema_decay * ramp)
    dropped = summed_over_devices(batch.dropped)
    return TrainState(state.step + 1, weights, optimizer, ema, projections), terms, dropped


def compile_step(
    plan: Plan,
    state: Any,
    feed: Feed,
    mesh: Mesh | None = None,
    teacher: Fused | None = None,
) -> jax.stages.Compiled:
    """The one compiled step of a run, from a state or its shapes; with a mesh it lies there.

    With a `teacher`, its arrays are the step's last argument.
    """
    taught = () if teacher is None else (jax.eval_shape(lambda: teacher),)
    pixels = feed.shapes(plan.config.batch_size)
    indices = jax.ShapeDtypeStruct((plan.config.batch_size,), jnp.int32)
    if mesh is None:
        # Where an array lies is part of a program's name: by shapes alone, whoever compiles a step
        # (for its memory, its training, or to go on from a checkpoint) finds the same one.
        state = jax.eval_shape(lambda: state)
    else:
        whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(DEVICES))
        pixels = _placed(pixels, split if feed.parted else whole)
        indices, taught = _placed(indices, split), _placed(taught, whole)
    seed = jax.ShapeDtypeStruct((), jnp.int32)
    plan = _of_any_seed(plan)
    kind = type(feed)
    return compile_ahead(train_step, plan, state, pixels, indices, seed, mesh, kind, *taught)


def _placed(shapes: T, sharding: NamedSharding) -> T:
    """The same shapes, of arrays that lie there."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
