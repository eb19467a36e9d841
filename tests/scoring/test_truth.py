from dataclasses import replace

import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.matches import case_of
from flaxyolo.scoring.truth import ground_truth
from tests.scoring.scenes import CATEGORY_IDS, EXAMPLES, NAMES


def test_examples_become_columns():
    truth = ground_truth(EXAMPLES, NAMES, CATEGORY_IDS)
    assert (truth.image_ids, truth.class_names, truth.category_ids) == (
        (42, 7, 900),
        NAMES,
        CATEGORY_IDS,
    )
    assert (truth.image.tolist(), truth.labels.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert truth.xywh.tolist() == [[10, 20, 140, 70], [200, 5, 39, 20], [0, 0, 111, 333]]
    assert (truth.areas.tolist(), truth.crowd.any()) == ([9800, 780, 36963], False)
    nothing = ground_truth((), NAMES, CATEGORY_IDS)
    assert (len(nothing.xywh), nothing.image_ids) == (0, ())


def test_objects_have_to_be_sorted_by_image():
    truth = ground_truth(EXAMPLES, NAMES, CATEGORY_IDS)
    with pytest.raises(ValueError, match="sorted by image"):
        replace(truth, image=truth.image[::-1].copy())


@pytest.mark.parametrize("judge", [coco_scores, case_of])
@pytest.mark.parametrize(
    ("place", "label", "says"), [(3, 0, "3 images, got one of number 3"), (0, 2, "2 classes")]
)
def test_detections_of_other_images_or_classes_are_refused(judge, place, label, says):
    box, score = np.array([[0, 0, 5, 5]], np.float32), np.array([0.5], np.float32)
    found = Detections.from_corners(box, score, np.array([label]), np.array([place]))
    with pytest.raises(ValueError, match=says):
        judge(ground_truth(EXAMPLES, NAMES, CATEGORY_IDS), found)
