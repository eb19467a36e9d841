from typing import NamedTuple

import cv2
import numpy as np
import pytest

from flaxyolo.base.charts import draw_detections, trial_scatter
from flaxyolo.base.detections import Detections


class Objects(NamedTuple):
    boxes: np.ndarray
    labels: np.ndarray


def objects(*boxes):
    return Objects(np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int32))


def found(*boxes):
    truth = objects(*boxes)
    return Detections.from_corners(truth.boxes, np.full(len(boxes), 0.5, np.float32), truth.labels)


def black(height=60, width=80):
    return np.zeros((height, width, 3), np.uint8)


def coloured(picture):
    """Pixels that are neither black, white nor grey."""
    return int((np.ptp(picture.astype(int), axis=2) > 60).sum())


def drawn(tmp_path, *arguments):
    path = tmp_path / "a" / "detections.png"
    draw_detections(*arguments, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["detections.png"]
    return cv2.imread(str(path))


def test_a_dozen_images_of_different_shapes_fill_a_grid_of_four_by_three(tmp_path):
    images = [black(60, 80 + i) for i in range(12)]
    picture = drawn(tmp_path, images, [found()] * 12, [objects()] * 12, ["cat"])
    height, width = picture.shape[:2]
    assert width / height == pytest.approx(4 / 3, rel=0.1)
    assert coloured(picture) == 0


def test_found_boxes_are_solid_in_colour_and_the_truth_is_dashed_without(tmp_path):
    box = (20, 20, 60, 50)
    only_found = drawn(tmp_path, [black()], [found(box)], [objects()], ["cat"])
    only_truth = drawn(tmp_path, [black()], [found()], [objects(box)], ["cat"])
    nothing = drawn(tmp_path, [black()], [found()], [objects()], ["cat"])
    assert coloured(only_found) > 500
    assert coloured(only_truth) == 0
    assert (only_truth != nothing).any()


def test_many_classes_and_boxes_over_the_edge_are_drawn(tmp_path):
    boxes = [(-5, -5, 30, 30), (75, 50, 90, 70)]
    names = [f"class {i}" for i in range(80)]
    assert coloured(drawn(tmp_path, [black()], [found(*boxes)], [objects()], names)) > 500


def test_no_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        draw_detections([], [], [], [], tmp_path / "x.png")


def row(number, latency, objective, state="COMPLETE"):
    return {"number": number, "latency_ms_p95": latency, "objective": objective, "state": state}


def gold(path):
    """Pixels in the colour of the best trial's star."""
    blue, green, red = cv2.split(cv2.imread(str(path)).astype(int))
    return int(((red > 240) & (abs(green - 215) < 10) & (blue < 30)).sum())


def test_the_best_trial_inside_the_budget_gets_the_star(tmp_path):
    rows = [row(0, 5.0, 1.0), row(1, 12.0, 1.5), row(2, 9.0, None, "PRUNED"), row(3, None, None)]
    trial_scatter(rows, 8.0, tmp_path / "inside.png")
    trial_scatter(rows[1:], 8.0, tmp_path / "outside.png")
    trial_scatter(rows[1:], None, tmp_path / "no_budget.png")
    assert gold(tmp_path / "inside.png") > 50
    assert gold(tmp_path / "outside.png") == 0
    assert gold(tmp_path / "no_budget.png") > 50


def test_a_study_without_trials_is_drawn(tmp_path):
    trial_scatter([], None, tmp_path / "empty.png")
    assert cv2.imread(str(tmp_path / "empty.png")).size > 0
