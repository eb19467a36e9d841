"""Transforms: the map told from pixels is the true one, and boxes that go elsewhere are found."""

import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.boxes import letterbox
from flaxyolo.checks import transforms
from flaxyolo.checks.transforms import (
    check_augmentation,
    check_letterbox,
    check_transforms,
    letterbox_move,
    ramp_pixels,
    ramps,
    told_move,
)
from flaxyolo.config import Augmentation
from flaxyolo.data import augment
from tests.checks.scenes import CONFIG, pixels_of, scenes


@pytest.fixture
def traced_anew():
    transforms.moved.clear_cache()
    yield
    transforms.moved.clear_cache()


@pytest.mark.parametrize("size", [(96, 128), (480, 640), (1200, 500), (40, 40)])
@pytest.mark.parametrize("target", [128, 320])
def test_the_letterbox_is_told_from_its_pixels(size, target):
    place, move = letterbox(*size, target), letterbox_move(*size, target)
    assert move is not None
    corner = move.boxes(np.array([[0, 0, size[1], size[0]]], float))[0]
    left, top = place.pad_x, place.pad_y
    np.testing.assert_allclose(
        corner, [left, top, left + place.width, top + place.height], atol=0.1
    )


def test_too_small_a_picture_tells_nothing():
    assert letterbox_move(20, 400, 128) is None


def test_a_turned_picture_is_told():
    picture = ramps(80, 80, 0).astype(float)[::-1].swapaxes(0, 1)
    move = told_move(picture, 0, 0, (80, 80))
    assert move is not None
    moved = move.boxes(np.array([[10, 20, 30, 60]], float))[0]
    np.testing.assert_allclose(moved, [20, 10, 60, 30], atol=0.1)
    assert told_move(np.full((40, 40, 3), 9.0), 0, 0, (80, 80)) is None


def test_the_real_transforms_pass_and_say_what_was_followed(tmp_path):
    dataset = scenes()
    check = check_transforms(pixels_of(dataset, tmp_path), dataset.train, Augmentation())
    assert check.passed, check.line()
    assert "there and back" in check.measured
    assert "followed by their pixels" in check.measured


def test_pictures_of_many_sizes_pass(tmp_path):
    dataset = scenes(8, 96, 128)
    other = scenes(8, 130, 70, seed=1)
    train = dataset.train + other.train
    pixels = [pixels_of(one, tmp_path / str(n)) for n, one in enumerate((dataset, other))]
    slots = max(part.valid.shape[1] for part in pixels)

    def padded(array):
        width = [(0, 0), (0, slots - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
        return np.pad(array, width)

    joined = pixels[0]._replace(
        images=np.concatenate([part.images for part in pixels]),
        content=np.concatenate([part.content for part in pixels]),
        **{
            name: np.concatenate([padded(getattr(part, name)) for part in pixels])
            for name in ("boxes", "labels", "valid")
        },
    )
    check = check_letterbox(joined, train)
    assert check.passed, check.line()
    assert "2 sizes" in check.measured


def test_mirrored_and_mosaic_boxes_are_among_the_followed(tmp_path):
    check = check_augmentation(pixels_of(scenes(), tmp_path), CONFIG.augmentation)
    assert check.passed, check.line()
    assert "(0 mirrored)" not in check.measured


def test_ramps_carry_the_largest_boxes_of_the_data(tmp_path):
    pixels = pixels_of(scenes(), tmp_path)
    source = ramp_pixels(pixels)
    assert len(source.images) == transforms.RAMPS
    np.testing.assert_array_equal(source.boxes[0][0], pixels.boxes[0][0])
    assert len(np.unique(source.labels)) == source.labels.size


@pytest.mark.parametrize(
    "move",
    [
        lambda boxes: boxes + jnp.array([[2.0, 0, 2, 0]]),
        lambda boxes: boxes[:, jnp.array([0, 1, 2, 1])],
        lambda boxes: boxes * 0,
    ],
)
@pytest.mark.usefixtures("traced_anew")
def test_boxes_that_leave_their_pixels_are_found(tmp_path, monkeypatch, move):
    pixels = pixels_of(scenes(), tmp_path)
    real = augment._move_boxes

    def wrong(*arguments):
        boxes, *rest = real(*arguments)
        return move(boxes), *rest

    monkeypatch.setattr(augment, "_move_boxes", wrong)
    check = check_augmentation(pixels, CONFIG.augmentation)
    assert not check.passed
    assert "do not lie where their pixels went" in check.measured


def test_a_box_that_the_cache_has_lost_is_found(tmp_path):
    dataset = scenes()
    pixels = pixels_of(dataset, tmp_path)
    valid = pixels.valid.copy()
    valid[3, 0] = False
    check = check_letterbox(pixels._replace(valid=valid), dataset.train)
    assert not check.passed
    assert "image 4" in check.measured
    assert not check_letterbox(pixels, dataset.train[1:]).passed
