"""Numbers of things in words."""

import pytest

from flaxyolo.base.words import many, percent


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
