"""Letterbox and its inverse, anchor points, box formats."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.boxes import (
    anchor_points,
    area,
    intersection,
    letterbox,
    letterbox_boxes,
    letterbox_image,
    ltrb_to_xyxy,
    unletterbox_boxes,
    xyxy_to_ltrb,
)

SHAPES = [(480, 640), (640, 480), (333, 111), (1, 500), (97, 97), (1080, 1920)]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [64, 192, 640])
def test_the_inverse_of_the_letterbox_gives_the_boxes_back(height, width, size):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 1, (20, 2, 2)), 1) * [width, height]
    boxes = corners.reshape(20, 4).astype(np.float32)
    place = letterbox(height, width, size)
    inside = letterbox_boxes(boxes, place)
    assert (inside >= -1e-3).all()
    assert (inside <= size + 1e-3).all()
    back = unletterbox_boxes(inside, place, height, width)
    np.testing.assert_allclose(back, boxes, rtol=1e-4, atol=max(height, width) * 1e-5)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_whole_picture_is_centred_and_its_longer_side_fills_the_square(height, width):
    place = letterbox(height, width, 320)
    assert max(place.height, place.width) == 320
    whole = letterbox_boxes(np.array([[0, 0, width, height]], np.float32), place)[0]
    x0, y0, x1, y1 = whole
    np.testing.assert_allclose([x0, y0], [place.pad_x, place.pad_y], atol=1e-3)
    assert abs(x0 - (320 - x1)) <= 1.001
    assert abs(y0 - (320 - y1)) <= 1.001


def test_letterbox_by_hand():
    place = letterbox(100, 200, 64)  # ratio 0.32
    assert place == (0.32, 0.32, 0, 16, 64, 32)
    boxes = letterbox_boxes(np.array([[50, 25, 100, 75]], np.float32), place)
    np.testing.assert_allclose(boxes, [[16, 24, 32, 40]], rtol=1e-6)


def test_boxes_beyond_the_picture_are_clipped_on_the_way_back():
    place = letterbox(100, 200, 64)
    back = unletterbox_boxes(np.array([[-5, 0, 70, 64]], np.float32), place, 100, 200)
    np.testing.assert_array_equal(back, [[0, 0, 200, 100]])


def test_the_letterboxed_image_holds_the_picture_on_grey():
    image = np.full((50, 100, 3), 200, np.uint8)
    square = letterbox_image(image, 64)
    assert square.shape == (64, 64, 3)
    assert square.dtype == np.uint8
    assert (square[16:48] == 200).all()
    assert (square[:16] == 114).all()
    assert (square[48:] == 114).all()


def test_anchor_points_are_cell_centres_level_by_level():
    points, strides = anchor_points(32, (8, 16))
    assert points.shape == (16 + 4, 2)
    np.testing.assert_array_equal(points[:5], [[4, 4], [12, 4], [20, 4], [28, 4], [4, 12]])
    np.testing.assert_array_equal(points[16:], [[8, 8], [24, 8], [8, 24], [24, 24]])
    np.testing.assert_array_equal(strides, [8] * 16 + [16] * 4)


def test_ltrb_and_xyxy_are_inverse():
    points = jnp.asarray([[10.0, 20.0]])
    distances = jnp.asarray([[1.0, 2.0, 3.0, 4.0]])
    boxes = ltrb_to_xyxy(distances, points)
    np.testing.assert_array_equal(boxes, [[9, 18, 13, 24]])
    np.testing.assert_array_equal(xyxy_to_ltrb(boxes, points), distances)


def test_ltrb_broadcasts_the_points_over_a_batch():
    distances = jnp.ones((2, 3, 4))
    points = jnp.zeros((1, 3, 2))
    assert ltrb_to_xyxy(distances, points).shape == (2, 3, 4)


def test_intersection_and_area_by_hand():
    a = jnp.asarray([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4.0]])
    b = jnp.asarray([[2, 1, 6, 3], [4, 0, 8, 4], [9, 9, 10, 10.0]])
    np.testing.assert_array_equal(intersection(a, b), [4, 0, 0])
    np.testing.assert_array_equal(area(b), [8, 16, 1])
