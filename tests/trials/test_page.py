"""The page parses, says what the study holds, and loads nothing, whatever classes are called."""

import json
import logging
import shutil
from html.parser import HTMLParser
from pathlib import Path

import optuna
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.crew.storage import open_study, read_runs, read_study
from flaxyolo.trials import page as pages
from flaxyolo.trials.findings import read_findings
from flaxyolo.trials.page import PAGE, page, write_at_end
from tests.trials.made_study import NAMES, SOURCE, write_study

WRITTEN = Path(__file__).resolve().parents[1] / "studies" / "sweep"
VOID = {"meta", "img", "br", "link", "input"}
LOADING = ("src", "href", "srcset", "xlink:href", "action", "poster", "data")


class Reader(HTMLParser):
    """Elements that are open, what is loaded, and the text that a person reads."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.scripts, self.words, self.ids = 0, [], set()
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            self.loaded += [value] * (name in LOADING)
            self.handlers += [name] * name.startswith("on")
            self.ids |= {value} if name == "id" else set()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def said(self) -> str:
        return "\n".join(self.words)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("runs") / "made")


@pytest.fixture(scope="module")
def text(study):
    return page(read_findings(study))


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def test_every_element_ends_and_nothing_is_loaded(text, read):
    assert read.open == []
    assert read.scripts == 1
    assert read.handlers == []
    assert {url.split(",")[0].split(":")[0] for url in read.loaded if url[0] != "#"} == {"data"}
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src &#x27;none&#x27;" in text


def test_names_of_users_are_text(text, read):
    for name in (*NAMES[:2], SOURCE):
        assert name not in text
    for start in ("<script>alert", "<script src", "<img src=http"):
        assert start not in text
    assert NAMES[2] in read.said
    assert "<script>alert" in read.said
    assert SOURCE in read.said
    assert "a <device>" in read.said


def test_links_lead_to_parts_of_the_page(read):
    targets = [url[1:] for url in read.loaded if url.startswith("#")]
    assert targets == [
        "winner", "front", "compared", "errors", "tried", "mattered", "advice", "repeat",
    ]  # fmt: skip
    assert set(targets) <= read.ids


def test_it_tells_the_answer_the_winner_and_its_conditions(read):
    said = " ".join(read.said.split())
    assert "Trial 1 (advised), with mAP" in said
    assert "in 7.00 ms p95, 70% of the budget." in said
    assert "Trial 1 is better than the baseline by 0.300" in said
    for part in ("C5 · stride 32 · 96 ch", "2 x c2f", "P2 · 16 ch", "C3 se, C4 cbam", "copied 70%",
                 "fresh 30%", "f" * 64, "jax, one image in", "± ", "budget 10 ms"):  # fmt: skip
        assert part in said, part
    assert "too few to tell which parameters mattered" in said
    for name in ("classification", "duplicate", "background", "missed"):
        assert name in said


def test_what_is_absent_is_said_in_one_line_each(tmp_path, study):
    copy = shutil.copytree(study, tmp_path / "made")
    for name in ("errors.json", "curves.json", "mistakes.json"):
        for path in copy.glob(f"trials/*/{name}"):
            path.unlink()
    (copy / "detections.png").unlink()
    found = read_findings(copy)
    assert found.missing == (
        "the command, the versions of other packages, the plan and the reasons of the advice: they "
        "were not stored when this study was made",
        "kinds of errors and the confusion matrix: no errors.json of the best run",
        "precision against recall: no curves.json of the best run",
        "pictures of errors: no mistakes.json of the best run",
        "what the best finds in images: no detections.png",
        "intervals of mAP by size: no curves.json of these runs",
    )
    read = Reader(page(found))
    assert "errors" not in read.ids
    assert "Not on this page" in read.said


def test_a_study_of_an_earlier_version_has_a_page(tmp_path):
    copy = shutil.copytree(WRITTEN, tmp_path / "sweep")
    found = read_findings(copy)
    read = Reader(page(found))
    assert read.open == []
    assert "which parameters mattered: the study has no trial for each network yet" in read.said
    assert "Nothing has learnt: trial 2 is first" in read.said


def test_a_study_without_any_score_has_a_page(tmp_path):
    runs = open_study(tmp_path / "new", name="new.runs")
    facts = {"budget": {"latency_ms": 8.0, "vram_mib": None}, "objective": "map", "source": "x"}
    runs.set_user_attr("facts", facts)
    open_study(tmp_path / "new", name="new")
    read = Reader(page(read_findings(tmp_path / "new")))
    assert "none of the 0 could be measured" in read.said
    assert read.open == []


def test_an_ablation_is_named_as_what_it_is_not():
    with pytest.raises(InputError, match="expected the study of a sweep, found another one"):
        read_findings(WRITTEN.parent / "ablation")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [("errors.json", "{", "expected JSON"), ("errors.json", "[]", "expected errors and confusion"),
     ("curves.json", '{"overall": 1}', "overall"), ("mistakes.json", "[{}]", "kind: missing")],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path, study, name, content, told):
    copy = shutil.copytree(study, tmp_path / "made")
    best = read_findings(copy).standings.best
    assert best is not None
    path = copy / "trials" / str(best.run) / name
    path.write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        read_findings(copy)
    assert str(caught.value).startswith(str(path))


def test_a_page_that_fails_at_the_end_of_a_sweep_is_told_in_a_line(study, monkeypatch, caplog):
    runs, seen = read_runs(study), read_study(study)
    assert write_at_end(runs, seen, study) == study / PAGE
    before = (study / PAGE).read_text()

    def fails(findings):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(pages, "page", fails)
    with caplog.at_level(logging.WARNING):
        assert write_at_end(runs, seen, study) is None
    (record,) = caplog.records
    assert "could not be written (division by zero)" in record.getMessage()
    assert f"flaxyolo.report {study}" in record.getMessage()
    assert (study / PAGE).read_text() == before


def test_gathering_changes_nothing(study):
    def digest():
        return {str(path): path.read_bytes() for path in study.rglob("*.json*")}, (
            study / "study.log"
        ).read_bytes()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    before = digest()
    page(read_findings(study))
    assert digest() == before
    assert json.loads((study / "trials" / "run10" / "errors.json").read_text())
