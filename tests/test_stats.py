"""The command: its tables, its JSON, its page, and what it says about bad input."""

import io
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from rich.console import Console

from flaxyolo import stats
from flaxyolo.data.sources import read_dataset
from flaxyolo.statistics import page as stats_page
from flaxyolo.statistics.advice import advise
from flaxyolo.statistics.figures import FIGURES, INK
from flaxyolo.statistics.summary import statistics, statistics_from_dict
from tests.statistics.test_summary import dataset, example, scattered
from tests.tiny_data import write_coco


@pytest.fixture
def source(tmp_path):
    return f"coco:{write_coco(tmp_path / 'data')}"


def refused(capsys, *argv):
    assert stats.main([str(part) for part in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_tables_show_statistics_and_advice(source, capsys):
    assert stats.main([source]) == 0
    out = capsys.readouterr().out
    for text in ("small / medium / large", "imbalance ratio / Gini", "norm", "batch"):
        assert text in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_any_encoding_is_written_to(source, monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    assert stats.main([source]) == 0
    assert "small / medium / large" in stream.buffer.getvalue().decode(encoding)


def test_the_input_sizes_stand_in_a_terminal_of_80_columns(capsys):
    found = statistics(dataset(scattered(40, 9)), image_sizes=[320, 640])
    Console(width=80).print(stats.resolutions_table(found))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {"320", "640"} <= {line[0] for line in lines if line}


def test_the_detail_lost_stands_in_its_column_of_the_page():
    column = [name for name, _ in stats_page.HEADINGS].index("detail lost")
    without = statistics(dataset(scattered(40, 9)), image_sizes=[320])
    seen = statistics(read_dataset("digits"), image_sizes=[128])
    for found, pattern in ((without, "-"), (seen, r"[34]\.\d % / [45]\.\d %")):
        (row,) = stats_page.resolution_rows(found)
        assert len(row) == len(stats_page.HEADINGS)
        assert re.fullmatch(pattern, row[column])


def test_the_coarsest_stride_of_the_median_box_is_said_in_a_line(capsys):
    assert stats.main(["digits", "--image-size", "144"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "median box at" in line]
    assert re.fullmatch(
        r"median box at 144 px: [\d.]+ px covers [\d.]+ cells at stride \d+: .*", line
    )
    measured = statistics(dataset([example([])] * 3))
    assert stats.stride_line(measured, advise(measured)) is None


def test_json_holds_statistics_advice_and_candidates(capsys):
    assert stats.main(["digits", "--json", "--batch-size", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    measured = statistics_from_dict(found["statistics"])
    assert measured.train.images == 600
    assert [each.image_size for each in measured.resolutions if each.detail_lost is None] == []
    advice = {each["key"]: each for each in found["advice"]}
    assert advice["norm"]["value"] == "group"
    assert set(advice["plan"]) == {"key", "value", "why", "number", "source"}
    assert found["candidates"]["advised"]["plan"] == advice["plan"]["value"]


def test_advice_is_for_the_given_input_size(capsys):
    assert stats.main(["digits", "--json", "--image-size", "144"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 144 in [each["image_size"] for each in found["statistics"]["resolutions"]]
    assert found["candidates"]["advised"]["image_size"] == 144


def test_a_budget_decides_which_input_it_pays_for(monkeypatch, capsys):
    def made_up(stat, specs):
        return [spec.image_size / 20 for spec in specs]

    monkeypatch.setattr(stats, "expected_ms", made_up)
    sizes = {}
    for budget in (2, 10, 100):
        assert stats.main(["digits", "--json", "--budget-ms", str(budget)]) == 0
        found = json.loads(capsys.readouterr().out)
        advice = {each["key"]: each for each in found["advice"]}
        sizes[budget] = advice["image_size"]["value"]
        assert "of the budget" in advice["image_size"]["why"]
    assert sizes == {2: 128, 10: 128, 100: 192}


class Page(HTMLParser):
    """Collects tags, links and ids."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.text += data


def test_the_page_has_every_figure_with_a_sentence_and_loads_nothing(source, tmp_path, capsys):
    folder = tmp_path / "a" / "page"
    assert stats.main([source, "--out", str(folder)]) == 0
    capsys.readouterr()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.html", *(f"{name}.png" for name in FIGURES)]
    )
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(FIGURES)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert INK not in text
    assert "coco:" in page.text
    for name in FIGURES:
        picture = cv2.imread(str(folder / f"{name}.png"))
        assert picture.shape[1] > 600
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_data_without_boxes_have_a_page_without_figures_of_boxes(tmp_path):
    found = statistics(dataset([example([])] * 3))
    stats_page.write_page(found, advise(found), tmp_path / "page")
    names = {path.stem for path in (tmp_path / "page").glob("*.png")}
    assert "image_sizes" in names
    assert not names & {"levels", "box_area", "crowding", "object_sizes"}


def test_names_are_shown_as_they_are_and_not_taken_for_markup(tmp_path):
    names = ("<b>&amp;", "$x_1$", "細胞")
    train = [example([[0, 0, 20, 20]] * 3, [0, 1, 2])] * 30
    found = statistics(dataset(train, scattered(3, 3), names))
    path = stats_page.write_page(found, advise(found), tmp_path / "page")
    text = path.read_text(encoding="utf-8")
    assert "<b>&amp;" not in text
    assert "細胞" in text
    shown = Page(text).text
    assert "<b>&amp;" in shown
    assert "$x_1$" in shown


def test_many_classes_are_cut_to_the_most_and_least_frequent(tmp_path):
    names = tuple(f"class {i}" for i in range(80))
    labels = [label for label in range(79) for _ in range(80 - label)]
    train = [example([[0, 0, 20, 20]] * len(labels), labels)] * 2
    found = statistics(dataset(train, names=names))
    text = stats_page.write_page(found, advise(found), tmp_path).read_text(encoding="utf-8")
    assert "The most and the least frequent are shown." in text
    assert "1 class has no box." in text
    assert ">class 0<" in text
    assert ">class 40<" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothing"], "--data: expected one of"),
        (["digits", "--image-size", "8"], "--image-size: expected 32 to 8192 pixels, got 8"),
        (["digits", "--batch-size", "0"], "--batch-size: expected at least 1 image, got 0"),
        (["digits", "--budget-ms", "0"], "budget latency_ms: expected a number above 0, got 0"),
    ],
)
def test_bad_input_is_said_in_one_line(flags, message, capsys):
    assert message in refused(capsys, *flags)


def test_a_file_in_the_place_of_the_folder_is_refused(source, tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    assert "--out: expected a folder" in refused(capsys, source, "--out", path)
    assert "--out: expected a folder" in refused(capsys, source, "--out", path / "below")
