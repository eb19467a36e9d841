import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.confusion import Pair, confusion_matrix
from flaxyolo.scoring.matches import case_of
from tests.scoring.judged import judged
from tests.scoring.test_error_kinds import AWAY, CAT, DOG, PART, WHOLE, rows_of, truth_of

OBJECTS = [(1, CAT, WHOLE), (1, DOG, AWAY), (2, CAT, WHOLE)]


def matrix(objects, *found, **limits):
    return confusion_matrix(case_of(*judged(truth_of(*objects), rows_of(*found))), **limits).matrix


def test_rows_are_objects_and_columns_what_was_found():
    found = [(1, DOG, WHOLE, 0.9), (1, DOG, AWAY, 0.8), (2, CAT, AWAY, 0.7)]
    # Image 1: the cat is taken for a dog, the dog is found. Image 2: a cat beside the missed one.
    expected = [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    np.testing.assert_array_equal(matrix(OBJECTS, *found), expected)


def test_the_better_score_takes_the_object():
    found = [(2, CAT, WHOLE, 0.6), (2, DOG, WHOLE, 0.7)]
    np.testing.assert_array_equal(matrix(OBJECTS[2:], *found), [[0, 1, 0], [0, 0, 0], [1, 0, 0]])


def test_limits_are_inclusive():
    found = [(1, CAT, PART, 0.25), (2, CAT, WHOLE, 0.2499)]
    cats = [OBJECTS[0], OBJECTS[2]]
    np.testing.assert_array_equal(matrix(cats, *found)[0], [0, 0, 2])
    np.testing.assert_array_equal(matrix(cats, *found, min_iou=0.4)[0], [1, 0, 1])
    np.testing.assert_array_equal(matrix(cats, *found, min_score=0.2)[0], [1, 0, 1])
    with pytest.raises(InputError, match="least IoU above 0"):
        matrix(cats, min_iou=0.0)


def test_a_crowd_is_no_object_and_takes_in_its_own_class_only():
    crowd = [(1, CAT, WHOLE, True)]
    inside = (10, 10, 20, 20)
    assert not matrix(crowd, (1, CAT, inside, 0.9)).any()
    assert matrix(crowd, (1, DOG, inside, 0.9))[2, 1] == 1


def test_every_object_stands_once_in_its_row():
    rng = np.random.default_rng(0)
    found = [
        (int(rng.integers(1, 3)), int(rng.integers(1, 3)), rng.uniform(1, 99, 4), rng.random())
        for _ in range(40)
    ]
    counts = matrix(OBJECTS, *found)
    np.testing.assert_array_equal(counts[:2].sum(1), [2, 1])
    assert counts[:, :2].sum() == sum(score >= 0.25 for *_, score in found)


def test_the_most_confused_pairs_come_first():
    classes = ("cat", "dog", "cow")
    objects = [(1, CAT, (x, 0, 50, 50)) for x in (0, 100, 200)] + [(2, 3, WHOLE)]
    found = [(1, DOG, (x, 0, 50, 50), 0.9) for x in (0, 100)]
    found += [(1, CAT, (200, 0, 50, 50), 0.9), (2, CAT, WHOLE, 0.9), (2, DOG, AWAY, 0.9)]
    case = case_of(*judged(truth_of(*objects, classes=classes), rows_of(*found)))
    confusion = confusion_matrix(case)
    assert confusion.pairs() == [Pair("cat", "dog", 2, 2 / 3), Pair("cow", "cat", 1, 1.0)]
    assert len(confusion.pairs(1)) == 1
    told = confusion.to_dict()
    assert told["classes"] == ["cat", "dog", "cow", "background"]
    assert told["pairs"][1] == {"truth": "cow", "found": "cat", "count": 1, "share": 1.0}
    assert (told["min_iou"], told["min_score"]) == (0.5, 0.25)


def test_nothing_at_all():
    assert matrix([]).tolist() == [[0] * 3] * 3
