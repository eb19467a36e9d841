"""Learning from a larger detector: what it says of the same images, as further terms of the loss.

The teacher runs in its form for inference inside the training step, on the student's batches.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Float32

from flaxyolo.base.errors import InputError
from flaxyolo.config import Distillation
from flaxyolo.nn.detector import Fused, Weights, fuse, fused_graph
from flaxyolo.nn.head import Predictions
from flaxyolo.nn.mesh import summed_over_devices
from flaxyolo.nn.norm import moments
from flaxyolo.spec import LEVEL_STRIDES, DetectorSpec, describe
from flaxyolo.training.assign import ciou
from flaxyolo.training.loss import binary_cross_entropy
from flaxyolo.weights.transfer import Source

log = logging.getLogger(__name__)

FLAT = 1e-4
"""Added to the variance of a channel, so that one that is the same everywhere stays finite."""


@dataclass(frozen=True)
class Lesson:
    """What a student can learn of a teacher, as static facts."""

    spec: DetectorSpec
    """The teacher's, at the student's input size and with one pair of branches."""
    classes: tuple[tuple[int, int], ...]
    """The student's and the teacher's number of each class that both have."""
    levels: tuple[int, ...]
    """Those that both have, finest first."""


class Teacher(NamedTuple):
    """A lesson with the arrays that give it."""

    lesson: Lesson
    weights: Fused
    fingerprint: str
    """Equal for equal weights of the checkpoint."""


class Seen(NamedTuple):
    """What a detector says of a batch at the levels and of the classes that both have."""

    logits: Float32[Array, "b a k"]
    boxes: Float32[Array, "b a 4"]
    """xyxy, input pixels."""
    distances: Float32[Array, "b a 4 _"]
    features: list[Float[Array, "b _ _ _"]]


class Taught(NamedTuple):
    """Terms of the loss, before their gains; each divided by the sum of the points' weights."""

    cls: Float32[Array, ""]
    box: Float32[Array, ""]
    features: Float32[Array, ""]


class TaughtTerms(NamedTuple):
    """All terms of the loss of a student, before their gains: those of `LossTerms`, and its
    teacher's."""

    box: Float32[Array, ""]
    cls: Float32[Array, ""]
    dfl: Float32[Array, ""]
    taught_cls: Float32[Array, ""]
    taught_box: Float32[Array, ""]
    taught_features: Float32[Array, ""]


def teacher_for(source: Source, spec: DetectorSpec, class_names: Sequence[str]) -> Teacher:
    """The detector of `source` as the teacher of a student, told in the log.

    InputError where the two share no class or no level, or the student's input size is none for it.
    """
    lesson = lesson_of(source, spec, class_names)
    log.info("teacher %s: %s", source.path, told(lesson, source, spec, class_names))
    fused = fuse(lesson.spec, first_pair(source.weights))
    return Teacher(lesson, jax.tree.map(jnp.asarray, fused), source.fingerprint)


def lesson_of(source: Source, spec: DetectorSpec, class_names: Sequence[str]) -> Lesson:
    """What a student of `spec` can learn of the detector of `source`."""
    if source.spec is None:
        raise InputError(f"{source.path}: expected a detector as the teacher, found arrays alone")
    theirs = {name: number for number, name in enumerate(source.class_names)}
    classes = tuple(
        (number, theirs[name]) for number, name in enumerate(class_names) if name in theirs
    )
    if not classes:
        raise InputError(
            f"{source.path}: expected a teacher of some of the classes {listed(class_names)}, got "
            f"one of {listed(source.class_names)}"
        )
    levels = tuple(level for level in spec.neck.levels if level in source.spec.neck.levels)
    if not levels:
        raise InputError(
            f"{source.path}: expected a teacher of some of the levels {named(spec.neck.levels)}, "
            f"got one of {named(source.spec.neck.levels)}"
        )
    try:
        # Its second pair of branches knows one point of an object alone.
        head = replace(source.spec.head, one_to_one=False)
        at_size = replace(source.spec, head=head, image_size=spec.image_size)
    except ValueError as error:
        raise InputError(
            f"{source.path}: this teacher cannot see {spec.image_size} px: {describe(error)}"
        ) from None
    return Lesson(at_size, classes, levels)


def told(lesson: Lesson, source: Source, spec: DetectorSpec, class_names: Sequence[str]) -> str:
    """What is learnt of a teacher and what is not, in a line."""
    shared = {number for number, _ in lesson.classes}
    left = [name for number, name in enumerate(class_names) if number not in shared]
    without = f", not of {listed(left)}" if left else ""
    parts = [f"scores of {len(shared)} of {len(class_names)} classes{without}"]
    ours, theirs = (
        f"reg_max {one.head.bins}" if one.head.box == "dfl" else f"box {one.head.box}"
        for one in (spec, lesson.spec)
    )
    same = ours == theirs and spec.head.box == "dfl"
    parts.append("distributions of boxes" if same else f"overlaps of boxes ({theirs}, here {ours})")
    others = set(spec.neck.levels) - set(lesson.levels)
    without = f", not of {named(sorted(others))}" if others else ""
    parts.append(f"features of {named(lesson.levels)}{without}")
    if source.spec is not None and source.spec.image_size != spec.image_size:
        parts.append(f"it sees {spec.image_size} px, its own are {source.spec.image_size}")
    return "; ".join(parts)


def listed(names: Sequence[str]) -> str:
    """A few names in a row."""
    shown = ", ".join(names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown


def named(levels: Sequence[int]) -> str:
    """Levels by their names."""
    return ", ".join(f"P{level}" for level in levels)


def first_pair(weights: Weights) -> Weights:
    """The weights without those of a head's second pair of branches."""

    def cut(tree: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: part for name, part in tree.get("head", {}).items() if name != "one_to_one"}
        return {**tree, "head": kept} if "head" in tree else dict(tree)

    return Weights(cut(weights.params), cut(weights.stats))


def new_projections(lesson: Lesson | None, spec: DetectorSpec, seed: int) -> dict[str, Any]:
    """A 1x1 kernel from the student's features to the teacher's, for each level where their widths
    differ (arXiv 1412.6550); the same for a seed on every backend."""
    if lesson is None:
        return {}
    ours = dict(zip(spec.neck.levels, spec.feature_widths, strict=True))
    theirs = dict(zip(lesson.spec.neck.levels, lesson.spec.feature_widths, strict=True))
    rng = np.random.default_rng(seed)
    return {
        f"P{level}": {
            "kernel": jnp.asarray(
                rng.normal(0, ours[level] ** -0.5, (ours[level], theirs[level])), jnp.float32
            )
        }
        for level in lesson.levels
        if ours[level] != theirs[level]
    }


@partial(jax.jit, static_argnames=("lesson", "dtype"))
def ask(lesson: Lesson, weights: Fused, images: Float[Array, "b s s 3"], dtype: Any) -> Seen:
    """What the teacher says of a batch."""
    network = nnx.merge(fused_graph(lesson.spec, dtype)[0], *weights)
    features = network.pyramid(images)
    theirs = [number for _, number in lesson.classes]
    return seen(lesson, lesson.spec, theirs, network.predictions(features), features)


def seen(
    lesson: Lesson,
    spec: DetectorSpec,
    classes: Sequence[int],
    predictions: Predictions,
    features: Sequence[Float[Array, "b _ _ _"]],
) -> Seen:
    """What teacher and student have in common of what one of them, of `spec`, says."""
    cells = [(level, (spec.image_size // LEVEL_STRIDES[level]) ** 2) for level in spec.neck.levels]
    begin = sum(count for level, count in cells if level < lesson.levels[0])
    end = begin + sum(count for level, count in cells if level in lesson.levels)
    logits = joint_logits(predictions)[:, begin:end]
    every = list(classes) == list(range(spec.num_classes))
    return Seen(
        logits=logits if every else logits[..., np.array(classes)],
        boxes=predictions.boxes[:, begin:end],
        distances=predictions.distances[:, begin:end],
        features=[
            feature
            for level, feature in zip(spec.neck.levels, features, strict=True)
            if level in lesson.levels
        ],
    )


def joint_logits(predictions: Predictions) -> Float32[Array, "b a k"]:
    """Logits of the scores: of the product with the objectness, where there is one."""
    classes, objectness = predictions.logits, predictions.objectness
    if objectness is None:
        return classes
    objects = jnp.broadcast_to(objectness[..., None], classes.shape)
    return -jax.nn.logsumexp(jnp.stack([-classes, -objects, -classes - objects]), axis=0)


def teaching_loss(
    lesson: Lesson,
    student: Seen,
    teacher: Seen,
    projections: Mapping[str, Any],
    temperature: float,
) -> Taught:
    """How far a student is from its teacher, in scores, boxes and features.

    A point weighs the square of the teacher's best score there, for boxes and features: so they are
    learnt where it sees an object, on the level where it does, whether a box was drawn or not
    (feature richness, arXiv 2111.00674; squared, or thousands of points of background at 1 % would
    outweigh an object). Boxes by their distributions where both have the same bins, otherwise by
    their overlap (arXiv 2308.14286).
    """
    weights = jax.nn.sigmoid(teacher.logits).max(-1) ** 2
    total = jnp.maximum(summed_over_devices(weights.sum()), 1)
    bins = {student.distances.shape[-1], teacher.distances.shape[-1]}
    if len(bins) == 1 and bins != {1}:
        away = distribution_difference(student.distances, teacher.distances, temperature).mean(-1)
    else:
        away = 1 - ciou(student.boxes, teacher.boxes)
    features, begin = jnp.zeros((), jnp.float32), 0
    for level, ours, theirs in zip(lesson.levels, student.features, teacher.features, strict=True):
        if f"P{level}" in projections:
            kernel = projections[f"P{level}"]["kernel"]
            ours = jnp.einsum("bhwc,cd->bhwd", ours.astype(jnp.float32), kernel)
        apart = feature_difference(ours, theirs)
        end = begin + apart[0].size
        features += jnp.sum(apart.reshape(len(apart), -1) * weights[:, begin:end])
        begin = end
    return Taught(
        cls=jnp.sum(score_difference(student.logits, teacher.logits)) / total,
        box=jnp.sum(away * weights) / total,
        features=features / total,
    )


def score_difference(
    student: Float32[Array, "*n"], teacher: Float32[Array, "*n"]
) -> Float32[Array, "*n"]:
    """Binary distillation of class logits (arXiv 2308.14286): the cross-entropy against the
    teacher's score, times how far the two scores are apart; the latter is a constant in the
    gradient."""
    target = jax.nn.sigmoid(teacher)
    apart = lax.stop_gradient(jnp.abs(jax.nn.sigmoid(student) - target))
    return apart * binary_cross_entropy(student, target)


def distribution_difference(
    student: Float32[Array, "*n r"], teacher: Float32[Array, "*n r"], temperature: float
) -> Float32[Array, "*n"]:
    """Localisation distillation (arXiv 2102.12252): the divergence of the student's bins from the
    teacher's at a temperature, times its square, the mean over the bins."""
    target = jax.nn.log_softmax(teacher / temperature)
    ours = jax.nn.log_softmax(student / temperature)
    return temperature**2 * jnp.mean(jnp.exp(target) * (target - ours), -1)


def feature_difference(
    student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c"]
) -> Float32[Array, "b h w"]:
    """PKD (arXiv 2207.02039): half the squared difference of the features, normalised channel by
    channel over the batch, the mean over the channels; its mean is 1 minus their correlation.

    So networks of any scale of activations can be imitated, with one gain for all.
    """
    return jnp.square(normalised(student) - normalised(teacher)).mean(-1) / 2


def normalised(features: Float[Array, "b h w c"]) -> Float32[Array, "b h w c"]:
    """Each channel with a mean of 0 and a variance of 1, over all images of the step."""
    mean, variance = moments(features, synchronised=True)
    scale = lax.rsqrt(variance + FLAT)
    centred = features.astype(jnp.float32) - mean[None, None, None]
    return centred * scale[None, None, None]


def weighted(terms: Taught, gains: Distillation) -> Float32[Array, ""]:
    """The terms, times their gains."""
    return (
        gains.class_gain * terms.cls
        + gains.box_gain * terms.box
        + gains.feature_gain * terms.features
    )
