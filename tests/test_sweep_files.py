"""Every file of `sweeps/`: its draws build, are rebuilt from their parameters, and train."""

import runpy
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna
import pytest
from flax import nnx

from flaxyolo.config import TrainConfig
from flaxyolo.data.batches import Batch
from flaxyolo.nn import conv, conv_forms
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.context import CONTEXTS
from flaxyolo.nn.detector import Detector, initial_weights
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.layers import ACTIVATIONS
from flaxyolo.nn.neck import NECKS
from flaxyolo.nn.stem import STEMS
from flaxyolo.search.space import REFERENCE, reference_params, suggest_detector
from flaxyolo.spec import SELF_ATTENTIONS, BackboneSpec, DetectorSpec, HeadSpec, NeckSpec
from flaxyolo.training.plan import Plan, make_optimizer
from flaxyolo.training.step import total_loss

FOLDER = Path(__file__).resolve().parents[1] / "sweeps"
FILES = ("default", "full", "small_objects", "edge_cpu", "gpu", "tiny")


@cache
def space(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["suggest"]


def draws(suggest, count, seed=0):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(count):
        trial = study.ask()
        yield trial, suggest(trial)


def builds(spec, run=True):
    """The network of a spec exists and says what it should; computes nothing."""
    network = nnx.eval_shape(lambda: Detector(spec, rng=np.random.default_rng(0)))
    if not run:
        return True
    images = jax.ShapeDtypeStruct((2, spec.image_size, spec.image_size, 3), jnp.float32)
    graph, weights = nnx.split(network)
    predictions = jax.eval_shape(lambda w, x: nnx.merge(graph, w)(x), weights, images)
    points = sum((spec.image_size // stride) ** 2 for stride in spec.strides)
    assert predictions.logits.shape == (2, points, spec.num_classes)
    assert predictions.boxes.shape == (2, points, 4)
    assert predictions.distances.shape == (2, points, 4, spec.head.bins)
    return True


@pytest.fixture
def plain_convolutions(monkeypatch):
    """XLA's own convolution for every shape: the forms for CPUs take long to trace."""
    monkeypatch.setattr(conv, "conv2d", conv_forms.plain_form)


def check(name, count, seed, run_every=1):
    suggest = space(name)
    for trial, spec in draws(suggest, count, seed):
        assert suggest(optuna.trial.FixedTrial(trial.params)) == spec
        assert builds(spec, run=trial.number % run_every == 0), spec


def test_every_file_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(FILES)


@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize("name", FILES)
def test_random_draws_build_and_are_rebuilt_from_their_parameters(name):
    check(name, 16 if name == "full" else 8, seed=0, run_every=2)


@pytest.mark.long
@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize("name", FILES)
def test_500_random_draws_build_and_are_rebuilt_from_their_parameters(name):
    check(name, 500, seed=1, run_every=5)


@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize("name", FILES)
def test_every_space_has_a_nearest_point_to_the_reference(name):
    suggest = space(name)
    params = reference_params(suggest)
    spec = suggest(optuna.trial.FixedTrial(params))
    assert builds(spec)
    # A study enqueues these parameters: each must be one the space could have drawn.
    study = optuna.create_study()
    study.enqueue_trial(params)
    trial = study.ask()
    assert suggest(trial) == spec
    assert trial.params == params


@pytest.mark.parametrize("name", ["default", "full"])
def test_the_reference_itself_is_in_the_spaces_that_can_hold_it(name):
    suggest = space(name)
    spec = suggest(optuna.trial.FixedTrial(reference_params(suggest)))
    reference = suggest_detector(optuna.trial.FixedTrial(REFERENCE))
    assert spec.head.bins == reference.head.bins == 16
    assert replace(spec, head=replace(spec.head, reg_max=None)) == reference


def test_the_full_space_opens_every_table_and_every_field():
    specs = [spec for _, spec in draws(space("full"), 500)]
    backbones = [spec.backbone for spec in specs]
    stages = [stage for backbone in backbones for stage in backbone.stages]
    assert {stage.block for stage in stages} == set(BLOCKS)
    assert {stage.attention for stage in stages} == set(ATTENTIONS)
    assert {stage.downsample for stage in stages} == set(DOWNSAMPLES)
    assert {backbone.stem for backbone in backbones} == set(STEMS)
    assert {backbone.context for backbone in backbones} == set(CONTEXTS)
    assert {spec.neck.kind for spec in specs} == set(NECKS)
    assert {spec.norm for spec in specs} == {"batch", "group"}
    assert {spec.activation for spec in specs} == set(ACTIVATIONS) - {"none"}
    per_level = [spec for spec in specs if isinstance(spec.neck.attention, tuple)]
    assert {name for spec in per_level for name in spec.neck.attentions} >= set(SELF_ATTENTIONS)
    assert {spec.neck.levels for spec in specs} >= {
        (3, 4, 5),
        (2, 3, 4, 5),
        (2, 3, 4),
        (3, 4, 5, 6),
    }
    parts = {
        BackboneSpec: backbones,
        NeckSpec: [spec.neck for spec in specs],
        HeadSpec: [spec.head for spec in specs],
        type(stages[0]): stages,
    }
    for kind, values in parts.items():
        for field in fields(kind):
            seen = {getattr(value, field.name) for value in values}
            assert len(seen) > 1, f"{kind.__name__}.{field.name} is always {seen}"


def test_full_asks_only_what_matters():
    for trial, spec in draws(space("full"), 100):
        asked = trial.params
        assert ("head.reg_max" in asked) == (spec.head.box == "dfl")
        assert ("context_place" in asked) == (spec.backbone.context != "none")
        assert ("neck.repeats" in asked) == (spec.neck.kind == "bifpn")
        assert ("neck.reduce" in asked) == (spec.neck.kind != "bifpn")
        assert ("c5.width" in asked) == (spec.neck.levels[-1] >= 5)
        assert ("neck.out_width" in asked) == (spec.neck.out_width is not None)
        assert ("head.stem_width" in asked) == (spec.head.stem_width is not None)


def test_narrow_spaces_keep_to_their_reasons():
    for _, spec in draws(space("small_objects"), 60):
        assert spec.neck.levels[0] == 2
        assert spec.image_size >= 160
        assert all(stage.depth == 1 for stage in spec.backbone.stages[2:])
    for _, spec in draws(space("gpu"), 60):
        assert all(stage.width % 16 == 0 for stage in spec.backbone.stages)
        assert all(stage.attention == "none" for stage in spec.backbone.stages[:2])
    for _, spec in draws(space("edge_cpu"), 60):
        assert all(stage.attention == "none" for stage in spec.backbone.stages)
        assert max(stage.width for stage in spec.backbone.stages) <= 144
    for _, spec in draws(space("tiny"), 60):
        assert spec.image_size == 64
        assert max(stage.width for stage in spec.backbone.stages) <= 32


def boxes_of_all_sizes(size, count):
    """A batch of noise with squares around the middle, from one cell to the whole image."""
    rng = np.random.default_rng(0)
    sides = np.array([6, 12, 24, 48, 0.9 * size])
    middle = size / 2 + rng.uniform(-3, 3, (count, len(sides), 2))
    half = np.broadcast_to(sides[None, :, None] / 2, middle.shape)
    boxes = np.concatenate([middle - half, middle + half], -1).astype(np.float32)
    return Batch(
        jnp.asarray(rng.random((count, size, size, 3), np.float32)),
        jnp.asarray(boxes),
        jnp.asarray(rng.integers(0, 3, boxes.shape[:2]), jnp.int32),
        jnp.ones(boxes.shape[:2], bool),
        jnp.int32(0),
    )


def two_steps(spec):
    """Losses of two steps, and of each parameter the largest gradient in either."""
    # Every point inside a box learns it, so that every level of the head learns.
    config = TrainConfig(epochs=1, batch_size=4, tal_topk=10_000, tal_beta=0.5)
    plan = Plan(spec, config, steps_per_epoch=2, slots=5, dtype=jnp.float32)
    params, stats = initial_weights(spec, 0)
    batch = boxes_of_all_sizes(spec.image_size, config.batch_size)
    optimizer = make_optimizer(plan)
    state = optimizer.init(params)

    def step(params, stats, state, key):
        gradient = jax.value_and_grad(total_loss, has_aux=True)
        (loss, (_, stats)), grads = gradient(params, stats, batch, plan, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), stats, state, loss, grads

    keys = jax.random.split(jax.random.key(0))
    run = compile_ahead(jax.jit(step), params, stats, state, keys[0])
    losses, largest = [], jax.tree.map(lambda x: 0.0, params)
    for key in keys:
        params, stats, state, loss, grads = run(params, stats, state, key)
        losses.append(float(loss))
        largest = jax.tree.map(lambda a, g: np.maximum(a, np.abs(g).max()), largest, grads)
    return losses, paths(largest)


def paths(tree, prefix=()):
    if not isinstance(tree, Mapping):
        return {".".join(map(str, prefix)): tree}
    return {k: v for key in tree for k, v in paths(tree[key], (*prefix, key)).items()}


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_draws_of_the_full_space_learn_in_every_parameter(number):
    suggest = partial(space("full"), image_sizes=(96,))
    ((_, spec),) = draws(suggest, 1, seed=number)
    losses, largest = two_steps(replace(spec, num_classes=3))
    assert np.isfinite(losses).all(), (losses, spec)
    assert np.isfinite(list(largest.values())).all(), spec
    # With one point for each object, not every level has one whose box it learns.
    spared = [name for name in largest if name.startswith("head.one_to_one.box")]
    assert not spared or any(largest[name] > 0 for name in spared)
    dead = [name for name, value in largest.items() if value == 0 and name not in spared]
    assert not dead, (dead, spec)


def test_a_draw_of_the_default_space_learns_in_every_parameter():
    suggest = partial(suggest_detector, image_sizes=(96,))
    ((_, spec),) = draws(suggest, 1, seed=3)
    losses, largest = two_steps(replace(spec, num_classes=3))
    assert np.isfinite(losses).all()
    assert min(largest.values()) > 0


def test_spaces_take_the_sizes_of_the_data():
    for name in set(FILES) - {"tiny"}:
        specs = [spec for _, spec in draws(partial(space(name), image_sizes=(256, 320)), 12)]
        assert {spec.image_size for spec in specs} <= {256, 320}
        assert all(isinstance(spec, DetectorSpec) for spec in specs)
