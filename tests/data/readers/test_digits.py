import cv2
import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from flaxyolo.data.readers import digits
from flaxyolo.data.readers.digits import SPLIT_COLUMN, Digit, Scene, build_digits


@pytest.fixture(scope="module")
def built() -> tuple[list[Scene], list[Scene], tuple[str, ...]]:
    return build_digits()


def box_areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def test_there_are_600_training_and_150_validation_scenes_of_ten_classes(built):
    train, val, class_names = built
    assert (len(train), len(val)) == (600, 150)
    assert class_names == tuple("0123456789")
    for scenes in (train, val):
        labels = np.concatenate([scene.labels for scene in scenes])
        assert np.bincount(labels, minlength=10).min() > 0.05 * len(labels)


def test_scenes_are_square_with_sides_from_160_to_192(built):
    sides = set()
    for scene in (*built[0], *built[1]):
        assert scene.image.dtype == np.uint8
        height, width, channels = scene.image.shape
        assert (height, channels) == (width, 3)
        sides.add(height)
    assert (min(sides), max(sides)) == (160, 192)


def test_each_coco_size_holds_a_fifth_of_the_objects_of_each_split(built):
    for scenes in built[:2]:
        areas = np.concatenate([box_areas(scene.boxes) for scene in scenes])
        small, large = np.mean(areas < 32**2), np.mean(areas > 96**2)
        assert min(small, large, 1 - small - large) >= 0.2


def test_boxes_lie_inside_their_scene_and_labels_are_those_of_the_samples(built):
    targets = load_digits(return_X_y=True)[1]
    for scene in (*built[0], *built[1]):
        assert scene.boxes.dtype == np.float32
        assert 1 <= len(scene.boxes) <= 8
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= scene.image.shape[0]
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        np.testing.assert_array_equal(scene.labels, np.asarray(targets)[scene.samples])


def test_some_boxes_overlap_but_none_by_much(built):
    overlaps = []
    for scene in built[0]:
        for first in range(len(scene.boxes)):
            for second in range(first):
                a, b = scene.boxes[first], scene.boxes[second]
                width = min(a[2], b[2]) - max(a[0], b[0])
                height = min(a[3], b[3]) - max(a[1], b[1])
                shared = max(width, 0) * max(height, 0)
                union = box_areas(a[None])[0] + box_areas(b[None])[0] - shared
                overlaps.append(shared / union)
    assert np.mean(np.array(overlaps) > 0) > 0.1
    assert max(overlaps) < 0.5


def test_training_and_validation_share_no_digit_and_no_part_of_a_photograph(built):
    train, val, _ = built
    used = [set(np.concatenate([scene.samples for scene in scenes])) for scenes in (train, val)]
    assert not used[0] & used[1]
    assert min(len(samples) for samples in used) > 200
    assert max(scene.region[2] for scene in train) <= SPLIT_COLUMN
    assert min(scene.region[0] for scene in val) >= SPLIT_COLUMN
    assert {scene.photo for scene in val} == {scene.photo for scene in train} == {0, 1}


def test_the_background_of_a_scene_is_its_region_of_the_photograph(built):
    photos = load_sample_images().images
    for scene in (*built[0][:20], *built[1][:20]):
        x1, y1, x2, y2 = scene.region
        assert x2 - x1 == y2 - y1
        crop = photos[scene.photo][y1:y2, x1:x2]
        side = scene.image.shape[0]
        plain = cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
        outside = np.ones((side, side), bool)
        for left, top, right, bottom in scene.boxes.astype(int):
            outside[top:bottom, left:right] = False
            # Every box touches ink on its four sides.
            painted = (scene.image != plain).any(-1)[top:bottom, left:right]
            assert painted[0].any()
            assert painted[-1].any()
            assert painted[:, 0].any()
            assert painted[:, -1].any()
        # Covered digits may leave a soft edge beyond the box of what is still visible.
        changed = (scene.image != plain).any(-1) & outside
        assert changed.mean() < 0.02


def test_two_builds_are_equal(built, monkeypatch):
    monkeypatch.setattr(digits, "SCENES", {"train": 12, "val": 12})
    train, val, _ = build_digits()
    for scenes, again in ((built[0], train), (built[1], val)):
        for first, second in zip(scenes[:12], again, strict=True):
            for a, b in zip(first, second, strict=True):
                np.testing.assert_array_equal(a, b)


def test_no_digit_is_mostly_hidden():
    rng = np.random.default_rng(0)
    solid = np.ones((10, 10), np.float32)
    placed: list[Digit] = []
    for _ in range(6):
        found = digits._place(rng, solid, 40, placed)
        if found is None:
            break
        placed = found[2]
    assert len(placed) >= 3
    for digit in placed:
        assert digit.pixels == 100
        assert digit.mask.sum() >= 80
    assert digits._place(rng, np.ones((40, 40), np.float32), 40, placed) is None


def test_ink_stands_out_from_what_is_beneath():
    weights = np.array([0.299, 0.587, 0.114])
    rng = np.random.default_rng(1)
    for level in (0, 60, 128, 200, 255):
        window = np.full((12, 12, 3), level, np.uint8)
        alpha = np.zeros((12, 12), np.float32)
        alpha[3:9, 3:9] = 1
        painted = digits._paint(rng, window, alpha)
        assert abs(painted[5, 5] @ weights - level) > 40
        np.testing.assert_array_equal(painted[0], window[0])
