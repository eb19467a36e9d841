"""Networks that grow from a known one."""

import random

import pytest
from optuna.trial import FixedTrial

from flaxyolo.nn.detector import initial_weights
from flaxyolo.search.relatives import relatives
from flaxyolo.search.space import (
    Ranges,
    load_space,
    reference_params,
    suggest_detector,
    with_ranges,
)
from flaxyolo.weights.inherit.detector import inherit
from tests.tiny_data import SPACE

SUGGEST = with_ranges(suggest_detector, Ranges((96, 128, 160), (16, 48, 8), 6, (2, 3, 3, 2)))
PARAMS = reference_params(SUGGEST)
SIZES = ("image_size", "width", "ratio", "c2.depth", "c3.depth", "c4.depth", "c5.depth")


def grown(count=80, seed=0, **how):
    return relatives(PARAMS, SUGGEST, random.Random(seed), count, **how)


def test_numbers_only_grow_and_one_part_changes_at_most():
    found = grown()
    assert len(found) == 80
    for each in found:
        assert all(each.params[name] >= PARAMS[name] for name in SIZES if name in each.params)
        others = [name for name in PARAMS if name not in SIZES]
        assert sum(each.params.get(name) != PARAMS[name] for name in others) <= 1
        assert each.spec == SUGGEST(FixedTrial(each.params))
    assert len({each.spec for each in found}) == 80
    assert any(each.params["plan"] == "P2-P5" for each in found)
    assert {each.params["image_size"] for each in found} == {128, 160}


def test_without_other_parts_and_with_a_fixed_size_only_widths_and_depths_grow():
    found = grown(other_part=0.0, fixed=frozenset(["image_size"]))
    changed = {name for each in found for name in PARAMS if each.params[name] != PARAMS[name]}
    assert changed == {"width", "c2.depth", "c3.depth", "c4.depth", "c5.depth"}


def test_all_of_what_only_grows_is_taken_from_the_parent():
    weights = initial_weights(SUGGEST(FixedTrial(PARAMS)), 0)
    for each in grown(5, other_part=0.0):
        found = inherit(each.spec, SUGGEST(FixedTrial(PARAMS)), weights, 0)
        assert "sliced" not in found.shares


def test_a_point_outside_the_ranges_is_brought_into_them():
    narrow = with_ranges(suggest_detector, Ranges((160,), (32, 32, 8), 6, (2, 2, 2, 2)))
    found = relatives(PARAMS, narrow, random.Random(0), 10, other_part=0.0)
    assert found
    assert {each.spec.backbone.stages[0].width for each in found} == {32}
    assert {each.spec.image_size for each in found} == {160}


@pytest.mark.parametrize("count", [1, 500])
def test_a_space_of_few_relatives_gives_those_it_has(count):
    suggest = load_space(SPACE)
    found = relatives(reference_params(suggest), suggest, random.Random(0), count)
    assert 1 <= len(found) <= count
    assert len({each.spec for each in found}) == len(found)
