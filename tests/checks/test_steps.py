"""Memory against the device, and steps that need a new program."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.checks.network import check_shapes, row_major_cells
from flaxyolo.checks.probe import probe_plan
from flaxyolo.checks.steps import check_memory, check_recompilation, compilations, compile_run
from flaxyolo.cost.measure import memory_mib
from flaxyolo.data.feeds import Streamed
from flaxyolo.machine.memory import available_mib
from flaxyolo.nn.detector import initial_weights
from flaxyolo.training.distill import teacher_for
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import start
from flaxyolo.weights.transfer import Source
from tests.checks.scenes import CONFIG
from tests.small import tiny_feed, tiny_pixels, tiny_spec

FEED = tiny_feed(6)


@pytest.fixture(scope="module")
def compiled():
    """A plan and its compiled run; the state is made anew for each test."""
    plan = plan_run(tiny_spec(), CONFIG, FEED.pixels)
    return plan, compile_run(plan, FEED)


@pytest.fixture
def run(compiled):
    plan, run = compiled
    return plan, run._replace(state=start(plan), batches=FEED.batches(plan.config, 0))


def test_memory_is_held_against_the_device(run):
    _, run = run
    small = check_memory(run.step, 4, (0.5, "of the device"))
    assert not small.passed
    assert "batch_size 4" in small.cause
    assert check_memory(run.step, 4, (100_000.0, "of the device")).passed


def test_the_free_memory_of_this_machine_is_known():
    mib, where = available_mib()
    assert mib > 10
    assert where.startswith("of ")


def test_the_real_step_is_compiled_once(run):
    plan, run = run
    check = check_recompilation(run, plan, FEED)
    assert check.passed, check.line()
    assert "steps 2 and 3 of 4 images" in check.measured


def test_the_step_of_a_stream_is_compiled_once():
    feed = Streamed(FEED.pixels)
    plan = plan_run(tiny_spec(), CONFIG, feed.pixels)
    check = check_recompilation(compile_run(plan, feed), plan, feed)
    assert check.passed, check.line()


def test_the_step_with_a_teacher_is_compiled_once_and_needs_more_memory(run):
    spec, names = tiny_spec(), ("red", "green", "blue")
    teacher = teacher_for(Source(Path("big"), initial_weights(spec, 3), spec, names), spec, names)
    plan = plan_run(spec, CONFIG, FEED.pixels, teacher.lesson)
    taught = compile_run(plan, FEED, teacher.weights)
    check = check_recompilation(taught, plan, FEED)
    assert check.passed, check.line()
    assert memory_mib(taught.step) > memory_mib(run[1].step)


def test_a_state_that_changes_its_dtype_is_found(run):
    plan, run = run

    def changing(state, *rest):
        state, *more = run.step(state, *rest)
        return state._replace(step=state.step.astype(jnp.float32)), *more

    check = check_recompilation(run._replace(step=changing), plan, FEED)
    assert not check.passed
    assert "step 2" in check.measured


def test_a_short_last_batch_is_found(run):
    plan, run = run
    short = [*islice(run.batches, 2), next(run.batches)]
    short[-1] = short[-1]._replace(indices=short[-1].indices[:2])
    check = check_recompilation(run._replace(batches=iter(short)), plan, FEED)
    assert not check.passed
    assert "step 3" in check.measured


def test_a_program_for_every_step_is_found(run):
    plan, run = run

    def compiling(state, pixels, indices, seed):
        jax.jit(lambda x: x * int(state.step))(indices)
        return run.step(state, pixels, indices, seed)

    check = check_recompilation(run._replace(step=compiling), plan, FEED)
    assert not check.passed
    assert "compiled after the first step" in check.measured


def test_compilations_are_counted_inside_alone():
    def double(x):
        return 2 * x

    with compilations() as names:
        jax.jit(double)(jnp.ones(3))
    jax.jit(lambda x: x - 7)(jnp.ones(3))
    assert any("double" in name for name in names)
    assert not any("lambda" in name for name in names)


def test_shapes_of_every_kind_of_head_pass():
    pixels = tiny_pixels()
    head = tiny_spec().head
    heads = [
        head,
        replace(head, one_to_one=True),
        replace(head, box="ltrb", reg_max=None, objectness=True),
        replace(head, box="cxcywh", reg_max=None),
    ]
    for one in heads:
        plan = probe_plan(tiny_spec(head=one), CONFIG, pixels)
        check = check_shapes(plan, pixels)
        assert check.passed, check.line()
    assert "P3 8x8, P4 4x4; 80 anchor points" in check.measured


def test_images_of_another_size_and_objects_beyond_the_bins_are_found():
    pixels = tiny_pixels()
    plan = probe_plan(tiny_spec(image_size=96), CONFIG, pixels)
    assert "another size" in check_shapes(plan, pixels).cause
    short = tiny_spec(head=replace(tiny_spec().head, reg_max=2))
    big = pixels._replace(boxes=np.where(pixels.valid[..., None], [[[4, 4, 60, 60]]], 0))
    big = big._replace(boxes=big.boxes.astype(np.float32))
    check = check_shapes(probe_plan(short, CONFIG, big), big)
    assert not check.passed
    assert "reg_max" in check.cause


def test_anchor_points_with_x_and_y_swapped_are_found(monkeypatch):
    from flaxyolo.checks import network

    real = network.anchor_points
    monkeypatch.setattr(
        network, "anchor_points", lambda *given: (real(*given)[0][:, ::-1], real(*given)[1])
    )
    check = check_shapes(probe_plan(tiny_spec(), CONFIG, tiny_pixels()), tiny_pixels())
    assert not check.passed
    assert "swapped" in check.cause


def test_cells_run_along_x_first():
    np.testing.assert_array_equal(row_major_cells(16, (8,)), [[4, 4], [12, 4], [4, 12], [12, 12]])
