from dataclasses import replace

import numpy as np
import pytest

from flaxyolo.base.detections import (
    Detections,
    check_boxes,
    check_places,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from flaxyolo.base.errors import InputError


def made(count=3, image=0):
    boxes = np.arange(4 * count, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, count, dtype=np.float32)
    return Detections.from_corners(
        boxes, scores, np.arange(count, dtype=np.int32), np.full(count, image)
    )


def test_corners_become_left_top_width_height():
    boxes = np.array([[1, 2, 4, 8]], np.float32)
    assert xyxy_to_xywh(boxes).tolist() == [[1, 2, 3, 6]]
    assert xywh_to_xyxy(xyxy_to_xywh(boxes)).tolist() == boxes.tolist()
    assert xyxy_to_xywh(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_corners_in_float32_come_back_to_the_bit():
    random = np.random.default_rng(0)
    # From a billionth of a pixel to a large image: also sizes that float64 has to round.
    ends = np.sort(10 ** random.uniform(-9, 4, (20_000, 2, 2)), 1).astype(np.float32)
    boxes = ends.reshape(-1, 4)
    found = Detections.from_corners(
        boxes, np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.int32)
    )
    assert found.boxes.dtype == np.float32
    np.testing.assert_array_equal(found.boxes, boxes)


def test_a_part_keeps_the_columns_together():
    found = made()
    for chosen in (found.scores < 0.8, np.array([1, 2])):
        part = found.part(chosen)
        np.testing.assert_array_equal(part.boxes, found.boxes[1:])
        assert (len(part), part.labels.tolist()) == (2, [1, 2])
        assert part.scores.dtype == np.float32


def test_each_has_the_name_of_its_class():
    assert made(3).names == ("0", "1", "2")
    named = replace(made(3), class_names=("cat", "dog", "cow"))
    assert named.names == ("cat", "dog", "cow")
    assert named.part(named.scores < 0.8).names == ("dog", "cow")
    assert Detections.joined([named, named]).names == ("cat", "dog", "cow") * 2
    assert Detections.joined([]).names == ()


def test_images_are_joined_and_taken_apart():
    joined = Detections.joined([made(2), made(0), made(3, image=7)])
    assert joined.image.tolist() == [0, 0, 2, 2, 2]
    assert joined.labels.tolist() == [0, 1, 0, 1, 2]
    assert joined.scores.dtype == np.float32
    np.testing.assert_array_equal(joined.part(joined.image == 2).boxes, made(3).boxes)
    assert len(Detections.joined([])) == 0


GOOD = {
    "xywh": np.array([[0.0, 0, 5, 5], [1, 1, 5, 5]]),
    "scores": np.array([0.5, 0.4]),
    "labels": np.array([0, 1]),
    "image": np.array([0, 0]),
}


@pytest.mark.parametrize(
    ("check", "says"),
    [
        # Called themselves: in tests the annotated shapes of the columns are checked first.
        (lambda: check_boxes("x", np.zeros((2, 5))), r"boxes of shape \(n, 4\), got \(2, 5\)"),
        (
            lambda: check_boxes("x", np.zeros((2, 4)), scores=np.zeros(3)),
            r"scores of 2 boxes, got shape \(3,\)",
        ),
        (
            lambda: check_places("x", 2, labels=np.zeros((2, 1), int)),
            r"labels of 2 boxes, got shape \(2, 1\)",
        ),
        (lambda: check_places("x", 2, image=np.array([0.0, 1.0])), "image as integers from 0 on"),
        (
            lambda: Detections(**GOOD | {"labels": np.array([0, -1])}),
            "labels as integers from 0 on",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(check, says):
    with pytest.raises(ValueError, match=f": expected {says}"):
        check()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"xywh": np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]])}, "a box of 4 finite numbers"),
        ({"xywh": np.array([[0, 0, 1, 1], [0, 0, 1, -1.0]])}, "no negative size"),
        ({"scores": np.array([0.5, np.inf])}, "finite scores, got inf"),
    ],
)
def test_what_is_no_number_is_named_with_its_row(change, says):
    with pytest.raises(InputError, match=f"detections: row 1: expected .*{says}"):
        Detections(**GOOD | change)
