import cv2
import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.sources import Example
from flaxyolo.scoring import error_charts
from flaxyolo.scoring.error_kinds import BACKGROUND, KINDS, MISSED, find_errors
from flaxyolo.scoring.matches import case_of, match
from tests.scoring.judged import judged
from tests.scoring.test_error_kinds import AWAY, CAT, DOG, PART, WHOLE, rows_of, truth_of

OBJECTS = [
    (1, CAT, WHOLE),
    (1, DOG, (200, 0, 100, 100)),
    (2, CAT, WHOLE),
    (2, DOG, AWAY),
    (2, DOG, (150, 300, 10, 10)),
]
FOUND = [
    (1, DOG, WHOLE, 0.9),
    (1, DOG, (200, 0, 100, 40), 0.8),
    (2, CAT, WHOLE, 0.7),
    (2, CAT, WHOLE, 0.6),
    (2, DOG, PART, 0.5),
    (2, DOG, (200, 200, 30, 30), 0.4),
    (2, CAT, (200, 200, 30, 30), 0.95),
]


def examples(*numbers):
    return [
        Example(
            image_id=number,
            image=np.full((400, 400, 3), 90, np.uint8),
            height=400,
            width=400,
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int32),
            areas=np.zeros(0, np.float32),
            crowd=np.zeros(0, bool),
        )
        for number in numbers
    ]


@pytest.fixture
def told():
    case = case_of(*judged(truth_of(*OBJECTS), rows_of(*FOUND)))
    return case, find_errors(case, match(case))


def test_each_kind_is_told_in_words(told):
    case, errors = told
    words = {KINDS[errors.kind[i]]: error_charts.describe(case, errors, i) for i in range(8)}
    assert words == {
        "classification": "found dog (score 0.90): is cat, IoU 1.00",
        "localisation": "found dog (score 0.80): is dog, IoU 0.40",
        "duplicate": "found cat (score 0.60) once more, IoU 1.00",
        "both": "found dog (score 0.50): is cat, IoU 0.40",
        "background": "found dog (score 0.40): nothing there, IoU 0.00",
        "missed": "dog, 10 x 10 px: not found",
    }


def test_the_worst_have_the_best_score_or_are_the_largest(told):
    case, errors = told
    worst = error_charts.worst_errors(case, errors, BACKGROUND, 5)
    assert case.found.scores[errors.found[worst]].tolist() == [0.95, 0.4]
    missed = error_charts.worst_errors(case, errors, MISSED, 5)
    assert case.truth.xywh[errors.truth[missed], 2].tolist() == [50, 10]
    assert len(error_charts.worst_errors(case, errors, MISSED, 1)) == 1


def test_a_sheet_for_each_kind_is_written(told, tmp_path):
    case, errors = told
    paths = error_charts.draw_errors(case, errors, 2, tmp_path / "errors", examples(1, 2))
    assert [path.stem for path in paths] == list(KINDS)
    one, two = (cv2.imread(str(tmp_path / "errors" / f"{kind}.png")) for kind in ("both", "missed"))
    assert one is not None
    assert two is not None
    assert two.shape[1] > 1.5 * one.shape[1]


def test_an_image_that_the_data_set_lacks_is_named(told, tmp_path):
    with pytest.raises(InputError, match=r"gt.json: expected its images .* no image 2"):
        error_charts.draw_errors(*told, 2, tmp_path, examples(1), truth_name="gt.json")


@pytest.mark.parametrize(
    "box", [(0, 0, 5, 5), (390, 395, 10, 5), (0, 0, 400, 400), (-9, 380, 5, 9)]
)
def test_the_view_holds_the_box_and_stays_in_the_image(box):
    corners = np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float64)
    left, top, right, bottom = error_charts.view(corners, 400, 400)
    assert 0 <= left < right <= 400
    assert 0 <= top < bottom <= 400
    assert right - left >= error_charts.LEAST_SIDE
    if box[0] >= 0:
        assert (left <= corners[0, 0], right >= corners[0, 2], bottom >= corners[0, 3]) == (
            True,
        ) * 3
