"""Expressions of COCO's numbers against Python's own, and what is refused."""

import random
from dataclasses import replace

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.search.objective import DEFAULT, Objective, in_words, support, supported, thin
from tests.scoring.judged import judged
from tests.scoring.scenes import example

SCORES = Scores(**{key: (i + 1) / 16 for i, key in enumerate(KEYS)}, per_class=())


@pytest.mark.parametrize("gone", [(), ("map_small",), ("map_medium",), ("map_small", "map_large")])
def test_the_default_is_the_sum_over_the_sizes_that_have_objects(gone):
    rng = random.Random(1)
    for _ in range(20):
        drawn = replace(SCORES, **{key: rng.random() for key in KEYS})
        scores = replace(drawn, **dict.fromkeys(gone))
        sizes = (scores.map_small, scores.map_medium, scores.map_large)
        expected = sum(size for size in sizes if size is not None)
        # `sum` rounds otherwise from Python 3.12 on.
        assert Objective().value(scores) == pytest.approx(expected, rel=1e-14)
        assert Objective().value(scores.to_dict()) == Objective().value(scores)


def test_without_any_object_of_its_sizes_the_default_refuses():
    empty = replace(SCORES, map_small=None, map_medium=None, map_large=None)
    with pytest.raises(InputError, match="nothing to score: the validation images hold no"):
        Objective().value(empty)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("map_small + 0.5*map", 4 / 16 + 0.5 / 16),
        ("2 * (map - map_50) / 4", 2 * (-1 / 16) / 4),
        ("-map_75 + +mar_large", -3 / 16 + 12 / 16),
        ("map / (1 + 3)", 1 / 64),
        ("map_small - (map_medium - map_large)", 4 / 16 - (5 / 16 - 6 / 16)),
        ("map * map_50", 1 / 16 * 2 / 16),
        (" map\n+ mar_1 ", 1 / 16 + 7 / 16),
    ],
)
def test_an_expression_has_its_value(text, expected):
    assert Objective(text).value(SCORES) == pytest.approx(expected, abs=1e-15)


def test_a_size_without_objects_counts_nothing_and_only_such_sizes_are_refused():
    scores = replace(SCORES, map_small=None)
    assert Objective("2 * map_small + map").value(scores) == SCORES.map
    with pytest.raises(InputError, match="hold no object for 2 \\* map_small; label some"):
        Objective("2*map_small").value(scores)


def test_spacing_does_not_tell_objectives_apart():
    assert Objective("map_small+(0.5 *map)") == Objective("map_small + 0.5*map")
    assert Objective("map-(map_50-map_75)").text == "map - (map_50 - map_75)"
    assert Objective().text == DEFAULT
    assert Objective("map_large + map").names == ("map", "map_large")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("map_smal + map", "'map_smal' is not one of map, map_50, .*did you mean 'map_small'"),
        ("AP50", "'AP50' is not one of map, map_50"),
        ("map / map_50", "map / map_50: expected a number after '/', got map_50"),
        ("map / (1 - 1)", "division by zero"),
        ("map ** 2", r"map \*\* 2: expected only numbers, \+ - \* /, parentheses and map"),
        ("__import__('os').getcwd()", "expected only numbers"),
        ("max(map, map_50)", r"max\(map, map_50\): expected only"),
        ("map if map > 0 else 1", "expected only numbers"),
        ("(lambda: map)()", "expected only numbers"),
        ("map.real", "map.real: expected only"),
        ("map + True", "True: expected only"),
        ("map + 1j", "1j: expected only"),
        ("'map'", "'map': expected only"),
        ("map +", "expected an expression such as 'map_small"),
        ("", "expected an expression such as"),
        ("map; map", "expected an expression such as"),
        ("1 + 2", "expected at least one of map, map_50"),
        ("map * 1e999", "expected a finite number"),
        ("map * 1e300 * 1e300", "its numbers are too large"),
        ("map * " + "9" * 400, "expected numbers that a float can hold"),
        ("map\0", "objective map"),
        ("map + " * 200 + "map", "expected at most 500 characters, got 1203"),
        ("(" * 240 + "map" + ")" * 240, "nested|too many"),
    ],
)
def test_what_is_no_objective_is_refused_in_one_line(text, part):
    with pytest.raises(InputError, match=part) as refused:
        Objective(text)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("objective")


def squares(*sides, crowd=()):
    boxes = [(0, 0, side, side) for side in sides]
    return example(1, 500, 500, boxes, [0] * len(boxes), crowd)


def test_boxes_are_counted_by_cocos_sizes_and_crowds_are_none():
    images = [squares(5, 31, 33, 200, 300, crowd=(4,)), squares(), squares(95)]
    assert support(images) == {"small": 2, "medium": 2, "large": 1}
    assert support([squares(32), squares(96)]) == {"small": 1, "medium": 2, "large": 1}, "both"
    assert support([]) == {"small": 0, "medium": 0, "large": 0}


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ((10, 306, 648), "0.1 * map_small + map_medium + map_large"),
        ((1815, 345, 0), "map_small + map_medium"),
        ((100, 100, 100), DEFAULT),
        ((99, 1, 0), "0.99 * map_small + 0.01 * map_medium"),
        ((0, 0, 0), DEFAULT),
    ],
)
def test_a_size_counts_in_proportion_to_its_boxes(boxes, text):
    counts = dict(zip(("small", "medium", "large"), boxes, strict=True))
    assert supported(counts) == Objective(text)
    assert supported(counts).text == text


def test_sizes_of_few_boxes_are_named_where_they_are_taken():
    boxes = {"small": 10, "medium": 306, "large": 0}
    assert thin(Objective("map_small + map"), boxes) == {"small": 10}
    assert thin(Objective("mar_large + map_medium"), boxes) == {"large": 0}
    assert thin(Objective("map + mar_100"), boxes) == {}
    assert in_words({"small": 10, "large": 0}) == "10 small and no large boxes"
    told = in_words({"small": 2, "medium": 1, "large": 0})
    assert told == "2 small, 1 medium and no large boxes"
    assert in_words({"small": 1}) == "1 small box"


def one_object_an_image(images, found):
    """Objects of 50 px, one in each image, of which the first few are found as they are."""
    box = [0.0, 0.0, 50.0, 50.0]
    truth = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": 1}],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": box, "area": 2500, "iscrowd": 0}
            for i in range(images)
        ],
    }
    rows = np.array([[i, *box, 0.9, 1] for i in range(found)])
    return matched_by_size(*judged(truth, rows))


def test_the_standard_error_of_found_or_not_is_binomial():
    side = one_object_an_image(100, 50)
    assert Objective("map_medium").standard_error(side, 2000) == pytest.approx(0.05, abs=0.004)
    assert Objective("2*map - map_small").standard_error(side, 2000) == pytest.approx(0.1, abs=0.01)
    assert Objective("map").standard_error(side) == Objective("map").standard_error(side)


def test_there_is_no_standard_error_of_one_image_or_of_no_object():
    assert Objective("map").standard_error(one_object_an_image(1, 1)) is None
    assert Objective("map_large").standard_error(one_object_an_image(10, 5)) is None
