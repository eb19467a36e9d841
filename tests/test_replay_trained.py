"""The loop on tables of trained networks, on one whose answer is known."""

import json

import numpy as np
import pytest

from benchmarks import replay_trained as benchmark
from benchmarks.landscape import landscape, resampled
from benchmarks.leads import leads
from tests.made_table import BUDGET, NETWORKS, made_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return made_table(tmp_path_factory.mktemp("tables") / "made.jsonl")


def test_a_table_is_read_with_the_luck_of_its_seeds(table):
    settings, land = landscape(table)
    assert settings["data"] == "made up"
    assert land.rungs == (3, 9, 27)
    assert land.curves.objective.shape == (NETWORKS, 3)
    assert land.residuals.shape == (30, 4, 3)
    assert land.residuals[:, 0, -1].std() == pytest.approx(0.01, rel=0.4)
    assert len(np.unique(land.families)) > 3
    assert len(land.codes) == NETWORKS


def test_ours_finds_what_is_best_and_others_have_as_many_epochs(table):
    _, land = landscape(table)
    found = benchmark.searched(land, BUDGET, 12, 6, 0, list(benchmark.OTHERS))
    truth, fits = land.curves.objective[:, -1], land.latency_ms <= BUDGET
    assert all((values <= truth[fits].max()).all() for values in found.quality.values())
    assert 12 * 3 < found.epochs < 12 * 27
    assert leads([found], "random_whole")[0] > 0
    objective, spreads = leads([found], "random_band")
    assert spreads == pytest.approx(objective / found.spread)
    task = benchmark.Task(land.shown(np.random.default_rng(0)), BUDGET, 100, None, land.work)
    assert task.runs == 3


def test_what_no_search_exceeds_and_that_with_most_operations(table):
    _, land = landscape(table)
    truth = land.curves.objective[:, -1]
    task = benchmark.Task(land.shown(np.random.default_rng(0)), BUDGET, 100, None, land.work)
    assert truth[benchmark.best_of_all(task)] == truth[task.band].max()
    most = benchmark.most_work(task)
    assert most in task.band
    # In the made-up table operations rise with the number.
    assert most == task.band.max()


def test_another_table_is_experience_in_the_columns_of_this_one(table):
    _, alone = landscape(table)
    assert alone.elsewhere == ()
    _, land = landscape(table, before=table)
    assert len(land.elsewhere) == NETWORKS
    ends = [each.score for each in land.elsewhere]
    np.testing.assert_allclose(ends, land.curves.objective[:, -1])
    rows = np.array([list(each.features.values()) for each in land.elsewhere])
    np.testing.assert_allclose(rows, land.features)
    led = benchmark.searched(land, BUDGET, 3, 6, 0, [])
    blind = benchmark.searched(alone, BUDGET, 3, 6, 0, [])
    assert led.quality[benchmark.OURS].mean() > blind.quality[benchmark.OURS].mean()


def test_another_table_holds_some_of_the_networks(table):
    _, land = landscape(table)
    rng = np.random.default_rng(0)
    parts = [resampled(land, rng) for _ in range(20)]
    assert all(0 < len(part.features) < NETWORKS for part in parts)
    assert len({len(part.features) for part in parts}) > 1
    known = set(land.latency_ms)
    assert all(set(part.latency_ms) <= known for part in parts)


def test_the_command_tells_leads_with_intervals(table, tmp_path, capsys, monkeypatch):
    out = tmp_path / "leads.json"
    few = ["--candidates", "6", "--repeats", "3", "--tables", "5", "--each", "2"]
    few += ["--networks", str(NETWORKS - 5)]
    monkeypatch.setattr("sys.argv", ["replay_trained", str(table), *few, "--json", str(out)])
    benchmark.main()
    result = json.loads(out.read_text())
    assert result["networks"] == NETWORKS - 5
    rows = result["rows"]
    assert [row["against"] for row in rows] == list(benchmark.OTHERS)
    band = rows[0]
    assert band["spreads_interval"][0] < band["spreads_interval"][1]
    assert "tpe" in capsys.readouterr().out


def test_what_was_not_measured_is_counted_and_too_little_is_said(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bare.jsonl"
    rows = [{"epochs": 1, "budget_ms": [1.0]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("sys.argv", ["replay_trained", str(path)])
    with pytest.raises(SystemExit, match="too few networks with several seeds, of 0 in all"):
        benchmark.main()
