"""Scores of a network that has not been trained, on a few of the user's own labelled images.

Both are computed in float32 with the statistics of the batch, as in training, so that studies of
the same data agree whatever device they ran on. They are features of the surrogate, not its judge:
with fresh weights and batch norm they order networks as `size_scores` does. What those leave is 3
to 4 % of the spread between networks (benchmarks/zero_cost.py), two to three times what another
seed changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import Batch, box_slots, plain_batch, to_device
from flaxyolo.data.cache import Pixels
from flaxyolo.nn.compiling import compiler_options
from flaxyolo.nn.detector import Weights, abstract_weights, graph, initial_weights
from flaxyolo.nn.layers import activations_seen
from flaxyolo.spec import DetectorSpec, without_noise
from flaxyolo.training.plan import Plan
from flaxyolo.training.step import total_loss

BATCHES = 4
"""Of two batches ZiCo's ratio has the tail of a Cauchy distribution, and the score of one network
moves by 1 to 5 from draw to draw; of four mostly by 0.1 to 0.6."""
BATCH_SIZE = 4

SCORED_PARTS = ("backbone", "neck")
"""Where ZiCo looks. A level's box branch has no gradient in a batch without an object for it, so
the head would add chance."""

QUICK_OPTIONS: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""For programs that run a few times on a CPU: half the compile time (jax 0.10.2)."""


def draw_batches(
    pixels: Pixels, *, seed: int = 0, batches: int = BATCHES, batch_size: int = BATCH_SIZE
) -> list[Batch]:
    """Images as they are, those with boxes first; the same ones for a seed at every image size.

    Where the data have too few, they come again.
    """
    order = np.random.default_rng(seed).permutation(len(pixels.images))
    empty = np.asarray(pixels.valid).sum(1)[order] == 0
    order = order[np.argsort(empty, kind="stable")]
    slots = box_slots(pixels, mosaic=False)
    drawn = []
    for rows in np.resize(order, (batches, batch_size)):
        part = Pixels(*(np.asarray(field[rows]) for field in pixels))
        drawn.append(plain_batch(to_device(part), jnp.arange(batch_size), slots=slots))
    return drawn


def zero_cost(
    spec: DetectorSpec,
    batches: Sequence[Batch],
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Both scores by name, ready for `features`."""
    images = jnp.concatenate([batch.images for batch in batches])
    return {"nwot": nwot(spec, images, seed=seed), "zico": zico(spec, batches, config, seed=seed)}


def nwot(spec: DetectorSpec, images: Float[Array, "b s s 3"], *, seed: int = 0) -> float:
    """How well the activations tell images apart (NWOT, arXiv 2006.04647); higher is better.

    The code of an image is the sign of every activation's input, which for SiLU and its like is
    what "on" is for ReLU, in the whole detector. Needs one forward pass.
    """
    spec = without_noise(spec)
    weights = initial_weights(spec, seed)
    program = compile_quickly(code_agreements, spec, weights, images)
    return log_determinant(np.asarray(program(weights, images)))


def zico(
    spec: DetectorSpec,
    batches: Sequence[Batch],
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
) -> float:
    """How steady the gradients are from batch to batch (ZiCo, arXiv 2301.11300); higher is better.

    Gradients of the run's own loss in the convolutions of backbone and neck. NaN where one is not
    finite.
    """
    if len(batches) < 2:
        raise ValueError(f"expected at least 2 batches, got {len(batches)}")
    count, slots = batches[0].valid.shape
    few = replace(config or TrainConfig(), batch_size=count)
    plan = Plan(without_noise(spec), few, 1, slots, jnp.float32)
    weights = initial_weights(plan.spec, seed)
    program = compile_quickly(kernel_gradients, plan, weights, batches[0])
    gradients = [[np.asarray(leaf) for leaf in program(weights, batch)] for batch in batches]
    return sum_of_logs([np.stack(layer) for layer in zip(*gradients, strict=True)])


def size_scores(spec: DetectorSpec) -> dict[str, float]:
    """The sizes behind the scores, by tracing alone, as logarithms to base 2.

    `log_units`, of the number of activations for one image, goes with NWOT; `log_kernels`, the sum
    over the kernels of backbone and neck of the logarithm of their size, with ZiCo.
    """
    units = 0

    def see(x: Array) -> None:
        nonlocal units
        units += x.size

    def run(weights: Weights, image: Array) -> Any:
        with activations_seen(see):
            return nnx.merge(graph(spec, train=False, dtype=jnp.float32), *weights)(image)

    weights, size = abstract_weights(spec), spec.image_size
    jax.eval_shape(run, weights, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    kernels = scored_kernels({part: weights.params[part] for part in SCORED_PARTS})
    return {
        "log_units": float(np.log2(units)),
        "log_kernels": float(sum(np.log2(kernel.size) for kernel in kernels)),
    }


@partial(jax.jit, static_argnames="spec")
def code_agreements(
    spec: DetectorSpec, weights: Weights, images: Float[Array, "b s s 3"]
) -> Float[Array, "l b b"]:
    """Of each layer of activations, in how many units the codes of two images agree."""
    layers = []

    def see(x: Array) -> None:
        signs = jnp.where(x > 0, 1.0, -1.0).reshape(len(x), -1)
        layers.append((signs @ signs.T + signs.shape[1]) / 2)

    network = nnx.merge(graph(spec, train=True, dtype=jnp.float32), *weights)
    with activations_seen(see):
        network(images)
    return jnp.stack(layers)


def log_determinant(agreements: Float[np.ndarray, "l b b"]) -> float:
    """NWOT's score from the agreements of each layer.

    One more unit, in which no two images agree, keeps it finite where two images are the same.
    """
    kernel = agreements.sum(0, dtype=np.float64)
    return float(np.linalg.slogdet(kernel + np.eye(len(kernel)))[1])


@partial(jax.jit, static_argnames="plan")
def kernel_gradients(plan: Plan, weights: Weights, batch: Batch) -> list[Array]:
    """Gradients of the run's loss in every kernel of the scored parts."""

    def loss(scored: Any) -> Array:
        params = weights.params | scored
        return total_loss(params, weights.stats, batch, plan, jax.random.key(0))[0]

    return scored_kernels(jax.grad(loss)({part: weights.params[part] for part in SCORED_PARTS}))


def scored_kernels(params: Any) -> list[Any]:
    """The kernels among some parameters, or what stands in their place."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if path[-1].key == "kernel"]


def sum_of_logs(layers: Sequence[Float[np.ndarray, "n ..."]]) -> float:
    """ZiCo's score from the gradients of each layer in `n` batches.

    The sum over the layers of log(sum over the parameters of mean |g| / std |g|); a parameter whose
    |g| is the same in all batches counts nothing, nor does a layer of such. A loss multiplied by
    a constant has the same score; so have the batches in another order.
    """
    score = 0.0
    for gradients in layers:
        sizes = np.abs(gradients.astype(np.float64))
        if not np.isfinite(sizes).all():
            return float("nan")
        mean, spread = sizes.mean(0), sizes.std(0)
        total = float(np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0).sum())
        score += np.log(total) if total > 0 else 0.0
    return float(score)


def compile_quickly(function: Any, *arguments: Any) -> jax.stages.Compiled:
    """Compile a jitted function for a few calls; call the result without its first argument."""
    quick = QUICK_OPTIONS if jax.default_backend() == "cpu" else {}
    return function.lower(*arguments).compile(compiler_options=compiler_options() | quick)
