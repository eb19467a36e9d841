"""The benchmark of the evaluation compares both on the same detections."""

import json
import sys

from benchmarks import evaluation as benchmark


def test_both_come_to_the_same_numbers_and_the_ratio_is_of_a_round(tmp_path, monkeypatch, capsys):
    sizes = {"tiny": {"images": 20, "classes": 3, "objects": 5, "found": 30}}
    monkeypatch.setattr(benchmark, "SIZES", sizes)
    path = tmp_path / "found.json"
    monkeypatch.setattr(
        sys, "argv", ["evaluation", "--sizes", "tiny", "--rounds", "2", "--json", str(path)]
    )
    benchmark.main()
    found = json.loads(path.read_text())["sizes"]["tiny"]
    assert found["largest_difference_of_the_twelve"] == 0
    assert found["largest_difference_of_precision"] == 0
    assert 0 < found["map"] < 1
    assert (found["objects"], found["detections"]) == (100, 600)
    assert 0 < found["ratio_of_numbers"]["max"] < found["ratio"]["max"]
    assert capsys.readouterr().out.startswith("tiny: ")
