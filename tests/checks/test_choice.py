"""What is learnt by heart is chosen so that it can be, and what cannot is not judged."""

import numpy as np

from flaxyolo.checks.choice import choose_images, crowded, ease, holds_point, iou, judged
from flaxyolo.checks.probe import PROBED
from tests.small import tiny_pixels

CLEAR = [[4, 4, 24, 24], [30, 4, 60, 40]]


def boxes_of(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def test_images_to_learn_are_simple_and_of_every_size():
    pixels = tiny_pixels(12)
    boxes = pixels.boxes.copy()
    boxes[3, 0] = [5, 5, 8, 8]  # between the points of stride 8: nothing can learn it
    boxes[4, 0] = [2, 2, 60, 60]
    pixels = pixels._replace(boxes=boxes)
    chosen = choose_images(pixels, 64, 8)
    assert len(chosen) == len(set(chosen)) == PROBED
    assert 3 not in chosen
    assert 4 in chosen  # the only medium-sized object
    labels = pixels.labels[chosen][pixels.valid[chosen]]
    assert set(labels) == {0, 1, 2}


def test_few_images_are_repeated():
    assert sorted(choose_images(tiny_pixels(2), 64, 8)) == [0, 0, 1, 1]


def test_where_no_image_is_easy_those_with_the_most_easy_boxes_are_learnt():
    pixels = tiny_pixels(30)
    boxes, valid = pixels.boxes.copy(), pixels.valid.copy()
    boxes[:] = [5, 5, 11, 11]
    valid[:] = [True, False]
    # Of two boxes one is easy, in six images; all others have but a small one.
    rows = [7, 9, 11, 13, 15, 17]
    boxes[rows, 1], valid[rows, 1] = [20, 20, 60, 60], True
    chosen = choose_images(pixels._replace(boxes=boxes, valid=valid), 64, 8)
    assert set(chosen) <= set(rows)


def test_only_easy_boxes_are_judged_where_there_are_enough():
    clear, small, tiny = (
        ease(boxes, np.arange(len(boxes), dtype=np.int32), 64, 8)
        for boxes in (boxes_of(*CLEAR), boxes_of([5, 5, 15, 15]), boxes_of([5, 5, 12, 12]))
    )
    masks = judged([clear, clear, small])
    assert [mask.tolist() for mask in masks] == [[True] * 2, [True] * 2, [False]]
    # With fewer than four, those of a cell or more count, and no smaller ones.
    masks = judged([clear, small, tiny])
    assert [mask.tolist() for mask in masks] == [[True] * 2, [True], [False]]


def test_boxes_under_others_and_without_a_point_are_not_easy():
    boxes = boxes_of([0, 0, 40, 40], [4, 4, 24, 24], [50, 50, 51, 60])
    part = ease(boxes, np.array([0, 1, 0], np.int32), 64, 8)
    np.testing.assert_array_equal(part.hopeless, [False, False, True])
    np.testing.assert_array_equal(part.hard, [False, True, True])
    np.testing.assert_array_equal(part.judged, [True, False, False])


def test_crowded_boxes_and_boxes_without_a_point():
    boxes = boxes_of([0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9])
    np.testing.assert_array_equal(crowded(boxes, np.array([0, 0, 1])), [True, True, False])
    points = np.array([4, 12, 20], np.float32)
    low, high = np.array([4, 3, 13], np.float32), np.array([12, 5, 20], np.float32)
    np.testing.assert_array_equal(holds_point(low, high, points), [False, True, False])


def test_the_overlap_of_each_two_boxes():
    overlap = iou(boxes_of([0, 0, 10, 10]), boxes_of([5, 0, 15, 10], [20, 20, 30, 30]))
    np.testing.assert_allclose(overlap, [[1 / 3, 0]])
