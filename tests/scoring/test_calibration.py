import json

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.calibration import calibrate
from flaxyolo.scoring.matches import case_of, match
from tests.scoring.judged import judged
from tests.scoring.test_error_kinds import AWAY, CAT, DOG, WHOLE, rows_of, truth_of

TRUTH = truth_of((1, CAT, WHOLE), (2, CAT, WHOLE), (2, DOG, (0, 0, 300, 300), True))


def calibration(*found, **settings):
    case = case_of(*judged(TRUTH, rows_of(*found)))
    return calibrate(case, match(case), **settings)


# Two right at 0.9 and 0.8; two wrong at 0.65 and 0.2; one below the limit.
FOUND = (
    (1, CAT, WHOLE, 0.9),
    (2, CAT, WHOLE, 0.8),
    (1, CAT, AWAY, 0.65),
    (2, CAT, AWAY, 0.2),
    (1, CAT, AWAY, 0.01),
)


def test_by_hand():
    told = calibration(*FOUND, bins=2)
    low, high = told.reliability
    assert (low.low, low.high, low.count, low.score, low.precision) == (0, 0.5, 1, 0.2, 0)
    assert (high.count, high.score, high.precision) == (
        3,
        pytest.approx(2.35 / 3),
        pytest.approx(2 / 3),
    )
    # Gaps 0.2 and 0.35 / 3, with weights 1/4 and 3/4.
    assert told.d_ece == pytest.approx(0.2 / 4 + 0.35 / 4)
    # Halves: 0.2 and 0.65, none right; 0.8 and 0.9, both right.
    assert told.ece == pytest.approx((0.85 + 0.3) / 4)
    assert told.excess == pytest.approx(2.55 / 4 - 2 / 4)
    assert (told.detections, told.left_out) == (4, 1)
    assert "D-ECE 0.1375" in told.line()
    assert "scores are 0.14 too high" in told.line()


def test_a_detection_in_a_crowd_is_left_out():
    told = calibration((2, DOG, (10, 10, 20, 20), 0.9), (1, CAT, WHOLE, 1.0))
    assert (told.detections, told.left_out, told.d_ece) == (1, 1, 0)
    assert told.reliability[-1].count == 1  # a score of 1 is in the last bin
    assert "agree" in told.line()


def test_empty_bins_hold_nothing_and_nothing_is_no_calibration():
    told = calibration()
    assert (told.d_ece, told.ece, told.excess) == (None, None, None)
    assert json.loads(json.dumps(told.to_dict()))["reliability"][3] == {
        "low": pytest.approx(0.3),
        "high": pytest.approx(0.4),
        "count": 0,
        "score": None,
        "precision": None,
    }
    assert "no detection" in told.line()


def test_a_score_that_is_right_as_often_as_it_says_is_calibrated():
    truth = truth_of(*[(1, CAT, (10 * i, 0, 9, 9)) for i in range(30)])
    # 40 detections at 0.75, 30 of them right.
    found = [(1, CAT, (10 * i, 0, 9, 9), 0.75) for i in range(40)]
    case = case_of(*judged(truth, rows_of(*found)))
    told = calibrate(case, match(case), bins=1)
    assert [told.d_ece, told.ece] == pytest.approx([0, 0], abs=1e-12)
    assert calibrate(case, match(case), bins=10).d_ece == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("score", [1.5, 7.0])
def test_scores_that_are_no_probabilities_are_refused(score):
    with pytest.raises(InputError, match="expected scores between 0 and 1, got"):
        calibration((1, CAT, WHOLE, score))


def test_bins_are_of_one_width():
    edges = [one.low for one in calibration(*FOUND).reliability]
    np.testing.assert_allclose(edges, np.arange(10) / 10)
