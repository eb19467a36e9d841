"""Noise: off in use, seeded in training, and right on average."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxyolo.nn.backbone import Backbone, drop_path_rates
from flaxyolo.nn.layers import Layers
from flaxyolo.nn.regularize import DropBlock, DropPath, Shortcut, SpatialDropout, randomness
from flaxyolo.spec import BackboneSpec, StageSpec
from tests.programs import equations

KINDS = (DropPath, DropBlock, SpatialDropout)
BACKBONE = BackboneSpec(
    stem_width=8,
    stages=tuple(StageSpec(block="residual", width=16, depth=2) for _ in range(4)),
)
NOISY = replace(BACKBONE, drop_path=0.3, drop_block=0.1, spatial_dropout=0.2)


def training(module):
    return nnx.view(module, deterministic=False, raise_if_not_found=False)


def run(module, x, seed):
    with randomness(jax.random.key(seed)):
        return module(x)


def draws(module, x, count):
    """What the module makes of x with `count` keys."""
    keys = jax.random.split(jax.random.key(0), count)

    def one(key):
        with randomness(key):
            return module(x)

    return np.asarray(jax.vmap(one)(keys))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_off_in_use_and_at_rate_zero_and_then_asks_for_no_key(kind):
    x = jnp.ones((2, 4, 4, 8))
    assert kind(0.5)(x) is x
    assert nnx.view(kind(0.5), deterministic=True)(x) is x
    assert training(kind(0.0))(x) is x


@pytest.mark.parametrize("kind", KINDS)
def test_noise_in_training_without_a_key_is_refused(kind):
    with pytest.raises(RuntimeError, match="in training without a key"):
        training(kind(0.5))(jnp.ones((2, 4, 4, 8)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_gives_its_numbers_and_another_gives_others(kind):
    module, x = training(kind(0.3)), jnp.ones((16, 9, 8, 8))
    first, same, other = (run(module, x, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert first.dtype == x.dtype
    assert run(module, x.astype(jnp.bfloat16), 1).dtype == jnp.bfloat16


def test_two_layers_of_one_network_draw_different_numbers():
    one, two = training(SpatialDropout(0.5)), training(SpatialDropout(0.5))
    x = jnp.ones((2, 1, 1, 64))
    with randomness(jax.random.key(0)):
        assert (one(x) != two(x)).any()


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("kind", [DropPath, SpatialDropout])
def test_the_mean_over_many_draws_is_the_input(kind, rate):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 2, 3)), jnp.float32)
    made = draws(training(kind(rate)), x, 4000)
    assert (made == 0).any()
    # A mean of 4000 draws lies within five standard errors.
    error = 5 * np.abs(x) * np.sqrt(rate / (1 - rate) / 4000)
    assert (np.abs(made.mean(0) - x) <= error).all()
    np.testing.assert_allclose((made == 0).mean(), rate, atol=0.02)


def test_drop_path_drops_whole_images():
    y = np.asarray(run(training(DropPath(0.5)), jnp.ones((64, 3, 3, 4)), 0))
    assert set(np.unique(y)) == {0, 2}
    assert (y == y[:, :1, :1, :1]).all()


def test_spatial_dropout_drops_whole_channels_of_an_image():
    y = np.asarray(run(training(SpatialDropout(0.5)), jnp.ones((8, 3, 3, 16)), 0))
    assert set(np.unique(y)) == {0, 2}
    assert (y == y[:, :1, :1]).all()
    assert len({tuple(image) for image in y[:, 0, 0]}) > 1
    assert (y[0, 0, 0] != y[0, 0, 0, 0]).any()


@pytest.mark.parametrize(("height", "width", "block"), [(16, 12, 7), (5, 9, 5), (1, 1, 1)])
def test_drop_block_drops_squares_and_keeps_the_mean(height, width, block):
    module, x = training(DropBlock(0.2)), jnp.ones((32, height, width, 16))
    y = np.asarray(run(module, x, 0))
    dropped = y == 0
    assert dropped.any()
    # What is kept is scaled up alike, so that the mean is kept in every draw.
    assert len(np.unique(y)) == 2
    np.testing.assert_allclose(y.mean(dtype=np.float64), 1, rtol=1e-5)
    # Squares may overlap and so cover a little less than their number says.
    assert 0.12 < dropped.mean() < 0.23
    # Every dropped cell lies in a square of dropped cells.
    squares = np.zeros_like(dropped)
    for i in range(height - block + 1):
        for j in range(width - block + 1):
            part = (slice(None), slice(i, i + block), slice(j, j + block))
            squares[part] |= dropped[part].all((1, 2), keepdims=True)
    np.testing.assert_array_equal(squares, dropped)
    assert (dropped[:, :, :, 0] != dropped[:, :, :, 1]).any()


def test_drop_block_keeps_the_mean_of_a_feature_over_many_draws():
    x = jnp.asarray(1 + np.random.default_rng(0).random((2, 10, 10, 4)), jnp.float32)
    made = draws(training(DropBlock(0.1)), x, 400)
    np.testing.assert_allclose(made.mean(), x.mean(), rtol=0.01)
    # Cells of the middle are in more squares than those of the corners, but none is left out.
    assert (made.mean((0, 1, 4)) / np.asarray(x).mean((0, 3))).min() > 0.75


def test_a_map_that_is_dropped_whole_is_zero_and_finite():
    y = run(training(DropBlock(0.99)), jnp.ones((1, 7, 7, 1)), 0)
    assert np.isfinite(y).all()


def test_drop_path_rises_linearly_from_zero_over_all_layers():
    rates = drop_path_rates(NOISY)
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 8))
    network = Backbone(NOISY, conv=Layers(), rng=np.random.default_rng(0))
    made = [part.rate for _, part in nnx.iter_modules(network) if isinstance(part, DropPath)]
    np.testing.assert_allclose(sorted(made), rates)
    assert drop_path_rates(BACKBONE) == [0.0] * 8


def test_blocks_and_channels_are_dropped_from_stride_16_on():
    network = Backbone(NOISY, conv=Layers(), rng=np.random.default_rng(0))
    assert network.strides == (4, 8, 16, 32)
    assert [stage.drop_block.rate for stage in network.stages] == [0, 0, 0.1, 0.1]
    assert [stage.spatial_dropout.rate for stage in network.stages] == [0, 0, 0.2, 0.2]


def program(spec, *, train):
    """The backbone's program."""
    network = Backbone(spec, conv=Layers(), rng=np.random.default_rng(0))
    view = nnx.view(network, use_running_average=not train, deterministic=not train)
    graph, state = nnx.split(view)

    def call(state, images):
        with randomness(jax.random.key(0)):
            return nnx.merge(graph, state)(images)

    state = jax.tree.map(jnp.asarray, nnx.as_pure(state))
    return jax.make_jaxpr(call)(state, jnp.zeros((1, 64, 64, 3))).jaxpr


def test_noise_costs_nothing_in_use():
    assert str(program(NOISY, train=False)) == str(program(BACKBONE, train=False))
    assert not list(equations(program(BACKBONE, train=True), "random_bits"))
    # Drop path of seven layers (the first has rate 0), and both others of two stages.
    drawn = list(equations(program(NOISY, train=True), "random_bits"))
    assert len(drawn) == 7 + 2 + 2


def test_a_shortcut_adds_the_branch_scaled_or_not_at_all():
    x, branch = jnp.ones((32, 1, 1, 8)), 3 * jnp.ones((32, 1, 1, 8))
    shortcut = Shortcut(0.5)
    np.testing.assert_array_equal(shortcut(x, branch), x + branch)
    with randomness(jax.random.key(0)):
        assert set(np.unique(training(shortcut)(x, branch))) == {1, 1 + 2 * 3}
