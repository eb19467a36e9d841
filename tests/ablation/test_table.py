import csv
import io
import json

import pytest

from flaxyolo.ablation.analysis import analyse
from flaxyolo.ablation.figure import draw_differences
from flaxyolo.ablation.table import csv_text, markdown, write
from tests.ablation.runs import made_ablation

SKILLS = {"E0": 0.4, "E1 | same": 0.4, "E2": 1.0}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    return analyse(*made_ablation(tmp_path_factory.mktemp("ablation"), SKILLS), resamples=100)


def test_the_table_says_what_the_figures_say(analysis):
    text = markdown(analysis, "Classic plan")
    assert text.startswith("# Classic plan\n")
    better = analysis.arms[2]
    assert f"{100 * better.comparison.difference:+.2f} (" in text
    assert "**E2** is better than the baseline" in text
    assert "is worse" not in text
    assert f"{100 * analysis.arms[1].detectable:.2f} (E1 | same)" in text
    assert "*No evidence* is not *equal*" in text


def test_every_row_has_the_columns_of_its_head(analysis):
    width = None
    for line in markdown(analysis).splitlines():
        cells = line.replace("\\|", "").count("|")
        if not line.startswith("|"):
            width = None
        elif width is None:
            width = cells
        else:
            assert cells == width


def test_csv_and_json_hold_the_same_numbers(analysis, tmp_path):
    write(analysis, tmp_path)
    stored = json.loads((tmp_path / "ablation.json").read_text())
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ablation.csv").read_text())))
    assert (tmp_path / "ablation.csv").read_text() == csv_text(analysis)
    assert [row["arm"] for row in rows] == list(SKILLS)
    assert float(rows[2]["map_mean"]) == stored["arms"][2]["scores"]["map"]["mean"]
    assert float(rows[2]["p_holm"]) == stored["arms"][2]["comparison"]["holm"]
    assert rows[0]["verdict"] == rows[0]["map_difference"] == ""
    assert len(stored["residuals"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ablation.csv",
        "ablation.json",
        "ablation.md",
    ]


def test_the_figure_is_drawn(analysis, tmp_path):
    draw_differences(analysis, tmp_path / "ablation.png", "Classic plan")
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
