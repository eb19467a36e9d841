from dataclasses import replace

import jax
import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.nn import detector as network
from flaxyolo.scoring import detect
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.search.objective import Objective
from tests.scoring.scenes import (
    CATEGORY_IDS,
    EXAMPLES,
    NAMES,
    SIZE,
    example,
    perfect_detect,
    pixels_of,
    trained,
)


@pytest.fixture
def perfect(monkeypatch):
    """A detector whose `detect` finds exactly the objects; yields the batch shapes it saw."""
    shapes = []
    monkeypatch.setattr(network, "detect", perfect_detect(shapes))
    return shapes


def test_a_perfect_detector_scores_1_in_original_pixels(perfect):
    scores = detect.evaluate(
        trained(), EXAMPLES, pixels_of(EXAMPLES), NAMES, CATEGORY_IDS, batch_size=2
    )
    # By hand: 140 x 70 and 111 x 333 are large, 39 x 20 is small; none is medium. In input pixels
    # the first would be medium.
    assert scores.map_medium is None
    assert [scores.map, scores.map_small, scores.map_large] == pytest.approx([1, 1, 1])
    assert {entry.name: entry.map for entry in scores.per_class} == pytest.approx(
        {"cat": 1, "dog": 1}
    )
    assert Objective().value(scores) == pytest.approx(2)


def test_every_batch_has_the_same_shape(perfect):
    detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES), batch_size=2)
    assert perfect == [(2, SIZE, SIZE, 3)] * 2


def test_what_is_found_comes_per_image_in_original_pixels(perfect):
    found = detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES), batch_size=16)
    assert found.image.tolist() == [0, 0, 1]
    for place, truth in enumerate(EXAMPLES):
        part = found.part(found.image == place)
        np.testing.assert_allclose(part.boxes, truth.boxes, atol=1e-3)
        np.testing.assert_array_equal(part.labels, truth.labels)


def test_a_shifted_box_loses_precision(perfect):
    found = detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES))
    # The cat is 140 wide, moved by 21: IoU 119 / 161 = 0.739, enough for 5 of the 10 thresholds.
    moved = replace(found, xywh=found.xywh + np.array([[21, 0, 0, 0], *[[0] * 4] * 2]))
    truth = ground_truth(EXAMPLES, NAMES, CATEGORY_IDS)
    cat, dog = coco_scores(truth, moved).per_class
    assert [cat.map_50, cat.map, dog.map] == pytest.approx([1, 0.5, 1])


def test_a_crowd_is_no_object_and_what_lies_in_it_is_no_mistake():
    lone = example(1, 100, 100, [(0, 0, 40, 40), (50, 50, 100, 100)], [0, 0], crowd={1})
    boxes = np.array([(0, 0, 40, 40), (60, 60, 80, 80)], np.float32)
    scores, labels = np.array([0.5, 0.9], np.float32), np.array([0, 0], np.int32)
    found = Detections.from_corners(boxes, scores, labels)
    assert coco_scores(ground_truth([lone], NAMES, CATEGORY_IDS), found).map == pytest.approx(1)
    ordinary = replace(lone, crowd=np.array([False, False]))
    assert coco_scores(ground_truth([ordinary], NAMES, CATEGORY_IDS), found).map < 0.5


def test_pixels_of_other_examples_are_refused(perfect):
    with pytest.raises(ValueError, match="pixels of 3 examples, got 2"):
        detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES[:2]))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule is for CPUs")
def test_a_cpu_takes_few_images_one_at_a_time(monkeypatch):
    seen, original = [], network.detect

    def counted(spec, fused, images):
        seen.append(len(images))
        return original(spec, fused, images)

    monkeypatch.setattr(network, "detect", counted)
    few = detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES))
    assert set(seen) == {1}
    seen.clear()
    monkeypatch.setattr(network, "FEW", 0)
    many = detect.run_detector(trained(), EXAMPLES, pixels_of(EXAMPLES))
    assert set(seen) == {network.BATCH_SIZE}
    np.testing.assert_array_equal(few.image, many.image)
    np.testing.assert_allclose(few.boxes, many.boxes, atol=1e-3)
