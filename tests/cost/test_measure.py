"""Budgets, counts against hand counts, and memory."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxyolo.base.errors import InputError
from flaxyolo.config import read_config
from flaxyolo.cost import measure as cost
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.flops import multiply_adds
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import BUSY_LOAD, BUSY_SLOWDOWN, Measurement, Reference
from flaxyolo.cost.table import file as latency_file
from flaxyolo.machine.clock import LEAST_SECONDS, SECONDS, Turns, least_seconds
from flaxyolo.nn.conv import Conv, conv2d
from flaxyolo.nn.detector import detect, fuse, initial_weights
from tests.small import tiny_spec

YOLOV8N = read_config(Path(__file__).parents[2] / "configs/yolov8n.yaml").detector

MEASUREMENT = Measurement(
    latency_ms_p50=6.0,
    latency_ms_p95=9.0,
    network_ms_p50=5.0,
    fps=1000 / 6,
    vram_mib=200.0,
    train_vram_mib=None,
    params=1000,
    gflops=0.5,
    device="abacus",
    dtype="float32",
    image_size=64,
    batch_size=1,
    train_batch_size=None,
    versions={"flaxyolo": "0.1.0", "jax": "1.2"},
)


def counted(function, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return multiply_adds(function, *inputs)


def test_the_excess_is_a_share_of_each_limit():
    excess = Budget(latency_ms=8.0, vram_mib=400.0).excess(MEASUREMENT)
    assert excess == {"latency_ms": pytest.approx(0.125), "vram_mib": pytest.approx(-0.5)}
    assert Budget(vram_mib=100.0).excess(MEASUREMENT) == {"vram_mib": pytest.approx(1.0)}
    assert Budget(params=800.0, gflops=1.0).excess(MEASUREMENT) == {
        "params": pytest.approx(0.25),
        "gflops": pytest.approx(-0.5),
    }
    assert Budget().excess(MEASUREMENT) == {}


def test_the_memory_of_training_is_judged_once_it_is_known():
    budget = Budget(train_vram_mib=400.0)
    assert budget.excess(MEASUREMENT) == {}
    assert budget.allows(MEASUREMENT)
    trained = replace(MEASUREMENT, train_vram_mib=500.0)
    assert budget.excess(trained) == {"train_vram_mib": pytest.approx(0.25)}
    assert not budget.allows(trained)


def test_the_latency_of_a_budget_is_the_statistic_that_was_chosen():
    assert Budget(8.0).latency_of(MEASUREMENT) == 9.0
    median = Budget(8.0, latency_stat="p50")
    assert median.latency_of(MEASUREMENT) == 6.0
    assert median.excess(MEASUREMENT) == {"latency_ms": pytest.approx(-0.25)}
    assert median.allows(MEASUREMENT)
    assert not Budget(8.0).allows(MEASUREMENT)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(8.0),
        Budget(8.0, 500.0),
        Budget(8.0, None, 4000.0, 3.2e6, 8.5, latency_stat="p50"),
        Budget(params=1e6),
    ],
)
def test_a_budget_goes_through_json_and_back(budget):
    assert Budget.from_dict(json.loads(json.dumps(budget.to_dict()))) == budget


def test_a_budget_of_latency_and_memory_is_stored_as_before():
    assert Budget(8.0).to_dict() == {"latency_ms": 8.0, "vram_mib": None}
    assert Budget.from_dict({"latency_ms": 8.0, "vram_mib": None}) == Budget(8.0)
    with pytest.raises(InputError, match=r"^study: .*latency_stat"):
        Budget.from_dict({"latency_ms": 8.0, "latency_stat": "p99"}, "study")


@pytest.mark.parametrize(
    ("latency_ms", "vram_mib", "allowed"),
    [(9.0, 200.0, True), (8.9, None, False), (None, 199.0, False), (None, None, True)],
)
def test_a_budget_allows_what_keeps_every_limit(latency_ms, vram_mib, allowed):
    assert Budget(latency_ms, vram_mib).allows(MEASUREMENT) == allowed


def test_a_budget_says_its_limits():
    assert Budget(8.0, 500.0).describe() == "at most 8 ms (p95), 500 MiB"
    assert Budget(vram_mib=500.5).describe() == "at most 500.5 MiB"
    assert Budget(8.0, None, 4e3, 3.2e6, 8.7, latency_stat="p50").describe() == (
        "at most 8 ms (p50), 4000 MiB in training, 3.2 M parameters, 8.7 GFLOPs"
    )
    assert Budget().describe() == "no limit"


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_no_number_above_0_is_refused(limit):
    with pytest.raises(InputError, match="budget latency_ms: expected a number above 0, got"):
        Budget(latency_ms=limit)
    with pytest.raises(InputError, match="budget params"):
        Budget(params=limit)
    with pytest.raises(InputError, match="budget vram_mib"):
        Budget(vram_mib=limit)


def test_a_measurement_goes_through_json_and_back():
    data = json.loads(json.dumps(MEASUREMENT.to_dict()))
    assert Measurement.from_dict(data) == MEASUREMENT
    del data["params"]
    with pytest.raises(InputError, match=r"^study: params: missing"):
        Measurement.from_dict(data, "study")


def test_the_conditions_are_one_line():
    assert (
        MEASUREMENT.conditions() == "abacus, jax, float32, 64x64, batch 1, flaxyolo 0.1.0, jax 1.2"
    )


def test_yolov8n_has_the_published_gflops():
    assert cost.count_gflops(YOLOV8N) == pytest.approx(8.7, abs=0.2)
    # All that is counted grows with the number of pixels.
    assert cost.count_gflops(replace(YOLOV8N, image_size=320)) == pytest.approx(
        cost.count_gflops(YOLOV8N) / 4, rel=1e-6
    )


def test_yolov8n_has_the_published_parameters():
    assert cost.count_params(YOLOV8N) == 3_157_184


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"),
    [
        (16, 24, 3, 1, 1),
        (16, 24, 1, 1, 1),
        (16, 24, 1, 2, 1),
        (16, 16, 3, 1, 16),
        (16, 16, 5, 2, 16),
        (16, 32, 3, 2, 4),
        (16, 32, 3, 1, 16),
    ],
)
def test_a_convolution_is_counted_as_its_architecture_whatever_its_form(
    inputs, outputs, kernel, stride, groups
):
    shapes = (1, 12, 8, inputs), (kernel, kernel, inputs // groups, outputs)
    by_hand = (12 // stride) * (8 // stride) * outputs * kernel**2 * inputs // groups
    assert counted(lambda x, k: conv2d(x, k, stride, groups), *shapes) == by_hand


def test_products_are_counted_in_batches_loops_and_inner_functions():
    assert counted(lambda a, b: a @ b, (3, 4), (4, 5)) == 3 * 4 * 5
    assert counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (2, 3, 4), (2, 4, 5)) == 120
    assert counted(jax.jit(lambda a: jax.nn.silu(a @ a)), (4, 4)) == 64
    looped = lambda a: lax.scan(lambda c, _: (c @ a, None), a, length=7)[0]  # noqa: E731
    assert counted(looped, (4, 4)) == 7 * 64


def test_a_loop_of_unknown_length_is_not_counted_silently():
    endless = lambda a: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ a, a)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        counted(endless, (4, 4))


def test_the_network_of_a_spec_is_counted_by_hand():
    """A fresh 1x1 layer on a known shape, to check the path from module to count."""
    layer = Conv(8, 24, 1, bias=0.0, rng=np.random.default_rng(0))
    assert counted(lambda x: layer(x), (1, 5, 5, 8)) == 5 * 5 * 8 * 24


def test_the_memory_of_a_program_holds_its_arguments_and_results_once():
    x = jax.ShapeDtypeStruct((256, 1024), jnp.float32)  # 1 MiB
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    assert cost.memory_mib(kept) == pytest.approx(2, abs=0.1)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert cost.memory_mib(donated) == pytest.approx(1, abs=0.1)
    assert cost.tree_bytes({"a": x, "b": np.zeros(3, np.uint8)}) == 2**20 + 3


def test_a_detector_is_measured():
    spec = tiny_spec()
    found = measure(spec, min_calls=12, min_seconds=0.0, max_seconds=20.0)
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p95
    assert found.network_ms_p50 > 0
    assert found.fps == pytest.approx(1000 / found.latency_ms_p50)
    weights_mib = cost.tree_bytes(initial_weights(spec, 0)) / 2**20
    assert found.vram_mib > weights_mib
    assert found.train_vram_mib is None
    assert (found.image_size, found.batch_size, found.dtype) == (64, 1, "float32")
    assert found.params == cost.count_params(spec)
    assert found.latency_paced_ms_p50 is None
    assert found.versions["jax"] == jax.__version__
    assert found.device
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_paced_mode_and_the_memory_of_training_are_added_on_request():
    step = jax.jit(lambda x: x + 1).lower(jnp.zeros((256, 1024))).compile()
    found = measure(
        tiny_spec(),
        images=np.zeros((1, 64, 64, 3), np.uint8),
        train_step=step,
        train_batch_size=4,
        data_bytes=2**19,
        min_calls=2,
        paced=True,
    )
    assert found.train_vram_mib == pytest.approx(1.5, abs=0.1)
    assert found.train_batch_size == 4
    assert found.latency_paced_ms_p50 is not None
    assert found.latency_paced_ms_p95 is not None
    assert 0 < found.latency_paced_ms_p50 <= found.latency_paced_ms_p95 < 200


BEST = Reference(1.0, 1.05, 1.25)


def series(ms, *, images=4, count=400, slow=1.0, size=5, bursts=0.3):
    """Calls of a network whose last image takes a tenth longer, in turn with the reference."""
    rng = np.random.default_rng(0)
    burst = 1 + 2 * (rng.random((2, count)) < bursts)
    calls = ms * slow * burst[0] * rng.uniform(1, 1.02, count)
    calls[images - 1 :: images] *= 1.1
    return Turns(calls, slow * burst[1][:, None] * rng.uniform(1, 1.02, (count, size)))


def test_what_decides_is_that_of_a_calm_device_and_what_was_measured_is_kept():
    calm = cost.calm_figures(series(6.0, bursts=0.0), 4, BEST, 0.0)
    busy = cost.calm_figures(series(6.0, slow=1.5), 4, BEST, 0.4)
    for name in ("latency_ms_p50", "latency_ms_p95", "fps"):
        assert busy[name] == pytest.approx(calm[name], rel=0.05)
    assert busy["measured_ms_p95"] > 2 * calm["measured_ms_p95"]
    assert (busy["load"], busy["slowdown"]) == (0.4, pytest.approx(1.5, rel=0.05))
    assert calm["slowdown"] == pytest.approx(1.0, abs=0.05)
    assert busy["floor_ms"] < calm["floor_ms"] <= calm["latency_ms_p50"]
    assert busy["reference_best"] == BEST


def test_images_that_take_longer_count_and_single_calls_that_do_not():
    slow_image = cost.calm_figures(series(6.0), 4, BEST, 0.0)
    same = series(6.0)
    same.calls[3::4] /= 1.1
    alike = cost.calm_figures(same, 4, BEST, 0.0)
    assert slow_image["latency_ms_p95"] > 1.06 * alike["latency_ms_p95"]
    assert slow_image["latency_ms_p50"] == pytest.approx(alike["latency_ms_p50"], rel=0.02)


def test_images_with_too_few_calls_are_not_told_apart():
    few = series(1000.0, images=16, count=16, size=900, bursts=0.0)
    found = cost.calm_figures(few, 16, BEST, None)
    assert found["latency_ms_p50"] == pytest.approx(1000 * 1.05, rel=0.05)
    assert found["latency_ms_p95"] == pytest.approx(found["latency_ms_p50"], rel=0.02)


@pytest.mark.parametrize("slow", [1.0, 1.5, 3.0])
def test_a_slow_network_is_never_hidden(slow):
    found = cost.calm_figures(series(12.0, slow=slow), 4, BEST, 0.0)
    assert found["latency_ms_p50"] >= 12.0
    assert found["floor_ms"] > 0.8 * 12.0


@pytest.mark.parametrize(
    ("load", "slowdown", "busy"),
    [
        (None, None, False),
        (0.43, 1.53, False),
        (BUSY_LOAD, 1.0, True),
        (0.0, BUSY_SLOWDOWN, True),
        (None, 2.0, True),
    ],
)
def test_a_busy_machine_is_marked(load, slowdown, busy):
    assert replace(MEASUREMENT, load=load, slowdown=slowdown).busy == busy


def test_how_busy_it_was_is_told():
    told = replace(MEASUREMENT, load=0.55, slowdown=2.1).busyness()
    assert told == "others use 55 % of it, the reference takes 2.1 times its best"
    assert MEASUREMENT.busyness() == ""


def test_another_best_of_the_reference_gives_what_would_have_been_measured():
    turns, calmer = series(6.0, slow=1.5), Reference(0.9, 0.95, 1.1)
    before = replace(MEASUREMENT, **cost.calm_figures(turns, 4, BEST, 0.1), network_ms_p50=2.0)
    after = replace(MEASUREMENT, **cost.calm_figures(turns, 4, calmer, 0.1), network_ms_p50=2.0)
    now = before.rescaled(calmer)
    assert now.network_ms_p50 == pytest.approx(2.0 * 0.95 / 1.05)
    for name in ("latency_ms_p50", "latency_ms_p95", "fps", "slowdown", "floor_ms"):
        assert getattr(now, name) == pytest.approx(getattr(after, name))
    assert (now.reference_best, now.measured_ms_p95) == (calmer, before.measured_ms_p95)
    assert before.rescaled(BEST) == before
    assert before.rescaled(None) == before
    # Of before there was a reference.
    assert MEASUREMENT.rescaled(calmer) == MEASUREMENT
    assert Measurement.from_dict(json.loads(json.dumps(before.to_dict()))) == before


def test_the_best_of_the_reference_is_kept_for_the_next_measurement(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXYOLO_CACHE", str(tmp_path))
    monkeypatch.setattr(cost, "share_of_others", lambda before, after: 0.6)

    def measured(slow):
        def turns(call, reference, **_):
            return series(6.0, slow=slow, bursts=0.0)

        return measure(tiny_spec(), take_turns=turns)

    first, calm, busy = measured(2.0), measured(1.0), measured(2.0)
    assert first.slowdown == pytest.approx(1.0, abs=0.02)
    assert calm.slowdown == pytest.approx(1.0, abs=0.02)
    assert busy.slowdown == pytest.approx(2.0, rel=0.02)
    assert busy.latency_ms_p95 == pytest.approx(calm.latency_ms_p95, rel=0.02)
    assert first.latency_ms_p95 == pytest.approx(2 * calm.latency_ms_p95, rel=0.02)
    assert first.rescaled(calm.reference_best).latency_ms_p95 == pytest.approx(
        calm.latency_ms_p95, rel=0.02
    )
    assert (busy.load, busy.busy) == (0.6, True)
    stored = latency_file.read_contents(latency_file.device_file()).reference
    assert stored == calm.reference_best


def test_the_environment_says_how_long_a_latency_is_timed(monkeypatch):
    monkeypatch.delenv(SECONDS)
    assert least_seconds() == LEAST_SECONDS
    monkeypatch.setenv(SECONDS, "0.5")
    assert least_seconds() == 0.5


@pytest.mark.parametrize("said", ["long", "-1", "nan", "inf"])
def test_what_is_no_time_is_refused(monkeypatch, said):
    monkeypatch.setenv(SECONDS, said)
    with pytest.raises(InputError, match=f"{SECONDS}: expected a number of seconds .*got '{said}'"):
        least_seconds()


def test_of_many_images_some_are_shown():
    images = np.arange(16)
    np.testing.assert_array_equal(cost.spread(images, 4), [0, 4, 8, 12])
    np.testing.assert_array_equal(cost.spread(images, 1), [0])
    np.testing.assert_array_equal(cost.spread(images, 99), images)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
    ],
)
def test_images_of_another_form_are_refused(images):
    with pytest.raises(ValueError, match="expected uint8 images"):
        measure(tiny_spec(), images=images)


def test_what_is_timed_is_what_detects():
    """`measure` and `detect` share one compiled program."""
    spec = tiny_spec(num_classes=5)
    cost.reference_call()
    before = cost.compiled_detect.cache_info().currsize
    measure(spec, min_calls=1, min_seconds=0.0)
    assert cost.compiled_detect.cache_info().currsize == before + 1
    detect(spec, fuse(spec, initial_weights(spec, 0)), np.zeros((1, 64, 64, 3), np.uint8))
    assert cost.compiled_detect.cache_info().currsize == before + 1


def test_the_photographs_are_letterboxed():
    images = cost.photographs(64)
    assert images.shape == (4, 64, 64, 3)
    assert images.dtype == np.uint8
    assert (images[:, 0] == 114).all()
    assert images[:, 32].std() > 20
    np.testing.assert_array_equal(images[2], images[0][:, ::-1])
