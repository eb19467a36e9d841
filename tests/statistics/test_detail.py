"""What scaling takes from boxes: little from smooth ones, much from print, whatever their outline.

The photographs are made up: 960 px, with one large object each.
"""

import cv2
import numpy as np
import pytest

from flaxyolo.data.sources import Example, read_dataset
from flaxyolo.statistics.detail import LEAST_OF_CLASS, detail_lost
from flaxyolo.statistics.rules import NEGLIGIBLE_LOSS

SIDE = 960
SIZES = (128, 256, 480, 640, 960, 1280)
TEXTS = ("LOT 17 B", "LOT 71 E")


def photograph(number, kind="plain", label=0, *, side=SIDE, noise=2):
    """A card on a table: plain, shaded as a ball is, or with small print that tells its class."""
    rng = np.random.default_rng(number)
    pixels = np.full((side, side, 3), rng.integers(90, 160), np.uint8)
    x, y = (int(value) for value in rng.integers(20, side // 3, 2))
    wide, high = side // 2, side // 3
    card = np.full((high, wide, 3), rng.integers(190, 230), np.uint8)
    if kind != "plain":
        card -= np.linspace(0, 60, wide).astype(np.uint8)[None, :, None]
    if kind == "print":
        for row in range(40, high - 20, 24):
            for column in range(wide // 8, wide * 3 // 4, 90):
                cv2.putText(card, TEXTS[label], (column, row), cv2.FONT_HERSHEY_SIMPLEX, 0.45,
                            (20, 20, 20), 1, cv2.LINE_AA)  # fmt: skip
    pixels[y : y + high, x : x + wide] = card
    noisy = pixels + rng.normal(0, noise, (side, side, 1))
    return Example(
        image_id=number,
        image=noisy.clip(0, 255).astype(np.uint8),
        height=side,
        width=side,
        boxes=np.array([[x, y, x + wide, y + high]], np.float32),
        labels=np.array([label], np.int32),
        areas=np.array([wide * high], np.float32),
        crowd=np.zeros(1, bool),
    )


def photographs(kind, images=24, **settings):
    """Of two classes in turn."""
    return [photograph(number, kind, number % 2, **settings) for number in range(images)]


@pytest.mark.parametrize("noise", [0, 2, 8])
@pytest.mark.parametrize("kind", ["plain", "shaded"])
def test_smooth_objects_lose_nothing_at_any_size_however_noisy(kind, noise):
    lost = detail_lost(photographs(kind, 12, noise=noise), SIZES)
    assert max(each.worst_class for each in lost.values()) < 0.01


def test_small_print_is_lost_the_more_the_smaller_the_input():
    lost = [each.median for each in detail_lost(photographs("print"), SIZES).values()]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 0.8
    assert lost[2] < 0.8
    assert lost[3] > NEGLIGIBLE_LOSS
    # At their own size and beyond images are not shrunk.
    assert lost[-2:] == [0, 0]


def test_the_class_that_loses_most_is_named_beside_the_median():
    mixed = [photograph(number, "print" if number % 3 == 0 else "plain", int(number % 3 == 0))
             for number in range(3 * LEAST_OF_CLASS)]  # fmt: skip
    lost = detail_lost(mixed, [256])[256]
    assert lost.worst_class > 0.5
    assert lost.median < 0.01
    # Ten boxes of print are too few for a median of their own.
    few = detail_lost(mixed[:30], [256])[256]
    assert few.worst_class == few.median < 0.01


def test_the_boxes_are_drawn_by_a_seed_and_as_many_of_each_class(monkeypatch):
    monkeypatch.setattr("flaxyolo.statistics.detail.BOXES", 24)
    examples = photographs("print", 60)
    assert detail_lost(examples, [256]) == detail_lost(examples, [256])
    assert detail_lost(examples, [256]) != detail_lost(examples, [256], seed=1)
    read = []
    monkeypatch.setattr(
        "flaxyolo.statistics.detail.decode",
        lambda image, *, oriented: read.append(image) or image,
    )
    rare = [photograph(60, "print", 1)]
    detail_lost([*(photograph(number, "print") for number in range(50)), *rare], [256])
    assert len(read) == 12 + 1
    assert any(image is rare[0].image for image in read)


def test_boxes_of_a_pixel_and_at_the_edge_are_read():
    example = photograph(0, "print", side=64)
    boxes = np.array([[63.5, 63.5, 64, 64], [0, 0, 0.4, 64], [-3, -3, 70, 70]], np.float32)
    crowded = Example(0, example.image, 64, 64, boxes, np.zeros(3, np.int32),
                      np.ones(3, np.float32), np.zeros(3, bool))  # fmt: skip
    lost = detail_lost([crowded] * 4, [32])[32]
    assert 0 <= lost.median <= 1


def test_images_that_are_missing_or_not_as_labelled_are_left_out(tmp_path):
    good, other = photograph(0, "print"), photograph(1, "print")
    object.__setattr__(other, "height", SIDE + 1)
    missing = photograph(2, "print")
    object.__setattr__(missing, "image", tmp_path / "none.png")
    assert detail_lost([good, other, missing], [256]) == detail_lost([good], [256])
    assert detail_lost([other, missing], [256]) == {}
    assert detail_lost([], [256]) == {}


def test_digits_lose_little_from_160_pixels():
    lost = detail_lost(read_dataset("digits").train, (128, 160, 192))
    assert lost[128].worst_class > NEGLIGIBLE_LOSS > lost[160].worst_class
    assert lost[192].worst_class == 0


@pytest.mark.slow
def test_nuclei_lose_more_than_blood_cells_at_half_of_their_size(test_data):
    nuclei, cells = (
        detail_lost(read_dataset(f"coco:{test_data / name}").train, [size])[size]
        for name, size in (("nuclei", 128), ("bccd", 320))
    )
    assert nuclei.worst_class > 3 * cells.worst_class
