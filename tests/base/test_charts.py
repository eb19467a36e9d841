from typing import NamedTuple

import cv2
import numpy as np
import pytest

from flaxyolo.base.charts import draw_detections, draw_examples
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


@pytest.mark.parametrize(
    "name", ["$\\frac{1}$ bill", "$5 and $10", "a|b <b>&x</b> 螺丝 🔩 $", "_hidden"]
)
def test_names_are_drawn_as_they_are_written(tmp_path, name):
    box = (20, 20, 60, 50)
    titled = {"columns": 1, "title": name}
    draw_detections([black()], [found(box)], [objects(box)], [name], tmp_path / "a.png", **titled)
    draw_examples([black()], [objects(box)], [name], [name, "b"], tmp_path / "b.png", **titled)
    assert all(coloured(cv2.imread(str(tmp_path / f"{x}.png"))) > 500 for x in "ab")
