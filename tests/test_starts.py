"""The benchmark of starts tells paired differences, and goes on."""

import json
import sys

import pytest

from benchmarks import starts
from benchmarks.starts import differences
from flaxyolo.data.readers import digits
from tests.tiny_data import write_coco


def row(start, seed, *maps):
    curve = [{"epoch": number, "map": value} for number, value in enumerate(maps, start=1)]
    return {"data": "coco:x", "start": start, "seed": seed, "curve": curve}


def test_differences_are_of_equal_seeds_with_their_interval():
    runs = [row("scratch", 0, 0.1, 0.2), row("parent", 0, 0.3, None), row("scratch", 1, 0.2),
            row("parent", 1, 0.5), row("parent", 2, 0.9)]  # fmt: skip
    first, second = differences(runs)
    assert first["gains"] == pytest.approx([0.2, 0.3])
    assert first["mean"] == pytest.approx(0.25)
    assert first["interval"] == pytest.approx([0.25 - 12.706 * 0.05, 0.25 + 12.706 * 0.05], 1e-3)
    assert (second["gains"], second["interval"]) == ([-0.2], None)


def test_what_was_trained_for_longer_is_compared_by_its_end():
    runs = [row("scratch", 0, 0.1, 0.2), row("longer", 0, 0.1, 0.1, 0.2, 0.3, 0.4, 0.5),
            row("parent", 0, 0.3, 0.4), row("longer", 1, 0.1, 0.1),
            row("parent", 1, 0.9, 0.9)]  # fmt: skip
    told = {(one["way"], one["against"], one["epoch"]): one["gains"] for one in differences(runs)}
    assert told["parent", "longer", 2] == pytest.approx([-0.1]), "the second is not there yet"
    assert told["longer", "scratch", 2] == pytest.approx([0.3])
    assert told["parent", "scratch", 1] == pytest.approx([0.2])
    assert len(told) == 4


@pytest.mark.long
def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "SCENES", {"train": 4, "val": 2})
    given = ["--data", f"coco:{write_coco(tmp_path / 'data')}", "--parent-data", "digits"]
    given += ["--parent-epochs", "1", "--epochs", "1", "--image-size", "64"]
    given += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["starts", *given, *more])
        starts.main()
        return json.loads((tmp_path / "r.json").read_text())

    first = run("--seeds", "1")
    assert [(one["start"], one["seed"]) for one in first["runs"]] == [("scratch", 0), ("parent", 0)]
    assert first["runs"][1]["inherited"] > 0.9
    assert "parent minus scratch, epoch 1: " in capsys.readouterr().out
    second = run("--seeds", "2")
    assert second["runs"][:2] == first["runs"]
    assert len(second["runs"]) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["parent"]
    third = run("--seeds", "1", "--ways", "longer", "taught", "--teacher-epochs", "36")
    assert [one["start"] for one in third["runs"][4:]] == ["longer", "taught"]
    assert [len(one["curve"]) for one in third["runs"][4:]] == [3, 1]
    with pytest.raises(SystemExit, match="expected the settings"):
        run("--score-at", "1")
