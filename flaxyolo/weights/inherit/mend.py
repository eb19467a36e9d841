"""Mending: fresh layers fitted to the parent's features on images alone, before any training.

A block that replaces another begins as drawn, and all that comes behind it, which was inherited,
hears noise. A few steps bring its output near to what the parent has there, as blocks are fitted to
a teacher's in arXiv 1911.13053; no label is needed, and neither the head nor what lies before the
first fresh layer is differentiated.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from flaxyolo.data.cache import Pixels
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import Detector, Weights, compute_dtype, graph, scaled
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.spec import LEVEL_STRIDES, DetectorSpec
from flaxyolo.weights.inherit.detector import Inherited
from flaxyolo.weights.inherit.walk import modules, path_text

STEPS = 240
"""Most steps; more gain less than the training that they would delay."""
BATCH_SIZE = 4
"""Images a step: every cell of a feature is an equation, so few images are many."""
RATE = 0.03
"""Adam's rate at the first step, from which it falls linearly to zero."""
MOMENTUM = 0.9
"""Of the fresh norms' running statistics: at the end they are those of the last steps."""
HELD = 4
"""Batches that are not learnt from, on which the fit is judged."""
WORTH = 0.2
"""Share of the variance from which on it pays to fit what is missed."""


class Target(NamedTuple):
    """A feature that child and parent both have, with the channels that they have in common."""

    name: str
    """Such as C3 or P4."""
    channels: tuple[int, ...]
    """Of the child's feature."""
    sources: tuple[int, ...]
    """Of the parent's, one for each."""


class Task(NamedTuple):
    """What is fitted to what; one compiled step belongs to each."""

    spec: DetectorSpec
    parent: DetectorSpec
    layers: frozenset[str]
    """Paths of the layers that are fitted."""
    targets: tuple[Target, ...]


class Fit(NamedTuple):
    """What changes from step to step: arrays of the fitted layers by their paths."""

    params: dict[str, Array]
    stats: dict[str, Array]
    optimizer: Any


class Mended(NamedTuple):
    """Weights whose fresh layers were fitted where that gained, else those that were given.

    Before and after: the share of the variance of the parent's features that is missed, on batches
    that were not learnt from.
    """

    weights: Weights
    before: float
    after: float
    steps: int

    def describe(self) -> str:
        """How it went, in a line."""
        missed = f"{self.after:.0%} of the parent's features missed"
        if not self.steps:
            return f"fresh layers left as they are: {missed}"
        change = f"after {self.steps} steps {missed} instead of {self.before:.0%}"
        if self.after >= self.before:
            return f"fresh layers left as they are: {change}"
        return f"fresh layers fitted: {change}"


def task_of(spec: DetectorSpec, parent: DetectorSpec, inherited: Inherited) -> Task | None:
    """What can be fitted; None where the child does what its parent does.

    None as well where no fresh layer lies before a feature that both have, and where the child's
    images do not suit the parent's strides.
    """
    if not inherited.changes or spec.image_size % parent.backbone.strides[-1]:
        return None
    known = {name: maps for name, maps in inherited.channels.items() if (maps >= 0).any()}
    layers, names = set(), set()
    for part in inherited.parts:
        led_to = reached(spec, part.path, list(known)) if part.kind == "fresh" else []
        if led_to:
            layers.add(part.path)
            names.update(led_to)
    if not layers:
        return None
    targets = []
    for name in sorted(names):
        channels = np.flatnonzero(known[name] >= 0)
        sources = known[name][channels]
        targets.append(Target(name, tuple(channels.tolist()), tuple(sources.tolist())))
    return Task(spec, parent, frozenset(layers), tuple(targets))


def reached(spec: DetectorSpec, path: str, names: Sequence[str]) -> list[str]:
    """The features that a layer is fitted to: the next C level, or all P levels; none of the head.

    `names` are the features that both have.
    """
    room, *inside = path.split(".")
    if room == "neck":
        return [name for name in names if name.startswith("P")]
    if room != "backbone":
        return []
    stage = int(inside[1]) if inside[0] == "stages" else 0
    levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
    made = [f"C{levels[stride]}" for stride in spec.backbone.strides[stage:] if stride in levels]
    return [name for name in dict.fromkeys(made) if name in names][:1]


def mended(
    task: Task,
    weights: Weights,
    parent: Weights,
    pixels: Pixels,
    *,
    most_steps: int,
    seed: int,
) -> Mended:
    """Fit the fresh layers in at most so many steps, on images in an order drawn with the seed.

    Nothing is done where little is missed, and what has not come nearer is dropped.
    """
    order = np.random.default_rng(seed).permutation(len(pixels.images))
    rows = np.resize(order, (max(len(order) // BATCH_SIZE, HELD + 1), BATCH_SIZE))
    held, learnt = rows[:HELD], rows[HELD:]

    def picked(places: np.ndarray) -> Array:
        return jnp.asarray(np.asarray(pixels.images[np.sort(places)]))

    start, still = begun(task, weights), jnp.float32(0)
    step = compile_ahead(fit_step, task, start, weights, parent, picked(held[0]), still)

    def missed(fit: Fit) -> float:
        losses = [step(fit, weights, parent, picked(places), still)[1] for places in held]
        return float(np.mean(losses))

    before = missed(start)
    if before < WORTH:
        return Mended(weights, before, before, 0)
    steps, fit = min(STEPS, most_steps), start
    for number in range(steps):
        rate = jnp.float32(RATE * (1 - number / steps))
        batch = picked(learnt[number % len(learnt)])
        fit, _ = step(fit, weights, parent, batch, rate)
    after = missed(fit)
    return Mended(filled(weights, fit) if after < before else weights, before, after, steps)


def begun(task: Task, weights: Weights) -> Fit:
    """The arrays of the layers that are fitted, before the first step."""
    params, stats = (
        {path: array for path, array in arrays(part) if path.rpartition(".")[0] in task.layers}
        for part in weights
    )
    return Fit(params, stats, optax.scale_by_adam().init(params))


def filled(weights: Weights, fit: Fit) -> Weights:
    """The weights, with the arrays that were fitted."""

    def chosen(new: dict[str, Array], part: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, array: new.get(path_text(path), array), part
        )

    return Weights(chosen(fit.params, weights.params), chosen(fit.stats, weights.stats))


def arrays(tree: Any) -> Iterator[tuple[str, Array]]:
    """Paths and arrays of a tree."""
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        yield path_text(path), array


@partial(jax.jit, static_argnames="task")
def fit_step(
    task: Task,
    fit: Fit,
    weights: Weights,
    parent: Weights,
    images: UInt8[Array, "b s s 3"],
    rate: Float[Array, ""],
) -> tuple[Fit, Float[Array, ""]]:
    """A step of Adam, and what was missed before it.

    Fresh batch norms take the batch's statistics, inherited ones their own: what they hear is to
    become what the parent's heard.
    """
    dtype, pixels = compute_dtype(), scaled(images)
    old: Detector = nnx.merge(graph(task.parent, train=False, dtype=dtype), *parent)
    goals = features(old, pixels, task.targets)

    def loss(params: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        whole = filled(weights, fit._replace(params=params))
        network: Detector = nnx.merge(graph(task.spec, train=False, dtype=dtype), *whole)
        for path, module in modules(network):
            if isinstance(module, BatchNorm) and path in task.layers:
                module.set_view(use_running_average=False)
                module.momentum = MOMENTUM
        made = features(network, pixels, task.targets)
        parts = [
            unexplained(
                made[target.name][..., np.array(target.channels)],
                goals[target.name][..., np.array(target.sources)],
            )
            for target in task.targets
        ]
        stats = dict(arrays(nnx.as_pure(nnx.state(network, nnx.BatchStat))))
        return jnp.stack(parts).mean(), {path: stats[path] for path in fit.stats}

    (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(fit.params)
    updates, optimizer = optax.scale_by_adam().update(gradients, fit.optimizer)
    params = jax.tree.map(lambda array, update: array - rate * update, fit.params, updates)
    return Fit(params, stats, optimizer), value


def features(
    network: Detector, images: Float[Array, "b s s 3"], targets: Sequence[Target]
) -> dict[str, Array]:
    """What a network has at the targets, in float32."""
    levels = network.backbone(images)
    known = {f"C{level}": feature for level, feature in levels.items()}
    names = [target.name for target in targets]
    if any(name.startswith("P") for name in names):
        fused = network.spec.neck.levels
        outputs = network.neck([levels[level] for level in fused])
        known |= {f"P{level}": feature for level, feature in zip(fused, outputs, strict=True)}
    return {name: known[name].astype(jnp.float32) for name in names}


def unexplained(made: Float[Array, "b h w c"], goal: Float[Array, "b h w c"]) -> Float[Array, ""]:
    """The squared distance as a share of the goal's variance; 1 is that of its mean."""
    spread = goal - goal.mean((0, 1, 2))[None, None, None]
    return jnp.sum((made - goal) ** 2) / jnp.maximum(jnp.sum(spread**2), 1e-6)
