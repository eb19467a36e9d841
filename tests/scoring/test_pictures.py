"""The pictures are drawn for any number of classes, found or not, whatever they are called."""

import cv2
import numpy as np
import pytest

from flaxyolo.scoring.confusion import Confusion
from flaxyolo.scoring.pictures import draw_confusion, draw_precision_recall, sample
from tests.scoring.test_thresholds import judged

NAMES = ("$\\frac{1}$ bill", "a|b <b> 螺丝")


@pytest.mark.parametrize(
    ("found", "objects"),
    [
        ([(0, 0, 0.9), (1, 1, 0.8), (5, 0, 0.5)], [(0, 0), (1, 1), (2, 0)]),
        ([], [(0, 0)]),
        ([(0, 0, 0.9)], []),
        ([], []),
    ],
)
def test_precision_and_recall_are_drawn(tmp_path, found, objects):
    draw_precision_recall(judged(found, objects, NAMES), tmp_path / "pr.png", "$5")
    assert cv2.imread(str(tmp_path / "pr.png")).std() > 5


@pytest.mark.parametrize("classes", [1, 2, 30, 80])
def test_a_confusion_matrix_is_drawn(tmp_path, classes):
    names = (*NAMES, *(f"class {number}" for number in range(80)))[:classes]
    matrix = np.diag(np.arange(classes + 1))
    draw_confusion(Confusion(names, matrix, 0.5, 0.25), tmp_path / "confusion.png", "$5")
    assert cv2.imread(str(tmp_path / "confusion.png")).std() > 5


def test_the_images_of_a_sheet_go_from_the_first_to_the_last():
    assert sample(3).tolist() == [0, 1, 2]
    assert len(sample(1000)) == 12
    assert (sample(1000)[0], sample(1000)[-1]) == (0, 999)
