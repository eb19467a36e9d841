"""The benchmark of pairs of sweeps tells paired differences, and goes on."""

import argparse
import json
import sys

import pytest

from benchmarks import pairs_of_sweeps
from benchmarks.pairs_of_sweeps import differences, limit_flags, spent
from flaxyolo.crew.record import Record


def row(way, seed, shipped, scratch):
    judged = {"shipped": shipped, "from scratch": scratch}
    found = {name: {"objective": value} for name, value in judged.items()}
    return {"data": "x", "way": way, "seed": seed, **found}


def test_differences_are_of_pairs_by_what_is_judged():
    rows = [row("inherited", 0, 1.5, 0.9), row("from scratch", 0, 1.0, 1.0),
            row("inherited", 1, 1.4, 1.2), row("from scratch", 1, 1.1, 1.0)]  # fmt: skip
    shipped, scratch = differences(rows)
    assert shipped["gains"] == pytest.approx([0.5, 0.3])
    assert shipped["interval"] == pytest.approx([0.4 - 12.706 * 0.1, 0.4 + 12.706 * 0.1], 1e-3)
    assert (shipped["judged"], scratch["judged"]) == ("shipped", "from scratch")
    assert scratch["gains"] == pytest.approx([-0.1, 0.2])


def test_the_limit_is_of_operations_or_of_the_latency():
    limits = argparse.Namespace(budget_ms=None, budget_gflops=0.15)
    assert limit_flags(limits) == ["--budget-gflops", "0.15"]
    limits.budget_ms = 1.2
    assert limit_flags(limits) == ["--budget-ms", "1.2"]


def test_a_sweep_that_finishes_nothing_is_counted():
    rows = [row("inherited", 0, 1.5, 0.9), row("from scratch", 0, 1.0, 1.0),
            row("inherited", 1, 1.4, 1.2),
            {**row("from scratch", 1, 0, 0), "shipped": None, "from scratch": None}]  # fmt: skip
    shipped, _ = differences(rows)
    assert shipped["gains"] == pytest.approx([0.5])
    assert shipped["nothing"] == {"inherited": 0, "from scratch": 1}
    (alone, _) = differences(rows[2:])
    assert (alone["gains"], alone["mean"]) == ([], None)


def test_a_search_is_compared_with_one_at_random_by_seeds_that_chose_nothing():
    rows = [
        row("sweep", 0, 1.5, 0.9) | {"again": {"objective": 1.2}},
        row("random", 0, 1.4, 0.8) | {"again": {"objective": 1.3}},
    ]
    found = {each["judged"]: each["gains"] for each in differences(rows)}
    assert list(found) == list(pairs_of_sweeps.JUDGED)
    assert found["again"] == pytest.approx([-0.1])
    for name, ways in pairs_of_sweeps.COMPARED.items():
        flags = list(ways.values())
        assert len(ways) == 2
        assert ("random" in name) == ("--search" in flags[1])
        assert "--search" not in flags[0]
    assert not set(pairs_of_sweeps.NEW_SEEDS) & {0, 1, 2}


def test_a_lead_is_told_in_what_sets_random_networks_apart(monkeypatch):
    def tried(*scores):
        ended = [{"origin": "random", "epochs": 4, "objective": score} for score in scores]
        return [*ended, {"origin": "random", "epochs": 1, "objective": 0.1}]

    rows = [
        row("sweep", 0, 1.5, 0.9) | {"tried": tried(9, 1)},
        row("random", 0, 1.2, 0.8) | {"tried": tried(1.0, 1.2)},
        row("sweep", 1, 1.5, 0.9),
        row("random", 1, 1.4, 0.8) | {"tried": tried(0.8, 1.0, 1.2)},
    ]
    assert pairs_of_sweeps.scatter(rows[1::2]) is None, "too few to tell"
    monkeypatch.setattr(pairs_of_sweeps, "LEAST", 5)
    # Of 1.0, 1.2, 0.8, 1.0 and 1.2; what ended sooner is not among them.
    assert pairs_of_sweeps.scatter(rows[1::2]) == pytest.approx(0.028**0.5)
    shipped = differences(rows)[0]
    assert shipped["in_sd"] == pytest.approx(0.2 / 0.028**0.5)
    assert differences([*rows[:1], row("random", 0, 1.2, 0.8)])[0]["in_sd"] is None


def test_time_is_told_by_what_it_went_into():
    records = [
        Record(0, "complete", seconds={"train": 20.0, "mend": 10.0, "draw": 2.0, "score": 3.0}),
        Record(1, "complete", seconds={"compile": 10.0, "measure": 15.0, "evaluate": 20.0}),
    ]
    assert spent(records, 100.0) == {
        "training": 0.3, "compiling": 0.1, "measuring": 0.15, "scoring": 0.2, "deciding": 0.05,
        "parent and rest": 0.2,
    }  # fmt: skip
    with pytest.raises(StopIteration):
        spent([Record(0, "complete", seconds={"a new stage": 1.0})], 100.0)


def test_the_command_goes_on_with_the_next_pair(tmp_path, monkeypatch, capsys):
    begun = []

    def pair(data, seed, arguments):
        begun.append(seed)
        told = [row("inherited", seed, 1.5, 0.9), row("from scratch", seed, 1.0, 1.0)]
        more = {"data": data, "trained": 1, "seconds": 9, "spent": {"training": 0.6, "rest": 0.4}}
        return [each | more for each in told]

    monkeypatch.setattr(pairs_of_sweeps, "pair", pair)
    result = tmp_path / "r.json"

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["pairs", "--json", str(result), *more])
        pairs_of_sweeps.main()

    result.write_text(json.dumps({"settings": {}, "rows": []}))
    with pytest.raises(SystemExit, match="expected the settings"):
        run("--seeds", "2")
    result.unlink()
    run("--seeds", "2")
    held = json.loads(result.read_text())
    result.write_text(json.dumps(held | {"rows": held["rows"][:2]}))
    run("--seeds", "2")
    assert begun == [0, 1, 1]
    assert json.loads(result.read_text())["rows"] == held["rows"]
    out = capsys.readouterr().out
    assert "digits, shipped: +0.500 (+0.500 to +0.500)" in out
    assert "time of inherited: training 60%, rest 40%" in out
