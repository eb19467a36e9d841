"""Mending: fresh layers come nearer the parent's features, and nothing else changes."""

from dataclasses import replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.detector import graph, initial_weights, scaled, weights_of
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.spec import BackboneSpec, NeckSpec
from flaxyolo.weights.inherit import mend
from flaxyolo.weights.inherit.detector import inherit
from flaxyolo.weights.inherit.mend import (
    Mended,
    arrays,
    features,
    mended,
    task_of,
    unexplained,
)
from flaxyolo.weights.inherit.walk import modules
from tests.small import tiny_pixels, tiny_spec

PARENT = tiny_spec()
PIXELS = tiny_pixels(40)


def with_stage(number, **changes):
    """The parent with one stage changed."""
    stages = list(PARENT.backbone.stages)
    stages[number] = replace(stages[number], **changes)
    return replace(PARENT, backbone=replace(PARENT.backbone, stages=tuple(stages)))


@lru_cache(maxsize=1)
def parent_weights():
    """First weights, with the statistics that the images have."""

    @jax.jit
    def settled(weights, images):
        network = nnx.merge(graph(PARENT, train=True, dtype=np.float32), *weights)
        for _, module in modules(network):
            if isinstance(module, BatchNorm):
                module.momentum = 0.0
        network(scaled(images))
        return weights_of(network)

    return settled(initial_weights(PARENT, 1), jnp.asarray(PIXELS.images))


def given(spec):
    """What of a child of the parent can be fitted, and its inherited weights."""
    inherited = inherit(spec, PARENT, parent_weights(), 3)
    return task_of(spec, PARENT, inherited), inherited.weights


def fitted(spec, seed=0, most_steps=60):
    task, weights = given(spec)
    return mended(task, weights, parent_weights(), PIXELS, most_steps=most_steps, seed=seed)


def by_path(weights):
    return {
        path: np.asarray(array)
        for number, part in enumerate(weights)
        for path, array in arrays({str(number): part})
    }


def missed(task, weights):
    """Of the first target, as the child is used: with running statistics."""

    @partial(jax.jit, static_argnums=0)
    def feature(spec, some):
        network = nnx.merge(graph(spec, train=False, dtype=np.float32), *some)
        return features(network, scaled(jnp.asarray(PIXELS.images[:8])), task.targets)

    target = task.targets[0]
    made, goal = feature(task.spec, weights), feature(PARENT, parent_weights())
    return float(
        unexplained(
            made[target.name][..., np.array(target.channels)],
            goal[target.name][..., np.array(target.sources)],
        )
    )


@pytest.mark.parametrize(
    ("spec", "names", "where"),
    [
        (with_stage(0, block="depthwise"), ["C2"], "backbone.stages.0"),
        (with_stage(1, block="c2f"), ["C3"], "backbone.stages.1"),
        (replace(PARENT, neck=NeckSpec("fpn", (3, 4), "c2f")), ["P3", "P4"], "neck"),
        (tiny_spec(neck=NeckSpec("pan", (3, 4), "plain")), ["P3", "P4"], "neck"),
        (tiny_spec(neck=NeckSpec("fpn", (2, 3, 4), "plain")), ["P3", "P4"], "neck"),
    ],
    ids=["first", "early", "neck", "way up", "finer"],
)
def test_fresh_layers_are_fitted_to_the_next_feature_that_both_have(spec, names, where):
    task, _ = given(spec)
    assert [target.name for target in task.targets] == names
    assert all(path.startswith(where) for path in task.layers)
    for target in task.targets:
        assert len(target.channels) == len(target.sources) > 0


@pytest.mark.parametrize(
    "spec",
    [
        PARENT,
        with_stage(1, width=32),
        replace(PARENT, num_classes=5),
        replace(PARENT, head=replace(PARENT.head, depth=2)),
    ],
    ids=["same", "wider", "classes", "head"],
)
def test_nothing_is_fitted_where_nothing_fresh_lies_before_a_feature(spec):
    assert given(spec)[0] is None


def test_images_that_do_not_suit_the_parents_strides_are_not_shown_to_it():
    first, second, third = PARENT.backbone.stages
    stages = first, replace(second, block="c2f"), replace(third, stride=1)
    spec = tiny_spec(
        backbone=BackboneSpec(stem_width=8, stages=stages),
        neck=NeckSpec("fpn", (2, 3), "plain"),
    )
    assert given(spec)[0] is not None
    assert given(replace(spec, image_size=72))[0] is None


@pytest.mark.slow
def test_fitted_layers_come_nearer_the_parent_and_inherited_ones_stay():
    spec = with_stage(1, block="depthwise")
    task, weights = given(spec)
    found = fitted(spec)
    assert found.steps == 60
    assert found.after < 0.7 * found.before
    assert missed(task, found.weights) < 0.7 * found.before
    before, after = by_path(weights), by_path(found.weights)
    changed = {path for path in after if (before[path] != after[path]).any()}
    assert {path.partition(".")[2].rpartition(".")[0] for path in changed} == task.layers
    assert any(path.endswith(".var") for path in changed)


@pytest.mark.slow
def test_a_seed_gives_the_same_fit():
    spec = with_stage(1, block="depthwise")
    one, again, other = (by_path(fitted(spec, seed, 5).weights) for seed in (0, 0, 1))
    assert all((one[path] == again[path]).all() for path in one)
    assert any((one[path] != other[path]).any() for path in one)


@pytest.mark.slow
def test_what_does_not_come_nearer_is_dropped(monkeypatch):
    monkeypatch.setattr(mend, "RATE", -0.1)
    spec = with_stage(1, block="depthwise")
    found = fitted(spec, most_steps=10)
    assert found.after >= found.before
    _, weights = given(spec)
    assert all((by_path(weights)[path] == array).all() for path, array in
               by_path(found.weights).items())  # fmt: skip


@pytest.mark.slow
def test_nothing_is_done_where_little_is_missed(monkeypatch):
    monkeypatch.setattr(mend, "WORTH", 1e9)
    found = fitted(with_stage(1, block="depthwise"))
    assert found.steps == 0
    assert found.after == found.before


def test_how_it_went_is_a_line():
    weights = initial_weights(PARENT, 0)
    assert Mended(weights, 1.2, 0.25, 240).describe() == (
        "fresh layers fitted: after 240 steps 25% of the parent's features missed instead of 120%"
    )
    assert "left as they are: 10% of" in Mended(weights, 0.1, 0.1, 0).describe()
    assert "left as they are: after 3 steps 300% of" in Mended(weights, 1, 3, 3).describe()
