"""Training shared by two devices, in a process of its own that is told it has two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from flaxyolo.training.hosts import training_mesh

SCRIPT = """
import json, logging, sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data.batches import to_device
from flaxyolo.nn.detector import initial_weights
from flaxyolo.spec import BackboneSpec, NeckSpec, StageSpec
from flaxyolo.training.distill import teacher_for
from flaxyolo.training.hosts import training_mesh
from flaxyolo.training.loop import train
from flaxyolo.training.step import compile_step, start
from flaxyolo.training.plan import plan_run
from flaxyolo.weights.transfer import Source
from tests.small import tiny_feed, tiny_spec

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
assert len(jax.local_devices()) == 2
CONFIG = TrainConfig(
    epochs=2, batch_size=4, warmup_epochs=0, optimizer="sgd",
    augmentation=Augmentation(close_mosaic_epochs=1),
)
FEED = tiny_feed()


def two_steps(norm, mesh, teacher=None):
    lesson, given = (None, ()) if teacher is None else (teacher.lesson, (teacher.weights,))
    plan = plan_run(tiny_spec(norm=norm), CONFIG, FEED.pixels, lesson)
    state, pixels = start(plan), to_device(FEED.pixels)
    if mesh is not None:
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        state, pixels, given = jax.device_put((state, pixels, given), sharding)
    step = compile_step(plan, state, FEED, mesh, *given)
    losses = []
    for first in (0, 4):
        indices = np.arange(first, first + 4, dtype=np.int32)
        state, terms, _ = step(state, pixels, indices, np.int32(0), *given)
        losses.append([float(term) for term in terms])
    text = step.as_text()
    return np.array(losses), [np.asarray(x) for x in jax.tree.leaves(state.weights)], text


def difference(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


def relative(a, b):
    return float((np.abs(a - b) / np.abs(b)).max())


mesh = training_mesh(4)
loss, weights, text = two_steps("batch", None)
sync_loss, sync_weights, sync_text = two_steps("sync_batch", mesh)
plain_loss, plain_weights, _ = two_steps("batch", mesh)
moved = difference(weights, [np.asarray(x) for x in jax.tree.leaves(
    start(plan_run(tiny_spec(), CONFIG, FEED.pixels)).weights)])

wide = tiny_spec(neck=NeckSpec(kind="fpn", levels=(3, 4), block="plain", widths=24))
source = Source(Path("big"), initial_weights(wide, 3), wide, ("a", "b", "c"))
teacher = teacher_for(source, tiny_spec(), ("a", "b", "c"))
taught_loss, taught_weights, _ = two_steps("batch", None, teacher)
shared_loss, shared_weights, _ = two_steps("sync_batch", mesh, teacher)
taught = next(train(tiny_spec(), FEED, ("a", "b", "c"), CONFIG, teacher=teacher))

stages = tuple(StageSpec(block="residual", width=w, depth=1) for w in (8, 16, 16))
noisy = tiny_spec(backbone=BackboneSpec(
    stem_width=8, stages=stages, drop_path=0.5, drop_block=0.2, spatial_dropout=0.2))
out = Path(sys.argv[1])
whole = list(train(noisy, FEED, ("a", "b", "c"), CONFIG))[-1]
part = train(noisy, FEED, ("a", "b", "c"), CONFIG, run_dir=out)
next(part)
part.close()
resumed = list(train(noisy, FEED, ("a", "b", "c"), CONFIG, run_dir=out))
ends = [[np.asarray(x) for x in jax.tree.leaves(e.detector.weights)] for e in (resumed[-1], whole)]
places = {len(x.devices()) for x in jax.tree.leaves(whole.detector.weights)}
odd = next(train(tiny_spec(), FEED, ("a", "b", "c"), replace(CONFIG, batch_size=3)))
print(json.dumps({
    "moved": moved,
    "sync_loss": relative(sync_loss, loss), "sync_weights": difference(sync_weights, weights),
    "taught_loss": relative(shared_loss, taught_loss),
    "taught_weights": difference(shared_weights, taught_weights),
    "taught": [float(x) for x in taught.loss],
    "plain_loss": relative(plain_loss, loss), "plain_weights": difference(plain_weights, weights),
    "collectives": ["all-reduce" in text, "all-reduce" in sync_text, "all-gather" in sync_text],
    "resumed": difference(*ends), "epochs": [e.number for e in resumed],
    "places": sorted(places), "odd": [float(x) for x in odd.loss],
}))
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the script found on two devices, and its log."""
    out = tmp_path_factory.mktemp("two")
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    settings = {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_RANK_PROMOTION": "raise",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(out)],
        env=os.environ | settings,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


@pytest.mark.slow
def test_two_devices_with_synchronised_norm_train_as_one_with_the_whole_batch(two):
    found, _ = two
    assert found["moved"] > 0.01
    assert found["sync_loss"] < 1e-5
    assert found["sync_weights"] < 1e-4


@pytest.mark.slow
def test_two_devices_learn_from_a_teacher_as_one_does(two):
    found, log = two
    assert found["taught_loss"] < 1e-4
    assert found["taught_weights"] < 1e-4
    assert len(found["taught"]) == 6
    assert "teacher: its forward pass takes" in log


@pytest.mark.slow
def test_plain_batch_norm_on_two_devices_sees_half_the_batch(two):
    found, _ = two
    assert found["plain_loss"] > 1e-4
    assert found["plain_weights"] > 1e-4


@pytest.mark.slow
def test_devices_exchange_sums_and_no_maps(two):
    alone, shared, gathered = two[0]["collectives"]
    assert (alone, shared, gathered) == (False, True, False)


@pytest.mark.slow
def test_a_run_on_two_devices_goes_on_bit_for_bit_and_yields_detectors_on_one(two):
    found, log = two
    assert found["epochs"] == [1, 2]
    assert found["resumed"] == 0
    assert found["places"] == [1]
    assert "INFO training on 2 devices, 2 images of each batch on each" in log


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_trains_on_one(two):
    found, log = two
    assert log.count("WARNING training on 1 of 2 devices: a batch of 3") == 1
    assert all(0 < value < 1e3 for value in found["odd"])


def test_one_device_has_no_mesh():
    if len(jax.local_devices()) > 1:
        pytest.skip("this process has several devices")
    assert training_mesh(4) is None
