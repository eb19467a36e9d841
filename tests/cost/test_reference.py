"""Times by those of the reference: what a calm device would have shown."""

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.cost.measurement import Reference
from flaxyolo.cost.reference import SPEC, block_low, calm_ms, reference_call, reference_of
from flaxyolo.machine.clock import Turns
from flaxyolo.spec import parse

BEST = Reference(1.0, 1.04, 1.2)


def turns(slow: float, seed: int = 0, size: int = 4) -> Turns:
    """A network of 4 ms in turn with a reference of 1 ms, on a device that is slower by so much."""
    rng = np.random.default_rng(seed)
    bursts = rng.random(400) < 0.3
    calls = 4.0 * slow * (1 + rng.gamma(2, 0.02, 400) + 1.5 * bursts)
    blocks = slow * (1 + rng.gamma(2, 0.02, (400, size)) + 1.5 * bursts[::-1, None])
    return Turns(calls, blocks)


@pytest.mark.parametrize("slow", [1.0, 1.5, 3.0])
def test_a_device_that_is_slower_for_both_changes_nothing(slow):
    assert calm_ms(turns(slow), BEST) == pytest.approx(calm_ms(turns(1.0), BEST))
    assert calm_ms(turns(slow), BEST) == pytest.approx(4 * 1.04, rel=0.06)


def test_twice_the_time_is_twice_the_time():
    one = turns(1.5)
    twice = one._replace(calls=2 * one.calls)
    assert calm_ms(twice, BEST) == pytest.approx(2 * calm_ms(one, BEST))


def test_the_low_quantile_of_a_block_is_of_its_mean():
    blocks = Turns(np.ones(2), np.array([[1.0, 3.0], [4.0, 8.0]]))
    assert block_low(blocks) == pytest.approx(2.0 + 0.05 * 4.0)


def test_a_block_varies_less_than_a_call():
    assert BEST.of_blocks(1) == BEST
    four = BEST.of_blocks(4)
    assert (four.p05_ms, four.p50_ms, four.p95_ms) == pytest.approx((1.02, 1.04, 1.12))


def test_of_two_the_lower_figures_are_the_best():
    assert BEST.lowest(None) == BEST
    assert BEST.lowest(Reference(0.9, 1.1, 1.1)) == Reference(0.9, 1.04, 1.1)


def test_the_best_is_told_by_the_quietest_calls():
    rng = np.random.default_rng(0)
    quiet, busy = rng.uniform(1.0, 1.1, 200), rng.uniform(2.0, 4.0, 300)
    seen = reference_of(np.concatenate([busy, quiet, busy]))
    assert 1.0 <= seen.p05_ms <= seen.p50_ms <= seen.p95_ms <= 1.1
    assert reference_of(np.array([2.0])) == Reference(2.0, 2.0, 2.0)


def test_a_reference_is_read_as_it_was_written():
    data = {"p05_ms": 1.0, "p50_ms": 1.04, "p95_ms": 1.2}
    assert parse(Reference, data, "a file") == BEST
    with pytest.raises(InputError, match="a file"):
        parse(Reference, data | {"p05_ms": 0.0}, "a file")


def test_the_reference_detects_in_one_small_image():
    found = reference_call()(0)
    assert SPEC.image_size == 160
    assert np.asarray(found.boxes).shape[0] == 1
    assert reference_call() is reference_call()
