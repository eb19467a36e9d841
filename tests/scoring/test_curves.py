"""Curves and intervals as they are stored for a page."""

import json

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.curves import STEPS, Curves, curves, intervals, thinned
from flaxyolo.scoring.thresholds import curve
from tests.scoring.test_thresholds import judged
from tests.trials.made_study import scene


def test_a_long_curve_keeps_its_own_points_from_first_to_last():
    rng = np.random.default_rng(0)
    whole = curve("a", np.linspace(1, 0.001, 5000), rng.random(5000) < 0.5, 4000)
    line = thinned(whole)
    assert len(line.recall) <= STEPS + 1
    ends = whole.recall[[0, -1]].round(4).tolist()
    assert [line.recall[0], line.recall[-1]] == ends
    known = set(zip(whole.recall.round(4).tolist(), whole.precision.round(4).tolist(), strict=True))
    assert set(zip(line.recall, line.precision, strict=True)) <= known
    # Between two kept points the curve goes no further than one step.
    assert np.diff(line.recall).max() <= 1.05 * line.recall[-1] / STEPS + 1e-4


def test_what_was_not_found_and_classes_without_objects_have_no_line():
    found = judged([(0, 0, 0.9), (5, 1, 0.5)], [(0, 0)])
    assert thinned(found.classes[0]).recall == (1.0,)
    assert thinned(found.classes[1]).recall == ()
    assert thinned(judged([], [(0, 0)]).overall).recall == ()


def test_intervals_hold_the_score_and_are_as_wide_as_images_differ():
    truth, found = scene()
    matched = matched_by_size(truth, found)
    scores = coco_scores(truth, found)
    told = intervals(matched)
    # No object is large.
    assert scores.map_large is None
    assert set(told) == {"map", "map_50", "map_small", "map_medium"}
    for name, (low, high) in told.items():
        assert low <= getattr(scores, name) <= high
    # Every medium object is found in all images, and one image misses a small one.
    assert told["map_medium"] == (1.0, 1.0)
    assert told["map_small"][0] < told["map_small"][1]


def test_they_are_read_back_as_they_were():
    truth, found = scene()
    stored = curves(judged([(0, 0, 0.9)], [(0, 0)]), matched_by_size(truth, found))
    again = Curves.from_dict(json.loads(json.dumps(stored.to_dict())))
    assert again == stored
    assert stored.best is not None
    assert (stored.best_score, stored.best.f1) == (0.9, 1.0)
    with pytest.raises(InputError, match=r"^here: overall: missing"):
        Curves.from_dict({"classes": [], "min_iou": 0.5}, "here")
