"""Numbers of things in words."""

import datetime

import pytest

from flaxyolo.base.words import many, percent, shortened, shown


@pytest.mark.parametrize(
    ("count", "thing", "told"),
    [(0, "seed", "0 seeds"), (1, "epoch", "1 epoch"), (2, "epoch", "2 epochs"),
     (1200, "box", "1,200 boxes"), (3, "class", "3 classes")],
)  # fmt: skip
def test_one_is_one_and_others_are_many(count, thing, told):
    assert many(count, thing) == told


def test_a_share_is_never_told_as_nothing():
    told = [percent(share) for share in (0, 0.001, 0.86, 1.3)]
    assert told == ["0%", "under 1%", "86%", "130%"]


@pytest.mark.parametrize(
    "value",
    [None, 7, 2.5, "a'b", b"x", [], {}, (), (1,), [1, [2, {}]], {"a": (1, 2)}, {3}, set(),
     datetime.date(2020, 1, 2), True],
)  # fmt: skip
def test_a_short_value_is_shown_as_it_is(value):
    assert shown(value) == repr(value)


def test_a_value_is_shown_on_one_line_and_cut():
    assert shown("a\nb") == "'a\\nb'"
    assert shown("\u202e") == "'\\u202e'"
    assert shown(list(range(100)), 20) == "[0, 1, 2, 3, 4, 5..."
    assert len(shown("x" * 10**7)) == 80


def test_no_more_is_looked_at_than_is_shown():
    inner: list = ["x"]
    for _ in range(60):
        inner = [inner] * 10  # 10 ** 60 values
    assert len(shown(inner)) == 80
    loop: list = []
    loop.append(loop)
    assert shown(loop) == "[" * 77 + "..."
    assert shown(10**4000) == "an integer of 13,288 bits"


def test_shortened_keeps_the_beginning():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdef", 5) == "ab..."
