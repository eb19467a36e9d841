"""A few images as they are, and the two programs that learn them and look at them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32

from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import Batch, box_slots, plain_batch, to_device
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import (
    Slots,
    abstract_weights,
    best_pairs,
    compute_dtype,
    graph,
    initial_weights,
)
from flaxyolo.nn.nms import batched_nms
from flaxyolo.nn.regularize import randomness
from flaxyolo.spec import DetectorSpec, without_noise
from flaxyolo.training.loss import LossTerms
from flaxyolo.training.plan import Plan
from flaxyolo.training.step import total_loss
from flaxyolo.training.vectors import as_vector, parted

PROBED = 4
"""Images of the batch whose gradients are looked at, and of the one that is learnt by heart."""
PROBE_STEPS = 300
PROBE_RATE = 0.004
"""Constant rate of Adam, above a run's: a few images bear it."""


class Probe(NamedTuple):
    """What changes while a batch is learnt by heart.

    The optimizer works on one vector: that is compiled in no time, an optimizer of 200 arrays
    takes as long as the network's gradients.
    """

    vector: Float32[Array, " p"]
    params: Any
    """The same as arrays."""
    stats: Any
    optimizer: Any


class Gradients(NamedTuple):
    """What one look at a batch says: gradients, loss terms, and the new batch statistics."""

    vector: Float32[Array, " p"]
    terms: LossTerms
    stats: Any


def probe_plan(spec: DetectorSpec, config: TrainConfig, pixels: Pixels) -> Plan:
    """The run's loss on a few images, without noise."""
    few = replace(config, epochs=PROBE_STEPS, batch_size=PROBED)
    slots = box_slots(pixels, mosaic=False)
    return Plan(without_noise(spec), few, 1, slots, compute_dtype())


def fresh_probe(plan: Plan) -> Probe:
    """Fresh weights and optimizer."""
    weights = initial_weights(plan.spec, plan.config.seed)
    vector = as_vector(weights.params)
    return Probe(vector, weights.params, weights.stats, quick_optimizer(plan).init(vector))


def quick_optimizer(plan: Plan) -> optax.GradientTransformation:
    """Adam at a constant rate."""
    clip = optax.clip_by_global_norm(plan.config.clip_norm)
    return optax.chain(clip, optax.adam(PROBE_RATE))


@partial(jax.jit, static_argnames="plan")
def gradients(plan: Plan, params: Any, stats: Any, batch: Batch) -> Gradients:
    """Gradients of the run's own loss, on a batch as it is."""
    gradient = jax.value_and_grad(total_loss, has_aux=True)
    key = jax.random.key(plan.config.seed)
    (_, (terms, stats)), grads = gradient(params, stats, batch, plan, key)
    return Gradients(as_vector(grads), terms, stats)


@partial(jax.jit, static_argnames="plan", donate_argnames="probe")
def learn(plan: Plan, probe: Probe, said: Gradients) -> Probe:
    """The step of the optimizer that follows from the gradients."""
    updates, optimizer = quick_optimizer(plan).update(said.vector, probe.optimizer, probe.vector)
    vector: Any = optax.apply_updates(probe.vector, updates)
    (arrays,) = parted([vector], abstract_weights(plan.spec).params)
    return Probe(vector, arrays, said.stats, optimizer)


@partial(jax.jit, static_argnames="plan")
def look(
    plan: Plan, params: Any, stats: Any, images: Float[Array, "b s s 3"]
) -> tuple[Float[Array, "b a 4"], Slots]:
    """What the network says of a batch with the batch's own statistics: all boxes, detections.

    After so few steps the running statistics are still those of the start.
    """
    network = nnx.merge(graph(plan.spec, train=True, dtype=plan.dtype), params, stats)
    with randomness(jax.random.key(0)):
        predictions = network(images)
    used = predictions if predictions.one_to_one is None else predictions.one_to_one
    choose = batched_nms if predictions.one_to_one is None else jax.vmap(best_pairs)
    return predictions.boxes, Slots(*choose(used.scores, used.boxes))


@dataclass(frozen=True, eq=False)
class Programs:
    """The compiled programs of a probe."""

    gradients: jax.stages.Compiled
    learn: jax.stages.Compiled
    look: jax.stages.Compiled


def compile_probe(plan: Plan) -> Programs:
    """Compile what the checks of gradients and overfit need; no arrays are made."""
    size = plan.spec.image_size
    shape = jax.ShapeDtypeStruct
    shapes: list[Any] = [
        shape((PROBED, size, size, 3), jnp.float32),
        shape((PROBED, plan.slots, 4), jnp.float32),
        shape((PROBED, plan.slots), jnp.int32),
        shape((PROBED, plan.slots), jnp.bool),
        shape((), jnp.int32),
    ]
    batch = Batch(*shapes)
    probe = jax.eval_shape(lambda: fresh_probe(plan))
    said = jax.eval_shape(partial(gradients, plan), probe.params, probe.stats, batch)
    return Programs(
        gradients=compile_ahead(gradients, plan, probe.params, probe.stats, batch),
        learn=compile_ahead(learn, plan, probe, said),
        look=compile_ahead(look, plan, probe.params, probe.stats, batch.images),
    )


def batch_of(pixels: Pixels, rows: Sequence[int], slots: int) -> Batch:
    """These images as they are, on the device."""
    chosen = np.asarray(rows)
    part = Pixels(*(np.asarray(field[chosen]) for field in pixels))
    return plain_batch(to_device(part), jnp.arange(len(chosen)), slots=slots)
