"""Arrays as one vector, and Adam on it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxyolo.config import TrainConfig
from flaxyolo.nn.platform import traced_for
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import compile_step, start
from flaxyolo.training.vectors import as_arrays, as_vector, parted, scale_by_adam
from tests.programs import equations
from tests.small import tiny_feed, tiny_spec

FEED = tiny_feed(4)
RNG = np.random.default_rng(0)
SHAPES = {"kernel": (3, 3, 4, 8), "other": (3, 3, 4, 8), "scale": (8,), "bias": (8,), "one": ()}


def arrays(scale=1.0):
    return {
        name: jnp.asarray(RNG.normal(0, scale, shape), jnp.float32)
        for name, shape in SHAPES.items()
    }


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_a_vector_is_parted_into_its_arrays(platform):
    tree, other = arrays(), arrays()
    vectors = as_vector(tree), as_vector(other)
    with traced_for(platform):
        first, second = jax.jit(parted)(vectors, tree)
    assert_equal(first, tree)
    assert_equal(second, other)
    assert_equal(as_arrays(np.asarray(vectors[0]), tree), tree)


def test_nothing_is_an_empty_vector():
    assert as_vector({}).shape == (0,)
    assert as_arrays(np.zeros(0, np.float32), {}) == {}


def test_the_places_of_slices_are_hidden_from_xla_on_a_cpu():
    """XLA compiles equal kernels once, so none may hold the place of its slice."""
    tree = arrays()
    program = jax.jit(parted).lower((as_vector(tree),), tree).compile().as_text()
    assert program is not None
    assert program.count(" conditional(") == 1


@pytest.mark.parametrize("clip_norm", [0.5, 1e6])
def test_adam_on_a_vector_is_that_of_optax_bit_for_bit(clip_norm):
    params = arrays()
    theirs = optax.chain(optax.clip_by_global_norm(clip_norm), optax.scale_by_adam())
    mine = scale_by_adam(clip_norm)
    states = theirs.init(params), mine.init(params)
    updates = [jax.jit(one.update) for one in (theirs, mine)]
    for _ in range(4):
        grads = arrays(0.3)
        (a, first), (b, second) = (
            update(grads, state) for update, state in zip(updates, states, strict=True)
        )
        states = first, second
        assert_equal(a, b)
    # In the order of a checkpoint: what is stored of one is taken by the other.
    stored = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state)]) for state in states
    ]
    assert_equal(*stored)


def test_an_accelerator_slices_at_places_that_are_known():
    tree = arrays()
    with traced_for("cuda"):
        program = jax.make_jaxpr(parted)((as_vector(tree),), tree)
    assert not list(equations(program.jaxpr, "cond"))


def test_a_detector_without_batch_statistics_trains_and_its_average_follows():
    spec, config = tiny_spec(norm="group"), TrainConfig(epochs=1, batch_size=4, ema_decay=0.0)
    plan = plan_run(spec, config, FEED.pixels)
    state = start(plan)
    assert_equal(as_arrays(state.ema.params, state.weights.params), state.weights.params)
    step = compile_step(plan, state, FEED)
    state, _, _ = step(state, *next(FEED.batches(config, 0)))
    assert state.ema.stats.shape == (0,)
    # Without decay the average is the weights.
    assert_equal(as_arrays(state.ema.params, state.weights.params), state.weights.params)
