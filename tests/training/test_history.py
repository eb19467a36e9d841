"""The epochs of a run as a table and as a curve."""

import csv

import cv2
import pytest

from flaxyolo.training.history import draw_curve, write_csv

LOSS = {"box": 2.0, "cls": 1.5, "dfl": 1.0}
ROWS = [
    {"epoch": 1, "seconds": 0.5, **LOSS},
    {"epoch": 2, "seconds": 0.4, **LOSS, "map": 0.25, "map_50": 0.5, "map_small": None},
]


def test_a_table_has_a_line_for_each_epoch_and_all_columns(tmp_path):
    write_csv(ROWS, tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["epoch", "seconds", "box", "cls", "dfl", "map", "map_50", "map_small"]
    assert (first["epoch"], first["box"], first["map"]) == ("1", "2.0", "")
    assert (second["map"], second["map_small"]) == ("0.25", "")


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [ROWS[0] | {"map": None, "map_50": None}]])
def test_a_curve_is_drawn(tmp_path, rows):
    draw_curve(rows, tmp_path / "curve.png", "run")
    assert cv2.imread(str(tmp_path / "curve.png")).std() > 5
