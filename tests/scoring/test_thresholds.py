"""Precision, recall and F1 counted by hand, and the score at which they are best."""

import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.matches import case_of, match
from flaxyolo.scoring.thresholds import Point, curve, point, thresholds
from flaxyolo.scoring.truth import GroundTruth

RIGHT = np.array([True, False, True, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.7, 0.1])


def judged(found, objects, names=("a", "b"), crowd=()):
    """Detections (place, label, score) against objects (place, label) of one image."""

    def boxes(places):
        return np.array([[20.0 * place, 0, 10, 10] for place in places]).reshape(-1, 4)

    truth = GroundTruth(
        image_ids=(1,),
        class_names=names,
        category_ids=tuple(range(len(names))),
        image=np.zeros(len(objects), np.int64),
        labels=np.array([label for _, label in objects], np.int64),
        xywh=boxes([place for place, _ in objects]),
        areas=np.full(len(objects), 100.0),
        crowd=np.array([index in crowd for index in range(len(objects))], bool),
    )
    detections = Detections(
        xywh=boxes([place for place, _, _ in found]),
        scores=np.array([score for _, _, score in found], np.float64),
        labels=np.array([label for _, label, _ in found], np.int64),
        image=np.zeros(len(found), np.int64),
    )
    case = case_of(truth, detections)
    return thresholds(case, match(case))


def test_a_curve_has_a_point_for_each_score():
    found = curve("a", SCORES[[3, 0, 4, 2, 1]], RIGHT[[3, 0, 4, 2, 1]], 4)
    assert found.scores.tolist() == [0.9, 0.8, 0.7, 0.1]
    assert found.precision.tolist() == [1, 1 / 2, 3 / 4, 3 / 5]
    assert found.recall.tolist() == [1 / 4, 1 / 4, 3 / 4, 3 / 4]
    np.testing.assert_allclose(found.f1, [2 / 5, 2 / 6, 6 / 8, 6 / 9])


@pytest.mark.parametrize(
    ("threshold", "reached"),
    [
        (0.95, (None, 0, 0)),
        (0.9, (1, 0.25, 0.4)),
        (0.75, (0.5, 0.25, 1 / 3)),
        (0.0, (0.6, 0.75, 2 / 3)),
    ],
)
def test_what_is_reached_from_a_score_on(threshold, reached):
    assert point(curve("a", SCORES, RIGHT, 4), threshold) == pytest.approx(reached)


def test_without_objects_recall_and_f1_are_unknown():
    assert point(curve("a", SCORES, np.zeros(5, bool), 0), 0.5) == Point(0.0, None, None)
    assert point(curve("a", SCORES[:0], RIGHT[:0], 0), 0.5) == Point(None, None, None)
    assert point(curve("a", SCORES[:0], RIGHT[:0], 3), 0.5) == Point(None, 0.0, 0.0)


def test_the_best_score_is_that_of_the_largest_f1_of_all_classes():
    found = judged(
        [(0, 0, 0.9), (1, 1, 0.8), (2, 0, 0.6), (5, 0, 0.5), (6, 1, 0.4)], [(0, 0), (1, 1), (2, 0)]
    )
    assert found.best == 0.6
    assert point(found.overall, found.best) == Point(1.0, 1.0, 1.0)
    assert [one.objects for one in found.classes] == [2, 1]
    assert point(found.classes[1], 0.1) == pytest.approx((1 / 2, 1, 2 / 3))
    whole = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    classes = [{"name": name, **whole} for name in ("a", "b")]
    assert found.at_best() == {"score": 0.6, **whole, "per_class": classes}


def test_a_detection_in_a_crowd_counts_neither_way():
    found = judged([(0, 0, 0.9), (1, 0, 0.8)], [(0, 0), (1, 0)], crowd=(1,))
    assert found.overall.objects == 1
    assert found.overall.precision.tolist() == [1.0]


def test_nothing_right_has_no_best_score():
    assert judged([(3, 0, 0.9)], [(0, 0)]).best is None
    assert judged([], [(0, 0)]).best is None
    assert judged([], []).best is None
    assert judged([(3, 0, 0.9)], []).best is None
    nothing = judged([], []).at_best()
    assert (nothing["score"], nothing["precision"], nothing["f1"]) == (None, None, None)
