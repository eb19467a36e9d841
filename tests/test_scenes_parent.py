"""The benchmark of a parent trained on scenes tells paired differences, and goes on."""

import json
import sys

import pytest

from benchmarks import scenes_parent
from benchmarks.scenes_parent import differences
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


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "SCENES", {"train": 4, "val": 2})
    given = ["--data", f"coco:{write_coco(tmp_path / 'data')}", "--parent-data", "digits"]
    given += ["--parent-epochs", "1", "--epochs", "1", "--image-size", "64"]
    given += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "r.json")]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["scenes_parent", *given, *more])
        scenes_parent.main()
        return json.loads((tmp_path / "r.json").read_text())

    first = run("--seeds", "1")
    assert [(one["start"], one["seed"]) for one in first["runs"]] == [("scratch", 0), ("parent", 0)]
    assert first["runs"][1]["inherited"] > 0.9
    assert "epoch 1: " in capsys.readouterr().out
    second = run("--seeds", "2")
    assert second["runs"][:2] == first["runs"]
    assert len(second["runs"]) == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["parent"]
    with pytest.raises(SystemExit, match="expected the settings"):
        run("--score-at", "1")
