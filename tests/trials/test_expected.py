"""How long the rest takes, in whole seconds: a second for each epoch, and ten beside them."""

from dataclasses import replace
from math import inf

import pytest

from flaxyolo.search.advised import BASELINE
from flaxyolo.search.controls import SCALED
from flaxyolo.search.spending import Spending
from flaxyolo.trials.expected import SPARE, affordable, finals_seconds, seconds_left
from tests.search.made import final, result

LONG = Spending(trials=3, short_epochs=9, epochs=27, finalists=1, seeds=(0, 1, 2))
SAME = replace(LONG, short_epochs=27)
COMPARED = replace(LONG, controls=True)


def trained(number, value, epochs=3, **facts):
    seconds = {"train": float(epochs), "measure": 10.0}
    return result(number, "waiting", [(epochs, value)], paused=epochs, seconds=seconds, **facts)


def test_one_seed_of_each_finalist_is_held_back():
    found = [trained(0, 0.5), trained(1, 0.4)]
    assert finals_seconds(found, LONG) == pytest.approx(SPARE * (27 + 10))
    assert finals_seconds(found, replace(LONG, finalists=2)) == pytest.approx(SPARE * 2 * (27 + 10))
    assert finals_seconds(found, SAME) == pytest.approx(SPARE * (27 - 3 + 10))
    assert finals_seconds([], LONG) == 0
    # With a teacher that adds half of a step, and from the beginning.
    taught = replace(SAME, taught=1.5)
    assert finals_seconds(found, taught) == pytest.approx(SPARE * (1.5 * 27 + 10))
    done = [*found, final(2, 0, 0, 0.6)]
    assert finals_seconds(done, LONG) == 0, "the second is for the time that is left"


def test_the_controls_are_held_back_for_before_they_are_there():
    found = [trained(0, 0.5), trained(1, 0.4)]
    # Neither baseline nor YOLOv8: only the latter is still to come.
    assert finals_seconds(found, COMPARED) == pytest.approx(SPARE * 2 * 37)
    found = [trained(0, 0.5, origin=BASELINE), trained(1, 0.4, 3, origin=SCALED), trained(2, 0.3)]
    assert finals_seconds(found, COMPARED) == pytest.approx(SPARE * 3 * 37)
    assert finals_seconds([*found, final(3, 1, 0, 0.6)], COMPARED) == pytest.approx(SPARE * 2 * 37)


def test_a_control_to_come_is_expected_to_take_as_long_as_the_longest():
    mended = replace(trained(2, 0.1), seconds={"train": 3.0, "measure": 10.0, "mend": 30.0})
    found = [trained(0, 0.5), trained(1, 0.4), mended]
    assert finals_seconds(found, COMPARED) == pytest.approx(SPARE * (37 + 67))


def test_further_runs_are_counted_by_the_longest():
    found = [trained(0, 0.5), trained(1, 0.4)]
    assert affordable(found, LONG, 2 * SPARE * 37) == pytest.approx(2)
    assert affordable(found, LONG, -5.0) < 0
    assert affordable([], LONG, 100.0) == inf
    assert affordable(found, LONG, inf) == inf


def test_what_is_left_is_one_seed_each_and_what_was_begun_besides():
    assert seconds_left([], LONG) is None
    ended = [replace(trained(number, 0.5), state="pruned", paused=None) for number in range(3)]
    first = final(3, 0, 0, 0.6, "running")
    assert seconds_left([*ended, first], LONG) == 27
    assert seconds_left([*ended, first], replace(LONG, taught=2.0)) == 54
    more = [replace(first, state="complete"), final(4, 0, 1, 0.6, "waiting")]
    assert seconds_left([*ended, *more], LONG) == 27
    assert seconds_left([*ended, *more, final(5, 1, 1, 0.6, "waiting")], LONG) == 54
