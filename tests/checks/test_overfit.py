"""What is learnt by heart is told apart from what faults leave, by numbers of both."""

import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.checks.overfit import (
    Labelled,
    Learnt,
    check_overfit,
    gains,
    judge,
    left_out,
    likely_fault,
)
from flaxyolo.checks.probe import compile_probe, probe_plan
from tests.checks.scenes import CONFIG, NAMES
from tests.small import tiny_pixels, tiny_spec

CELLS = ("RBC", "WBC", "Platelets")
BOXES = np.array([[2, 2, 30, 30], [34, 2, 62, 30], [2, 34, 30, 62], [40, 40, 46, 46]], np.float32)


def learnt(confusion, score=0.0, alone=1.0, highest=0.9):
    return Learnt(score, alone, highest, {}, np.array(confusion))


def images(labels, judged=(True, True, True, True), count=4):
    one = Labelled(BOXES, np.array(labels, np.int32), np.array(judged))
    return [one] * count


def given(labels, boxes=BOXES, count=4):
    """Detections of these classes at these boxes in each image."""
    return Detections.from_corners(
        np.tile(boxes, (count, 1)),
        np.full(count * len(boxes), 0.9, np.float32),
        np.tile(np.array(labels, np.int32), count),
        np.repeat(np.arange(count), len(boxes)),
    )


def test_a_rare_class_that_is_missed_does_not_stop_the_others():
    # As with blood cells: the smallest and rarest are taken for the most frequent.
    truth = images([0, 0, 0, 0], count=13)
    truth[0] = truth[0]._replace(labels=np.array([2, 1, 0, 0], np.int32))
    found = given([0, 0, 0, 0], count=13)
    found.labels[1] = 1
    made = judge(truth, found, CELLS, 64)
    assert made.per_class[2] == (1, 0.0)
    assert np.mean([score for _, score in made.per_class.values()]) < 0.7
    assert made.score > 0.9
    assert made.is_enough


def test_boxes_that_are_not_judged_are_neither_good_nor_bad():
    truth = images([0, 1, 2, 0], (True, True, True, False))
    assert judge(truth, given([0, 1, 2], BOXES[:3]), CELLS, 64).score == 1
    made = judge(truth, given([0, 1, 2, 0]), CELLS, 64)
    assert made.score == 1
    assert {label: count for label, (count, _) in made.per_class.items()} == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("found", [[1, 2, 0, 1], [1, 0, 2, 1]])
def test_shifted_and_exchanged_classes_are_no_sound_learning(found):
    made = judge(images([0, 1, 2, 0]), given(found), CELLS, 64)
    assert made.exchanged is not None
    assert not made.is_enough
    assert not made.is_sound
    assert "class ids are shifted" in likely_fault(made, CELLS, 0.1)


def test_two_of_many_classes_exchanged_are_named():
    confusion = np.diag(np.full(20, 9))
    confusion[3:5, 3:5] = [[0, 9], [9, 0]]
    names = [f"class {number}" for number in range(20)]
    made = learnt(confusion, score=0.95)
    assert not made.is_enough
    assert "class 3 is found as such, they are taken for class 4" in likely_fault(made, names, 0.1)


def test_a_class_that_is_taken_for_one_that_is_learnt_is_no_fault():
    made = learnt([[30, 0, 0], [4, 0, 0], [3, 0, 0]], score=0.6)
    assert made.exchanged is None
    assert made.is_sound
    assert likely_fault(made, CELLS, 0.1) is None


@pytest.mark.parametrize(
    ("highest", "left", "cause"),
    [
        (0.9, 0.9, "nothing is learnt"),
        (0.02, 0.2, "class_gain is 0"),
        (0.9, 0.2, "decoding, assignment or box format"),
    ],
)
def test_each_fault_of_the_boxes_has_its_own_cause(highest, left, cause):
    made = learnt(np.zeros((3, 3), int), alone=0.1, highest=highest)
    assert cause in likely_fault(made, CELLS, left)


def test_more_steps_are_taken_while_something_is_gained():
    still = [(learnt(np.eye(3, dtype=int), score=0.2, alone=0.4), 1.0)] * 8
    assert not gains(still)
    assert gains(still[:5])
    assert gains([*still, (learnt(np.eye(3, dtype=int), score=0.3, alone=0.4), 1.0)])
    assert gains([*still, (learnt(np.eye(3, dtype=int), score=0.2, alone=0.5), 1.0)])
    assert gains([*still, (learnt(np.eye(3, dtype=int), score=0.2, alone=0.4), 0.9)])


def test_classes_that_no_judged_box_has_are_named():
    pixels = tiny_pixels()
    made = Learnt(1.0, 1.0, 0.9, {1: (4, 1.0)}, np.eye(3, dtype=int))
    assert left_out(pixels, made, NAMES) == "; not judged: red, blue"
    many = pixels._replace(labels=np.arange(pixels.labels.size).reshape(pixels.labels.shape))
    names = [str(number) for number in range(pixels.labels.size)]
    assert left_out(many, made, names).endswith(" and 13 more")


def test_images_of_nothing_but_specks_are_not_judged():
    pixels = tiny_pixels()
    specks = np.where(pixels.valid[..., None], [[[5, 5, 10, 10]]], 0).astype(np.float32)
    pixels = pixels._replace(boxes=specks)
    plan = probe_plan(tiny_spec(), CONFIG, pixels)
    check = check_overfit(pixels, plan, compile_probe(plan), NAMES)
    assert check.passed
    assert check.measured.startswith("not judged: none of the")
