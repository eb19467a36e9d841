"""Learning from a teacher: each term, what can be learnt of whom, and a run that does it."""

import logging
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.checks.steps import compilations
from flaxyolo.config import Augmentation, Distillation, TrainConfig
from flaxyolo.nn.detector import initial_weights, predict
from flaxyolo.nn.head import Predictions
from flaxyolo.spec import HeadSpec, NeckSpec, parse, to_dict
from flaxyolo.training.distill import (
    Lesson,
    Seen,
    TaughtTerms,
    ask,
    feature_difference,
    joint_logits,
    lesson_of,
    new_projections,
    teacher_for,
    teaching_loss,
    told,
)
from flaxyolo.training.loop import train
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import start
from flaxyolo.weights.transfer import Source, path_text
from tests.small import tiny_feed, tiny_spec
from tests.test_train import same_epochs

NAMES = ("red", "green", "blue")
LESSON = Lesson(tiny_spec(), ((0, 0), (1, 1), (2, 2)), (3, 4))
POINTS = 64 + 16
CONFIG = TrainConfig(
    epochs=2, batch_size=4, warmup_epochs=0, augmentation=Augmentation(close_mosaic_epochs=1)
)
WIDE = tiny_spec(neck=NeckSpec(kind="fpn", levels=(3, 4), block="plain", widths=24))
"""Its features are wider than those of the tiny detector."""


def source(spec=WIDE, seed=3, names=NAMES):
    """A teacher that sees objects in many places."""

    def surer(path, leaf):
        where = path_text(path)
        return leaf + 8 if "cls" in where and where.endswith("predict.bias") else leaf

    weights = initial_weights(spec, seed)
    params = jax.tree.map_with_path(surer, weights.params)
    return Source(Path("big"), weights._replace(params=params), spec, names)


def shallow(size):
    """A student of the one level P3."""
    backbone = tiny_spec().backbone
    stages = (*backbone.stages[:2], replace(backbone.stages[2], stride=1))
    neck = NeckSpec(kind="fpn", levels=(3,), block="plain")
    return tiny_spec(backbone=replace(backbone, stages=stages), neck=neck, image_size=size)


def seen(seed, bins=8):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    corner = rng.uniform(0, 20, (2, POINTS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (2, POINTS, 2))], -1)
    return Seen(
        normal(2, POINTS, 3),
        jnp.asarray(boxes, jnp.float32),
        normal(2, POINTS, 4, bins),
        [normal(2, 8, 8, 16), normal(2, 4, 4, 16)],
    )


@pytest.mark.parametrize("bins", [8, 1])
def test_a_student_like_its_teacher_has_nothing_to_learn(bins):
    one = seen(0, bins)
    np.testing.assert_allclose(teaching_loss(LESSON, one, one, {}, 10.0), 0, atol=1e-5)
    gradient = jax.grad(lambda s: sum(teaching_loss(LESSON, s, one, {}, 10.0)))(one)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_allclose(leaf, 0, atol=1e-5)


@pytest.mark.parametrize(("term", "bins"), [("cls", 8), ("box", 8), ("box", 1), ("features", 8)])
def test_each_term_is_positive_and_falls_when_its_gradient_is_followed(term, bins):
    student, teacher = seen(0, bins), seen(1, bins)
    optimizer = optax.adam(0.1)

    @jax.jit
    def step(student, state):
        def loss(student):
            return getattr(teaching_loss(LESSON, student, teacher, {}, 10.0), term)

        value, grads = jax.value_and_grad(loss)(student)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(student, updates), state, value, optax.tree.norm(grads)

    state, values = optimizer.init(student), []
    for _ in range(100):
        student, state, value, norm = step(student, state)
        values.append(float(value))
        assert np.isfinite(norm)
    assert values[0] > 0
    assert values[-1] < 0.5 * values[0]


def test_extreme_outputs_leave_the_gradient_finite():
    extreme = jax.tree.map(lambda x: 1e3 * x, seen(0))
    flat = extreme._replace(features=[jnp.zeros_like(x) for x in extreme.features])
    gradient = jax.grad(lambda s: sum(teaching_loss(LESSON, s, seen(1), {}, 10.0)))(flat)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_boxes_are_learnt_where_the_teacher_sees_an_object():
    student, teacher = seen(0), seen(1)
    logits = np.full((2, POINTS, 3), -9.0, np.float32)
    logits[0, 7, 1] = 4.0
    there = teacher._replace(logits=jnp.asarray(logits))
    moved = student.distances.at[0, 7].add(jnp.arange(8.0))
    same = student._replace(distances=there.distances.at[0, 7].set(moved[0, 7]))
    elsewhere = student._replace(distances=student.distances.at[0, 7].set(there.distances[0, 7]))
    assert teaching_loss(LESSON, same, there, {}, 10.0).box > 0.1
    assert teaching_loss(LESSON, elsewhere, there, {}, 10.0).box < 1e-3


def test_features_of_another_scale_are_the_same_and_of_another_sign_the_opposite():
    features = seen(0).features[0]
    np.testing.assert_allclose(feature_difference(features, 5 * features + 2), 0, atol=1e-5)
    assert float(feature_difference(features, -features).mean()) == pytest.approx(2, rel=1e-3)


def test_logits_of_scores_with_objectness_are_those_of_the_product():
    logits = jnp.asarray([[[-30.0, 0.5, 30.0]]])
    with_objects = Predictions(
        logits, jnp.zeros((1, 1, 4)), jnp.zeros((1, 1, 4, 1)), jnp.asarray([[0.3]])
    )
    joint = joint_logits(with_objects)
    np.testing.assert_allclose(jax.nn.sigmoid(joint), with_objects.scores, rtol=1e-5)
    assert joint[0, 0, 0] == pytest.approx(-30 + np.log(jax.nn.sigmoid(0.3)), rel=1e-5)
    assert joint_logits(with_objects._replace(objectness=None)) is logits


def test_classes_are_matched_by_their_names_and_levels_by_what_both_have():
    deep = tiny_spec(neck=NeckSpec(kind="fpn", levels=(4,), block="plain"), image_size=96)
    other = source(deep, names=("blue", "sky", "red"))
    lesson = lesson_of(other, tiny_spec(), NAMES)
    assert (lesson.classes, lesson.levels) == (((0, 2), (2, 0)), (4,))
    assert lesson.spec.image_size == 64
    line = told(lesson, other, tiny_spec(), NAMES)
    assert "scores of 2 of 3 classes, not of green" in line
    assert "features of P4, not of P3" in line
    assert "it sees 64 px, its own are 96" in line


def test_boxes_of_another_form_are_learnt_by_their_overlap_and_this_is_told():
    fewer = tiny_spec(head=HeadSpec(depth=1, reg_max=4, box_width=16, class_width=16))
    plain = tiny_spec(head=HeadSpec(depth=1, box="ltrb", box_width=16, class_width=16))
    lines = [
        told(lesson_of(source(spec), tiny_spec(), NAMES), source(spec), tiny_spec(), NAMES)
        for spec in (WIDE, fewer, plain)
    ]
    assert "distributions of boxes" in lines[0]
    assert "overlaps of boxes (reg_max 4, here reg_max 8)" in lines[1]
    assert "overlaps of boxes (box ltrb, here reg_max 8)" in lines[2]
    student, teacher = seen(0, bins=8), seen(1, bins=4)
    assert teaching_loss(LESSON, student, teacher, {}, 10.0).box > 0.1
    same = student._replace(boxes=teacher.boxes)
    assert abs(teaching_loss(LESSON, same, teacher, {}, 10.0).box) < 1e-5


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (source(names=("cat", "dog", "cow")), "some of the classes red, green, blue, got one of c"),
        (
            source(tiny_spec(neck=NeckSpec(kind="fpn", levels=(4,), block="plain"))),
            "some of the levels P3, got one of P4",
        ),
        (Source(Path("big"), initial_weights(WIDE, 0)), "expected a detector as the teacher"),
    ],
)
def test_who_shares_nothing_is_no_teacher(teacher, message):
    with pytest.raises(InputError, match=message):
        teacher_for(teacher, shallow(64), NAMES)


def test_a_size_that_the_teacher_cannot_see_is_said():
    with pytest.raises(InputError, match="cannot see 72 px: image_size must be a multiple of"):
        lesson_of(source(), shallow(72), NAMES)


def test_of_two_pairs_of_branches_the_first_teaches():
    head = HeadSpec(depth=1, reg_max=8, box_width=16, class_width=16, one_to_one=True)
    double = tiny_spec(head=head)
    teacher = teacher_for(source(double), tiny_spec(), NAMES)
    images = jnp.asarray(tiny_feed(4).pixels.images, jnp.float32) / 255
    said = ask(teacher.lesson, teacher.weights, images, jnp.float32)
    whole = predict(double, source(double).weights, images, jnp.float32)
    np.testing.assert_allclose(said.logits, whole.logits, atol=1e-3)
    np.testing.assert_allclose(said.boxes, whole.boxes, atol=1e-2)
    assert [x.shape for x in said.features] == [(4, 8, 8, 16), (4, 4, 4, 16)]


def test_features_are_projected_where_widths_differ():
    spec = tiny_spec()
    assert new_projections(None, spec, 0) == {}
    assert new_projections(lesson_of(source(spec), spec, NAMES), spec, 0) == {}
    wide = lesson_of(source(), spec, NAMES)
    shapes = jax.tree.map(jnp.shape, new_projections(wide, spec, 0))
    assert shapes == {"P3": {"kernel": (16, 24)}, "P4": {"kernel": (16, 24)}}


def test_the_state_holds_the_projections_and_nothing_of_the_teacher():
    feed, spec = tiny_feed(), tiny_spec()

    def size(lesson):
        state = jax.eval_shape(lambda: start(plan_run(spec, CONFIG, feed.pixels, lesson)))
        return sum(leaf.size for leaf in jax.tree.leaves(state))

    # Each kernel with its two moments.
    assert size(lesson_of(source(), spec, NAMES)) == size(None) + 3 * 2 * 16 * 24


def test_a_run_learns_from_its_teacher_whose_arrays_are_no_part_of_its_program(caplog):
    spec = tiny_spec()
    alone = next(train(spec, tiny_feed(), NAMES, CONFIG))
    with caplog.at_level(logging.INFO, "flaxyolo"):
        one = next(
            train(spec, tiny_feed(), NAMES, CONFIG, teacher=teacher_for(source(), spec, NAMES))
        )
    assert "teacher: its forward pass takes" in caplog.text
    assert isinstance(one.loss, TaughtTerms)
    assert min(one.loss) > 0
    with compilations() as compiled:
        teacher = teacher_for(source(seed=4), spec, NAMES)
        other = next(train(spec, tiny_feed(), NAMES, CONFIG, teacher=teacher))
    assert "train_step" not in " ".join(compiled)
    ends = [jax.tree.leaves(epoch.detector.weights) for epoch in (alone, one, other)]
    for first, second in ((0, 1), (1, 2)):
        assert any((a != b).any() for a, b in zip(ends[first], ends[second], strict=True))
    # What is not to be learnt changes nothing but the program.
    none = replace(CONFIG, distillation=Distillation(class_gain=0, box_gain=0, feature_gain=0))
    off = next(train(spec, tiny_feed(), NAMES, none, teacher=teacher))
    for a, b in zip(ends[0], jax.tree.leaves(off.detector.weights), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_an_interrupted_run_goes_on_bit_for_bit_with_its_teacher_and_with_no_other(tmp_path):
    spec, feed = tiny_spec(), tiny_feed()
    teacher, other = (teacher_for(source(seed=seed), spec, NAMES) for seed in (3, 4))
    whole = list(train(spec, feed, NAMES, CONFIG, teacher=teacher))
    interrupted = train(spec, feed, NAMES, CONFIG, run_dir=tmp_path, teacher=teacher)
    assert next(interrupted).number == 1
    interrupted.close()
    for wrong in (other, None):
        with pytest.raises(InputError, match=f"expected the teacher {teacher.fingerprint}"):
            next(train(spec, feed, NAMES, CONFIG, run_dir=tmp_path, teacher=wrong))
    resumed = list(train(spec, feed, NAMES, CONFIG, run_dir=tmp_path, teacher=teacher))
    same_epochs(resumed, whole)


def test_a_run_without_a_teacher_is_not_gone_on_with_one(tmp_path):
    spec, feed = tiny_spec(), tiny_feed()
    next(train(spec, feed, NAMES, CONFIG, run_dir=tmp_path))
    teacher = teacher_for(source(), spec, NAMES)
    with pytest.raises(InputError, match="expected no teacher, with which this run was begun"):
        next(train(spec, feed, NAMES, CONFIG, run_dir=tmp_path, teacher=teacher))


def test_gains_are_written_where_they_are_not_the_usual_ones():
    assert "distillation" not in to_dict(TrainConfig())
    own = TrainConfig(distillation=Distillation(feature_gain=0))
    assert to_dict(own)["distillation"]["feature_gain"] == 0
    assert parse(TrainConfig, to_dict(own), "config") == own
