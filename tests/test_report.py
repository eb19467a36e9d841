"""The command `report`, from its flags to its file."""

import pytest

from flaxyolo import report
from tests.trials.made_study import write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("runs") / "made", seeds=1)


def test_it_writes_the_page_and_says_where(study, tmp_path, capsys):
    assert report.main([str(study)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{study / 'report.html'}\n"
    assert "not on the page: the spread over seeds" in told.err
    assert report.main([str(study), "--out", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").read_bytes() == (study / "report.html").read_bytes()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["nowhere"], "nowhere/study.log: expected the study of a sweep, found no such file"),
        (["{study}", "--out", "{study}"], "--out: expected a file, got {study}, which is a folder"),
        (["{study}", "--out", "{study}/a/b.html"], "--out: expected a file in a folder that is"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(study, capsys, flags, told):
    assert report.main([flag.format(study=study) for flag in flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {told.format(study=study)}")
