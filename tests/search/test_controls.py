"""Which records are controls, and which of them may be trained whole."""

from dataclasses import replace

from flaxyolo.search.advised import BASELINE
from flaxyolo.search.controls import (
    MOST_SCALED,
    SCALED,
    controls,
    drawn,
    kind,
    lacks_scaled,
    ready,
    to_come,
)
from tests.search.made import OVER, final, result


def scaled(number, state="complete", **facts):
    return result(number, state, [(3, 0.2)], origin=SCALED, **facts)


BASE = result(0, "waiting", [(3, 0.1)], origin=f"{BASELINE} = advised", paused=3)


def test_a_control_is_known_by_its_origin():
    assert kind(BASE) == "baseline"
    assert kind(scaled(1)) == "YOLOv8 scaled"
    assert kind(result(2, origin="advised with P2")) is kind(result(3)) is None


def test_a_scaled_yolov8_is_no_draw_of_the_space():
    found = [BASE, scaled(1), result(2), final(3, 2, 0, 0.5)]
    assert [each.number for each in drawn(found)] == [0, 2]


def test_of_several_the_last_counts_and_must_be_scored_inside_the_budget():
    found = [BASE, scaled(1, "pruned", constraints=OVER), scaled(2)]
    assert {name: each.number for name, each in controls(found).items()} == {
        "baseline": 0,
        "YOLOv8 scaled": 2,
    }
    assert [each.number for each in ready(found)] == [0, 2]
    assert ready([scaled(1, "pruned", constraints=OVER)]) == []
    assert ready([replace(BASE, state="running")]) == [], "two would train it at once"
    assert ready([replace(BASE, history=())]) == []


def test_another_is_lacking_where_all_that_were_tried_are_over_the_budget():
    assert lacks_scaled([BASE])
    assert not lacks_scaled([scaled(1)])
    over = [scaled(number, "pruned", constraints=OVER) for number in range(MOST_SCALED)]
    assert lacks_scaled(over[:-1])
    assert not lacks_scaled(over), "enough were tried"
    assert not lacks_scaled([*over[:1], scaled(4)])
    assert lacks_scaled([scaled(1), final(2, 1, 0, 0.5, "pruned", constraints=OVER)])
    assert lacks_scaled([scaled(1), replace(final(2, 1, 0, 0.5), refuted=True)])


def test_what_is_still_to_come_is_counted():
    assert to_come([]) == 1
    assert to_come([], none_scaled=True) == 0
    assert to_come([replace(BASE, history=(), paused=None)]) == 2
    assert to_come([BASE, scaled(1)]) == 0
