"""Weights of any detector from those of any other: what is kept, what is new, what differs."""

import math
import runpy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from flax import nnx

from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.conv import Conv
from flaxyolo.nn.detector import (
    Weights,
    abstract_weights,
    graph,
    initial_weights,
    predict,
)
from flaxyolo.nn.neck import NECKS
from flaxyolo.search.space import suggest_detector
from flaxyolo.weights.inherit.channels import (
    LIVE,
    SILENT,
    channels_of_heads,
    choose,
    gathered_kernel,
    joined,
)
from flaxyolo.weights.inherit.detector import inherit
from tests.entries import ENTRIES, small, trained

pytestmark = pytest.mark.slow

FULL = runpy.run_path(str(Path(__file__).parents[2] / "sweeps/full.py"))["suggest"]
IMAGES = np.random.default_rng(0).random((1, 64, 64, 3), dtype=np.float32)
KEPT = 1e-4
"""Largest difference of logits, and of boxes in strides of 8 px, where a function is kept."""

CHAINS = ("plain", "bottleneck", "grouped", "repvgg", "c3_plain", "c3_separable_plain")
DEEPER_CHANGES = (*CHAINS, "cspnext_plain", "cspnext_last")
"""Blocks whose layers have an activation behind all paths, so that no new one is an identity."""


@lru_cache(maxsize=4)
def outputs_of_parent(spec):
    return outputs(spec, trained(spec))


def outputs(spec, weights):
    # At the lowest level compiling takes a fraction, and nothing is run twice.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    function = jax.jit(lambda weights, images: predict(spec, weights, images, jnp.float32))
    return function.lower(weights, IMAGES).compile(options)(weights, IMAGES)


def difference(one, other):
    """Of logits and objectness, and of boxes in strides of 8 px."""
    pairs = [(one.logits, other.logits), (one.boxes / 8, other.boxes / 8)]
    if one.objectness is not None and other.objectness is not None:
        pairs.append((one.objectness, other.objectness))
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def grown(parent, child):
    """What is inherited, and how far the child's outputs are from the parent's."""
    inherited = inherit(child, parent, trained(parent), 3)
    return inherited, difference(outputs_of_parent(parent), outputs(child, inherited.weights))


def check_kept(parent, child):
    inherited, apart = grown(parent, child)
    assert inherited.changes == ()
    assert apart < KEPT
    return inherited


def check_changed(parent, child, why):
    inherited, apart = grown(parent, child)
    assert why in " ".join(change.why for change in inherited.changes)
    assert apart > KEPT
    return inherited


def check_same(spec):
    """An equal detector has equal weights, all of them copied."""
    inherited = inherit(spec, spec, trained(spec), 3)
    for one, other in zip(
        jax.tree.leaves(inherited.weights), jax.tree.leaves(trained(spec)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert inherited.share == 1
    assert inherited.shares == {"copied": 1}
    assert inherited.changes == ()


def test_a_channel_map_keeps_all_channels_or_those_that_matter():
    rank = np.array([3.0, 1.0, 2.0, 5.0])
    assert choose(6, rank).tolist() == [0, 1, 2, 3, SILENT, SILENT]
    assert choose(2, rank).tolist() == [0, 3]
    assert choose(2, rank, ranked=False).tolist() == [0, 1]
    assert joined([np.array([0, SILENT]), np.array([1, LIVE])], [3, 2]).tolist() == [0, -1, 4, -2]
    heads = channels_of_heads(np.array([1, SILENT]), (3, 2), rank, ranked=True)
    assert heads.tolist() == [2, 3, SILENT, SILENT, SILENT, SILENT]


def test_a_kernel_finds_its_numbers_by_the_maps():
    rng = np.random.default_rng(0)
    parent, child = Conv(3, 2, 1, rng=rng), Conv(4, 3, 3, rng=rng)
    fresh, old = (np.asarray(conv.kernel[...]).copy() for conv in (child, parent))
    kernel, taken = gathered_kernel(
        child, parent, np.array([2, SILENT, LIVE, 0]), np.array([1, SILENT, 0])
    )
    np.testing.assert_array_equal(
        kernel[1, 1, 0], [old[0, 0, 2, 1], fresh[1, 1, 0, 1], old[0, 0, 2, 0]]
    )
    np.testing.assert_array_equal(
        kernel[1, 1, 3], [old[0, 0, 0, 1], fresh[1, 1, 3, 1], old[0, 0, 0, 0]]
    )
    # Around the old taps there is nothing, and nobody listens to a channel that speaks already.
    assert not kernel[0, 0, 0, [0, 2]].any()
    assert not kernel[..., 2, [0, 2]].any()
    np.testing.assert_array_equal(kernel[:, :, 1], fresh[:, :, 1])
    assert taken == 4


@pytest.mark.parametrize("groups", [(2, 1), (1, 2), (4, 4), (4, 1), (1, 4)])
def test_kernels_of_other_groups_keep_the_pairs_of_channels_that_both_have(groups):
    rng = np.random.default_rng(0)
    child, parent = (Conv(4, 4, 1, groups=count, rng=rng) for count in groups)
    same = np.arange(4)

    def dense(kernel, count):
        size = 4 // count
        full = np.zeros((4, 4))
        for output in range(4):
            first = output // size * size
            full[first : first + size, output] = kernel[0, 0, :, output]
        return full

    kernel = gathered_kernel(child, parent, same, same).array
    old = dense(np.asarray(parent.kernel[...]), groups[1])
    mask = dense(np.ones((1, 1, 4 // groups[0], 4)), groups[0])
    np.testing.assert_array_equal(dense(kernel, groups[0]), old * mask)


def bifpn(width):
    return {"kind": "bifpn", "widths": width, "block": "c2f_plain"}


WIDER_CHANGES = {"attention window": "heads", "attention area": "heads"}
"""Heads of 32 channels become three of 16 in a map of 48."""


@pytest.mark.parametrize("name", ENTRIES)
def test_an_equal_detector_has_equal_weights(name):
    check_same(small(**ENTRIES[name]))


@pytest.mark.parametrize("name", [name for name in ENTRIES if name != "attention cbam"])
def test_a_wider_detector_does_what_its_parent_does(name):
    parent, child = small(**ENTRIES[name]), small(24, **ENTRIES[name])
    if name in WIDER_CHANGES:
        check_changed(parent, child, WIDER_CHANGES[name])
    else:
        assert check_kept(parent, child).share < 0.95


@pytest.mark.parametrize("attention", ["window", "area"])
def test_whole_heads_of_self_attention_stay(attention):
    check_kept(small(attention=attention), small(32, attention=attention))


@pytest.mark.parametrize(
    ("attention", "why"), [("cbam", "the maximum over more channels"), ("eca", "other neighbours")]
)
def test_attention_across_channels_sees_the_new_ones_of_relu(attention, why):
    common = {"attention": attention, "network": {"activation": "relu"}}
    check_changed(small(**common), small(24, **common), why)


@pytest.mark.parametrize("neck", NECKS)
def test_wider_necks_over_three_levels_do_what_their_parents_do(neck):
    for one, other in [(16, 24), ((16,) * 3, (32,) * 3)]:
        if neck != "bifpn" or isinstance(one, int):
            shapes = [
                {"kind": neck, "levels": (2, 3, 4), "block": "c3", "widths": width}
                for width in (one, other)
            ]
            check_kept(
                small(widths=(16, 24, 32), neck=shapes[0]),
                small(widths=(24, 40, 48), neck=shapes[1]),
            )


def test_levels_that_a_weighted_fusion_takes_as_they_are_stay_aligned():
    parent = small(widths=(16,) * 3, neck=bifpn(None))
    check_same(parent)
    check_kept(parent, small(widths=(24,) * 3, neck=bifpn(None)))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_deeper_block_does_what_its_parent_does_if_a_layer_can_be_the_identity(block):
    parent, child = small(block=block), small(block=block, depth=2)
    if block in DEEPER_CHANGES:
        check_changed(parent, child, "an activation after what is passed on")
    else:
        check_kept(parent, child)


@pytest.mark.parametrize("block", CHAINS)
def test_behind_relu_what_is_passed_on_stays_what_it_is(block):
    network = {"activation": "relu"}
    check_kept(small(block=block, network=network), small(block=block, depth=2, network=network))


def test_group_norm_keeps_whole_groups_of_channels():
    common = {"block": "c2f", "network": {"norm": "group"}}
    check_kept(small(**common), small(32, **common))
    check_changed(small(**common), small(24, **common), "other groups of channels")


GROWTHS = {
    "bins": ({"head": {"reg_max": 4}}, {"head": {"reg_max": 8}}),
    "a kernel": ({"block": "depthwise"}, {"block": "depthwise_k5"}),
    "the stem's kernel": ({}, {"backbone": {"stem": "conv6"}}),
    "a stem that sees squares": ({}, {"backbone": {"stem": "focus"}}),
    "a large kernel for a stem that sees squares": (
        {"backbone": {"stem": "focus"}},
        {"backbone": {"stem": "conv6"}},
    ),
    "a split for two paths": ({"block": "c3"}, {"block": "c2f", "depth": 2}),
    "a learned up-sampling": ({}, {"neck": {"upsample": "transpose"}}),
    "parallel branches": ({}, {"downsample": "rep", "backbone": {"stem": "rep"}}),
    "branches in a block": ({"block": "c2f"}, {"block": "c2f_rep"}),
    "a large kernel beside": ({"block": "c2f_cib"}, {"block": "c2f_cib_lk"}),
    "a self-attention": ({}, {"attention": "window"}),
    "a branch of its own for every level": (
        {"head": {"stem_width": 16, "shared": True}},
        {"head": {"stem_width": 16}},
    ),
    "a pair of one-to-one branches": ({}, {"head": {"one_to_one": True}}),
    "branches folded into one": ({"downsample": "rep", "block": "c2f_rep"}, {"block": "c2f"}),
}


@pytest.mark.parametrize("name", GROWTHS)
def test_what_can_be_added_without_a_change_is(name):
    before, after = (small(**changes) for changes in GROWTHS[name])
    check_kept(before, after)


CHANGES = {
    "another block": ({"block": "residual"}, {"block": "c2f"}, "C2f instead of"),
    "another layer": ({"block": "residual"}, {"block": "depthwise"}, "instead of Bottleneck"),
    "another activation": ({}, {"network": {"activation": "relu"}}, "relu instead of silu"),
    "another norm": ({}, {"network": {"norm": "group"}}, "another norm"),
    "fewer bins": ({"head": {"reg_max": 8}}, {}, "fewer bins"),
    "other boxes": ({}, {"head": {"box": "ltrb", "reg_max": None}}, "boxes of another form"),
    "a gate": ({}, {"attention": "se"}, "a fresh gate"),
    "no gate": ({"attention": "se"}, {}, "no SqueezeExcite"),
    "a context": ({}, {"backbone": {"context": "sppf"}}, "SPPF instead of NoContext"),
    "fewer layers": ({"depth": 2}, {}, "1 layers of 2"),
    "a way up": ({"neck": {"kind": "fpn"}}, {"neck": {"kind": "pan"}}, "a new node"),
    "no way up": ({"neck": {"kind": "pan"}}, {"neck": {"kind": "fpn"}}, "no way up"),
    "weighted fusion": ({}, {"neck": bifpn(16)}, "BiFPN instead of FPN"),
    "a deeper head": ({}, {"head": {"depth": 2}}, "an activation after what is passed on"),
    "one branch for all": (
        {"head": {"stem_width": 16}},
        {"head": {"stem_width": 16, "shared": True}},
        "one branch for all levels",
    ),
    "another stem": ({}, {"backbone": {"stem": "patchify"}}, "another stride"),
    "a small kernel for a stem that sees squares": (
        {"backbone": {"stem": "focus"}},
        {},
        "a smaller kernel",
    ),
    "one convolution for a separable one": (
        {"downsample": "separable", "head": {"box_conv": "separable"}},
        {},
        "one convolution instead of two",
    ),
    "two paths for a split": ({"block": "c2f"}, {"block": "c3"}, "C3 instead of C2f"),
    "a smaller kernel": ({"block": "depthwise_k5"}, {"block": "depthwise"}, "a smaller kernel"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_told_and_the_rest_is_kept(name):
    before, after, why = CHANGES[name]
    inherited = check_changed(small(**before), small(**after), why)
    assert inherited.share > 0.3
    assert why in inherited.describe() or len(inherited.changes) > 1


def test_a_new_finest_level_leaves_the_other_levels_as_they_were():
    parent = small(neck={"levels": (3, 4)})
    child = small(neck={"levels": (2, 3, 4)}, head={"box_width": 16, "class_width": 16})
    inherited = inherit(child, parent, trained(parent), 3)
    before, after = outputs_of_parent(parent), outputs(child, inherited.weights)
    assert after.logits.shape[1] == before.logits.shape[1] + 16 * 16
    np.testing.assert_allclose(after.logits[:, 256:], before.logits, atol=KEPT)
    np.testing.assert_allclose(after.boxes[:, 256:], before.boxes, atol=8 * KEPT)
    fresh = {part.path for part in inherited.parts if part.kind == "fresh"}
    assert "head.box.0.predict" in fresh
    assert not any(path.startswith(("backbone", "head.box.1", "head.cls.2")) for path in fresh)


def test_a_finest_level_left_out_leaves_the_others_of_a_pyramid_as_they_were():
    parent = small(neck={"levels": (2, 3, 4)})
    child = small(neck={"levels": (3, 4)})
    inherited = inherit(child, parent, trained(parent), 3)
    before, after = outputs_of_parent(parent), outputs(child, inherited.weights)
    np.testing.assert_allclose(after.logits, before.logits[:, 256:], atol=KEPT)
    assert inherited.share == 1


def test_a_coarsest_level_left_out_leaves_the_stages_and_branches_of_the_rest():
    parent = small(widths=(16, 16, 24, 24), neck={"levels": (3, 4, 5)})
    child = small(widths=(16, 16, 24), neck={"levels": (3, 4)})
    inherited = inherit(child, parent, trained(parent), 3)
    assert "no coarser level" in [change.why for change in inherited.changes]
    fresh = [part.path for part in inherited.parts if part.kind == "fresh"]
    assert fresh == []


def test_stages_are_matched_by_their_stride():
    parent = small(widths=(16, 16, 24))
    stages = parent.backbone.stages
    extra = replace(stages[1], stride=1)
    child = replace(
        parent, backbone=replace(parent.backbone, stages=(*stages[:2], extra, *stages[2:]))
    )
    inherited = inherit(child, parent, trained(parent), 3)
    sources = {part.path: part.source for part in inherited.parts}
    assert (
        sources["backbone.stages.3.downsample.conv.conv"]
        == "backbone.stages.2.downsample.conv.conv"
    )
    assert sources["backbone.stages.2.downsample.conv.conv"] is None
    back = inherit(parent, child, inherited.weights, 4)
    assert "fewer stages of stride 8" in [change.why for change in back.changes]


def test_another_input_size_takes_all_weights_as_they_are():
    parent = small()
    inherited = inherit(replace(parent, image_size=96), parent, trained(parent), 3)
    assert inherited.shares == {"copied": 1}
    assert inherited.changes == ()


def test_classes_are_matched_by_their_names():
    parent = small()
    child = replace(parent, num_classes=4)
    names = (("blue", "red", "pink", "green"), ("red", "green", "blue"))
    inherited = inherit(child, parent, trained(parent), 3, names=names)
    before, after = outputs_of_parent(parent), outputs(child, inherited.weights)
    np.testing.assert_allclose(after.logits[..., [1, 3, 0]], before.logits, atol=KEPT)
    np.testing.assert_allclose(after.boxes, before.boxes, atol=8 * KEPT)
    fresh = inherit(child, parent, trained(parent), 3)
    kinds = {part.path: part.kind for part in fresh.parts}
    assert kinds["head.cls.0.predict"] == "fresh"
    assert kinds["head.cls.0.layers.0.conv"] == "copied"
    bias = fresh.weights.params["head"]["cls"][0]["predict"]["bias"]
    np.testing.assert_allclose(bias, math.log(5 / 4 / 80**2), rtol=1e-5)


def half_silent(spec):
    """Trained weights of which every second channel behind a norm is zero."""

    def changed(path, leaf):
        if not {"norm", "norms"} & {getattr(key, "key", None) for key in path}:
            return leaf
        if path[-1].key == "scale":
            return (leaf * (np.arange(leaf.size) % 2)).astype(np.float32)
        return np.zeros_like(leaf)

    weights = trained(spec)
    return Weights(jax.tree_util.tree_map_with_path(changed, weights.params), weights.stats)


@pytest.mark.parametrize("block", ["plain", "residual", "bottleneck", "mbconv", "c2f", "c3"])
def test_the_channels_that_matter_are_kept(block):
    changes = {"block": block, "backbone": {"context": "sppf"}, "neck": {"kind": "pan"}}
    parent, child = small(32, **changes), small(**changes)
    weights = half_silent(parent)
    before = outputs(parent, weights)
    apart = [
        difference(
            before, outputs(child, inherit(child, parent, weights, 3, ranked=ranked).weights)
        )
        for ranked in (True, False)
    ]
    assert apart[0] < KEPT < apart[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"neck": lambda width: {"kind": "bifpn", "block": "c2f_plain", "widths": width}},
        {"head": lambda width: {"stem_width": width, "shared": True}},
        {
            "neck": lambda width: {"kind": "pan", "out_width": width},
            "head": lambda width: {"shared": True},
        },
    ],
    ids=["weighted fusion", "shared head", "shared head of last convolutions"],
)
def test_channels_that_levels_have_in_common_are_chosen_for_all(changes):
    parent, child = (
        small(width, widths=(width, 2 * width, 4 * width), **parts)
        for width in (32, 16)
        for parts in [{name: part(width) for name, part in changes.items()}]
    )
    weights = half_silent(parent)
    inherited = inherit(child, parent, weights, 3)
    assert difference(outputs(parent, weights), outputs(child, inherited.weights)) < KEPT


def draws(suggest, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    return [suggest(study.ask(), image_sizes=(64,)) for _ in range(count)]


@pytest.mark.parametrize(
    ("suggest", "count"),
    [(suggest_detector, 6), (FULL, 5), pytest.param(FULL, 9, marks=pytest.mark.long)],
)
def test_any_detector_of_a_space_inherits_from_any_other(suggest, count):
    specs = draws(suggest, count)
    weights = [initial_weights(spec, 1) for spec in specs]
    for parent, old in zip(specs, weights, strict=True):
        for child in specs:
            inherited = inherit(child, parent, old, 0)
            wanted = abstract_weights(child)
            assert jax.tree.structure(inherited.weights) == jax.tree.structure(wanted)
            for array, shape in zip(
                jax.tree.leaves(inherited.weights), jax.tree.leaves(wanted), strict=True
            ):
                assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
                assert np.isfinite(array).all()
            assert inherited.params == sum(x.size for x in jax.tree.leaves(wanted.params))
            assert len({part.path for part in inherited.parts}) == len(inherited.parts)
            assert all(0 <= part.taken <= part.params for part in inherited.parts)
            assert math.isclose(sum(inherited.shares.values()), 1)
            if child == parent:
                assert inherited.changes == ()
                assert inherited.share == 1


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_everything_new_can_learn(activation):
    common = {"network": {"activation": activation}}
    parent = small(**common)
    # New layers that end in ReLU lose some channels for good: there the depth stays.
    child = small(24, depth=1 if activation == "relu" else 2, neck={"kind": "pan"}, **common)
    weights = inherit(child, parent, trained(parent), 3).weights
    images = jnp.asarray(np.random.default_rng(1).random((2, 64, 64, 3), dtype=np.float32))

    def loss(params):
        network = graph(child, train=True, dtype=jnp.float32)
        said = jax.tree.leaves(nnx.merge(network, params, weights.stats)(images))
        return sum((part**2).mean() for part in said)

    slope = jax.jit(jax.grad(loss))
    # What is behind a silent layer learns from the second step on.
    params = jax.tree.map(lambda x, dx: x - 0.01 * dx, weights.params, slope(weights.params))
    gradient = slope(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    still = [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if (np.asarray(leaf) == 0).mean() > 0.1
    ]
    assert " ".join(still) == ""
