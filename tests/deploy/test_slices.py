import itertools

import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.deploy.slices import detect_sliced, merged, tiles
from tests.deploy.seeing import scene, seeing


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(("height", "width"), [(100, 100), (101, 333), (90, 400), (640, 97)])
def test_tiles_cover_every_pixel_and_neighbours_overlap(height, width, overlap):
    *cut, whole = tiles(height, width, 100, overlap)
    assert whole == (0, 0, width, height)
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in cut or [whole]:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert max(right - left, bottom - top) <= 100
        seen[top:bottom, left:right] = True
    assert seen.all()
    for low, size in ((0, width), (1, height)):
        starts = sorted({tile[low] for tile in cut})
        assert all(b - a <= 100 * (1 - overlap) + 1 for a, b in itertools.pairwise(starts))
        assert len(starts) <= 1 or starts[-1] == size - 100


def test_what_fits_into_a_tile_is_one_tile():
    assert tiles(80, 100, 100, 0.5) == [(0, 0, 100, 80)]


def test_an_object_on_a_border_is_found_once_and_whole():
    # Every place of a box of 14 px across the borders of tiles of 64 px.
    for start in range(30, 150, 7):
        box = (start, start + 3, start + 14, start + 12)
        found = detect_sliced(seeing(), scene(200, 220, box), side=64, overlap=0.25, min_score=0.25)
        assert found.boxes.tolist() == [list(map(float, box))]
        assert found.image.tolist() == [0]


def test_what_is_larger_than_a_tile_is_found_whole():
    box = (10, 20, 190, 150)
    small = (195, 170, 203, 178)
    found = detect_sliced(
        seeing(), scene(200, 220, box, small), side=64, overlap=0.2, min_score=0.25
    )
    assert sorted(found.boxes.tolist()) == sorted([list(map(float, one)) for one in (box, small)])
    assert (np.diff(found.scores) <= 0).all()


def test_neighbours_stay_two():
    boxes = [(60, 60, 70, 70), (72, 60, 82, 70), (60, 72, 70, 82)]
    found = detect_sliced(seeing(), scene(200, 200, *boxes), side=64, overlap=0.3, min_score=0.25)
    assert len(found) == 3


def of_tiles(*rows):
    """Detections from rows of box, score, label and tile."""
    boxes, scores, labels, image = zip(*rows, strict=True)
    return Detections.from_corners(
        np.array(boxes, np.float32), np.array(scores), np.array(labels), np.array(image)
    )


CUT = [(0, 0, 100, 100), (50, 0, 150, 100), (0, 0, 150, 100)]


def kept(*rows):
    return merged(of_tiles(*rows), CUT, 100, 150).boxes.tolist()


def test_only_boxes_of_one_class_and_of_different_tiles_are_one():
    box, moved = (10.0, 10.0, 40.0, 40.0), (12.0, 10.0, 42.0, 40.0)
    assert kept((box, 0.5, 0, 0), (moved, 0.9, 0, 2)) == [list(moved)]
    assert len(kept((box, 0.5, 0, 0), (moved, 0.9, 1, 2))) == 2
    assert len(kept((box, 0.5, 0, 0), (moved, 0.9, 0, 0))) == 2


def test_a_small_object_inside_a_large_one_stays_unless_its_tile_cut_it():
    large, small = (20.0, 5.0, 120.0, 95.0), (60.0, 40.0, 80.0, 60.0)
    assert len(kept((large, 0.5, 0, 2), (small, 0.9, 0, 0))) == 2
    cut = (20.0, 5.0, 99.0, 95.0)
    assert kept((large, 0.5, 0, 2), (cut, 0.9, 0, 0)) == [list(large)]
    # The border of the image cuts nothing.
    edge = (0.0, 0.0, 30.0, 30.0)
    assert len(kept(((0.0, 0.0, 90.0, 90.0), 0.5, 0, 2), (edge, 0.9, 0, 0))) == 2


def test_nothing_found_is_nothing():
    assert len(detect_sliced(seeing(), scene(200, 200), side=64, overlap=0.0, min_score=0.2)) == 0
