"""Labels: what is wrong is found by its values, or by the pixels under the boxes."""

import numpy as np
import pytest

from flaxyolo.checks.labels import check_labels, check_objects, contrast
from tests.checks.scenes import NAMES, pixels_of, scenes, with_boxes


def swapped(boxes):
    return boxes[:, [1, 0, 3, 2]]


def from_centre(boxes):
    """As if the centre were the corner."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return boxes + np.concatenate([half, half], 1)


def test_sound_labels_pass_both_checks(tmp_path):
    dataset = scenes()
    pixels = pixels_of(dataset, tmp_path)
    for check in (
        check_labels(pixels, dataset.train, NAMES, 3),
        check_objects(pixels),
    ):
        assert check.passed, check.line()


def test_a_class_without_boxes_is_named(tmp_path):
    dataset = scenes()
    check = check_labels(pixels_of(dataset, tmp_path), dataset.train, (*NAMES, "grey"), 4)
    assert check.passed
    assert check.measured.endswith("no box of grey")


def test_class_names_and_classes_of_the_network_must_be_as_many(tmp_path):
    dataset = scenes()
    check = check_labels(pixels_of(dataset, tmp_path), dataset.train, NAMES, 80)
    assert not check.passed
    assert "num_classes" in check.cause


def test_images_without_any_box_fail(tmp_path):
    dataset = with_boxes(scenes(), lambda boxes: boxes)
    pixels = pixels_of(dataset, tmp_path)
    check = check_labels(
        pixels._replace(valid=np.zeros_like(pixels.valid)), dataset.train, NAMES, 3
    )
    assert not check.passed
    assert "no box" in check.measured


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (swapped, "x and y of the boxes are swapped"),
        (from_centre, "the centre of a box is taken for its corner"),
    ],
)
def test_mistakes_that_stay_inside_the_picture_show_in_the_pixels(tmp_path, change, cause):
    dataset = with_boxes(scenes(40, 128, 128, room=0.6), change)
    pixels = pixels_of(dataset, tmp_path)
    assert check_labels(pixels, dataset.train, NAMES, 3).passed
    check = check_objects(pixels)
    assert not check.passed, check.line()
    assert check.cause == cause


def test_too_few_images_are_no_evidence(tmp_path):
    dataset = scenes(5)
    check = check_objects(pixels_of(with_boxes(dataset, swapped), tmp_path))
    assert check.passed
    assert "too few" in check.measured


def test_contrast_is_the_distance_of_mean_colours():
    picture = np.full((40, 60, 3), 50.0)
    picture[10:20, 20:40] = (50, 90, 80)
    sums = np.zeros((41, 61, 3))
    sums[1:, 1:] = picture.cumsum(0).cumsum(1)
    boxes = np.array([[20, 10, 40, 20], [0, 0, 60, 40], [2, 2, 3, 30], [30, 9, 20, 12]], float)
    np.testing.assert_allclose(contrast(sums, boxes), [50, 0, 0, 0])
