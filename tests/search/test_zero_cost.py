from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.config import TrainConfig
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.detector import graph, initial_weights
from flaxyolo.nn.layers import ACTIVATIONS, activations_seen
from flaxyolo.nn.norm import NORMS
from flaxyolo.search.zero_cost import (
    code_agreements,
    draw_batches,
    kernel_gradients,
    log_determinant,
    nwot,
    size_scores,
    sum_of_logs,
    zero_cost,
    zico,
)
from flaxyolo.spec import HeadSpec
from flaxyolo.training.plan import Plan
from tests.small import tiny_pixels, tiny_spec


def test_log_determinant_by_hand():
    # Codes 1100, 1010 and 0000 agree in 4 units with themselves, in 2 with each other; with one
    # unit more on the diagonal |5 2 2; 2 5 2; 2 2 5| = (5 - 2)^2 (5 + 4) = 81.
    kernel = np.array([[4, 2, 2], [2, 4, 2], [2, 2, 4]], np.float32)
    assert log_determinant(kernel[None]) == pytest.approx(np.log(81))
    # The same in two layers of two units each.
    assert log_determinant(np.stack([kernel / 2] * 2)) == pytest.approx(np.log(81))


def test_images_with_one_code_have_the_lowest_score_and_a_finite_one():
    twins = log_determinant(np.full((1, 3, 3), 4.0, np.float32))
    assert twins == pytest.approx(np.log(13))  # eigenvalues 4 * 3 + 1, 1, 1
    rng = np.random.default_rng(0)
    for _ in range(20):
        signs = rng.choice([-1.0, 1.0], (3, 4))
        assert log_determinant((signs @ signs.T + 4)[None] / 2) >= twins - 1e-9


@pytest.fixture(scope="module")
def batches():
    return draw_batches(tiny_pixels(20))


@pytest.fixture(scope="module")
def images(batches):
    return jnp.concatenate([batch.images for batch in batches])


def test_agreements_are_those_of_the_signs_before_each_activation(images):
    spec = tiny_spec()
    weights = initial_weights(spec, 0)

    def inputs(weights, images):
        seen = []
        with activations_seen(seen.append):
            nnx.merge(graph(spec, train=True, dtype=jnp.float32), *weights)(images)
        return seen

    seen = jax.jit(inputs)(weights, images[:5])
    got = np.asarray(code_agreements(spec, weights, images[:5]))
    assert got.shape == (len(seen), 5, 5)
    # Stem; three stages of a transition and a block; FPN; two branches of two levels.
    assert len(seen) >= 1 + 6 + 4
    for layer, x in zip(got, seen, strict=True):
        code = np.asarray(x).reshape(5, -1) > 0
        slow = (code[:, None] == code[None]).sum(-1)
        # A sign may turn where another order of summing leaves a value at zero.
        assert np.abs(layer - slow).max() <= 1 + 1e-4 * code.shape[1]


def test_nothing_is_seen_outside():
    seen = []
    with activations_seen(seen.append):
        ACTIVATIONS["relu"](jnp.ones(2))
    ACTIVATIONS["relu"](jnp.ones(2))
    assert len(seen) == 1


def test_nwot_is_the_same_for_images_in_another_order_and_for_a_seed(images):
    spec = tiny_spec()
    first = nwot(spec, images)
    assert nwot(spec, images) == first
    assert nwot(spec, images[::-1]) == pytest.approx(first, rel=1e-3)
    assert nwot(spec, images, seed=1) != first
    # Twins are not told apart.
    assert nwot(spec, jnp.concatenate([images[:8]] * 2)) < first - 8


def slow_zico(layers):
    """Parameter by parameter, as in equation 15 of the paper."""
    score = 0.0
    for gradients in layers:
        total = 0.0
        for values in np.abs(gradients.reshape(len(gradients), -1)).T.tolist():
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
            total += mean / variance**0.5
        score += np.log(total)
    return score


def test_zico_by_hand():
    # |g| of 1 and 3: mean 2, deviation 1; of 4 and 4: none, counts nothing; of 0 and 2: 1 and 1.
    layer = np.array([[1.0, -4.0, 0.0], [-3.0, 4.0, 2.0]])
    assert sum_of_logs([layer]) == pytest.approx(np.log(2 + 1))
    still = np.zeros((2, 5))
    assert sum_of_logs([layer, still, layer]) == pytest.approx(2 * np.log(3))
    assert np.isnan(sum_of_logs([layer, np.array([[np.inf], [1.0]])]))


def test_zico_agrees_with_a_slow_one_whatever_the_scale_and_order():
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(4, 3, 3, 5)), rng.normal(size=(4, 7))]
    score = slow_zico(layers)
    assert sum_of_logs(layers) == pytest.approx(score)
    assert sum_of_logs([1000 * layer for layer in layers]) == pytest.approx(score)
    assert sum_of_logs([layer[::-1] for layer in layers]) == pytest.approx(score)
    # One batch alone in another scale is another thing.
    uneven = [np.concatenate([layer[:3], 9 * layer[3:]]) for layer in layers]
    assert sum_of_logs(uneven) != pytest.approx(score, abs=0.1)


def test_zico_looks_at_the_kernels_of_backbone_and_neck(batches):
    spec = tiny_spec()
    plan = Plan(spec, TrainConfig(batch_size=4), 1, 16, jnp.float32)
    weights = initial_weights(spec, 0)
    shapes = [leaf.shape for leaf in jax.eval_shape(kernel_gradients_of(plan), weights, batches[0])]
    assert (3, 3, 3, 8) in shapes
    assert {len(shape) for shape in shapes} == {4}
    head = [x.shape for x in jax.tree.leaves(weights.params["head"]) if x.ndim == 4]
    everything = [x.shape for x in jax.tree.leaves(weights.params) if x.ndim == 4]
    assert len(shapes) == len(everything) - len(head)


def kernel_gradients_of(plan):
    return lambda weights, batch: kernel_gradients(plan, weights, batch)


def test_zico_needs_two_batches(batches):
    with pytest.raises(ValueError, match="expected at least 2 batches, got 1"):
        zico(tiny_spec(), batches[:1])


def test_both_scores_come_by_name_and_are_the_same_again(batches):
    spec = tiny_spec()
    first = zero_cost(spec, batches)
    assert set(first) == {"nwot", "zico"}
    assert np.isfinite(list(first.values())).all()
    noisy = replace(spec, backbone=replace(spec.backbone, drop_path=0.3, drop_block=0.2))
    assert zero_cost(noisy, batches) == first


def test_the_sizes_behind_the_scores(images):
    spec = tiny_spec()
    sizes = size_scores(spec)
    # Every image agrees with itself in all units.
    units = np.asarray(code_agreements(spec, initial_weights(spec, 0), images[:5])).sum(0)[0, 0]
    assert sizes["log_units"] == pytest.approx(np.log2(units))
    plan = Plan(spec, TrainConfig(batch_size=1), 1, 16, jnp.float32)
    weights = initial_weights(spec, 0)
    (batch,) = draw_batches(tiny_pixels(1), batches=1, batch_size=1)
    shapes = jax.eval_shape(kernel_gradients_of(plan), weights, batch)
    counts = sum(np.log2(np.prod(leaf.shape)) for leaf in shapes)
    assert sizes["log_kernels"] == pytest.approx(counts)


def test_batches_are_labelled_images_and_the_same_for_a_seed():
    pixels = tiny_pixels(20)
    pixels.valid[5:] = False
    drawn = draw_batches(pixels, batches=2, batch_size=4)
    assert [batch.images.shape for batch in drawn] == [(4, 64, 64, 3)] * 2
    # Five have boxes, and come first.
    labelled = [bool(found) for batch in drawn for found in np.asarray(batch.valid).any(1)]
    assert labelled == [True] * 5 + [False] * 3
    again = draw_batches(pixels, batches=2, batch_size=4)
    np.testing.assert_array_equal(drawn[1].images, again[1].images)
    assert draw_batches(tiny_pixels(3))[3].images.shape == (4, 64, 64, 3)


def kinds():
    """Every block, attention, norm, activation and form of head, three blocks in a network."""
    names, attentions = list(BLOCKS), [name for name in ATTENTIONS if name != "none"]
    head = tiny_spec().head
    heads = (
        head,
        replace(head, one_to_one=True),
        HeadSpec(depth=1, box="cxcywh", objectness=True),
        replace(head, shared=True, stem_width=16, box="ltrb", reg_max=None),
    )
    for number in range(-(-len(names) // 3)):
        backbone = tiny_spec().backbone
        blocks = [names[(3 * number + i) % len(names)] for i in range(3)]
        stages = [
            replace(stage, block=block)
            for stage, block in zip(backbone.stages, blocks, strict=True)
        ]
        stages[2] = replace(stages[2], attention=attentions[number % len(attentions)])
        yield tiny_spec(
            backbone=replace(backbone, stages=tuple(stages)),
            head=heads[number % 4],
            norm=("batch", "group", "sync_batch")[number % 3],
            activation=("silu", "relu", "hard_swish", "gelu")[number // 2 % 4],
        )


KINDS = list(kinds())


def test_the_kinds_are_all():
    stages = [stage for spec in KINDS for stage in spec.backbone.stages]
    assert {stage.block for stage in stages} == set(BLOCKS)
    assert {stage.attention for stage in stages} == set(ATTENTIONS)
    assert {spec.norm for spec in KINDS} == set(NORMS)
    assert {spec.activation for spec in KINDS} == set(ACTIVATIONS) - {"none"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KINDS)))
def test_nwot_is_finite_for_every_kind(number, images):
    assert 0 < nwot(KINDS[number], images) < np.inf


FEW_AT_ONCE = [
    number if number < 2 else pytest.param(number, marks=pytest.mark.long)
    for number in range(len(KINDS))
]
"""Compiling gradients of the larger blocks takes half a minute each."""


@pytest.mark.slow
@pytest.mark.parametrize("number", FEW_AT_ONCE)
def test_zico_is_finite_for_every_kind(number, batches):
    assert 0 < zico(KINDS[number], batches) < np.inf
