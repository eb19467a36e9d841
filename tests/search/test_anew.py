"""Candidates that only a busy machine had thrown out."""

from dataclasses import replace

import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import Reference
from flaxyolo.cost.table.file import conditions
from flaxyolo.search.anew import judged_anew, thrown_out
from tests.search.made import COST, OVER, result

BUDGET = Budget(8.0)
THEN, NOW = Reference(1.2, 1.3, 1.6), Reference(1.0, 1.04, 1.2)


@pytest.fixture
def dead():
    """A candidate of 9.3 ms by the reference's best of then, on this device."""
    here = conditions()
    cost = replace(
        COST,
        device=here["device"],
        dtype=here["dtype"],
        versions=here["versions"],
        reference_ms=1.5,
        reference_calls=1,
        reference_best=THEN,
        slowdown=1.25,
        floor_ms=6.0,
    )
    return result(0, "pruned", cost=cost, constraints=OVER, params={"x": 1}, origin="baseline")


def test_a_candidate_that_a_calmer_device_would_not_have_thrown_out_is_tried_again(dead):
    (again,) = judged_anew([dead], BUDGET, NOW)
    assert (again.number, again.state, again.again) == (1, "waiting", 0)
    assert (again.params, again.origin) == ({"x": 1}, "baseline")
    assert (again.cost, again.history, again.reason) == (None, (), "")


def test_nobody_else_is(dead):
    assert judged_anew([dead], BUDGET, THEN) == ()
    assert judged_anew([dead], BUDGET, None) == ()
    assert judged_anew([dead], Budget(6.0), NOW) == ()
    assert dead.cost is not None
    elsewhere = replace(dead, cost=replace(dead.cost, device="another"))
    assert judged_anew([elsewhere], BUDGET, NOW) == ()
    assert judged_anew([replace(dead, constraints={})], BUDGET, NOW) == ()
    assert judged_anew([replace(dead, cost=COST)], BUDGET, NOW) == ()


def test_it_is_tried_again_once(dead):
    again = result(1, "pruned", constraints=OVER, again=0)
    assert thrown_out([dead, again]) == []
    assert thrown_out([dead]) == [dead]
