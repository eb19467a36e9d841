"""Changes of the search on a table whose answer is known."""

import json

import numpy as np
import pytest

from benchmarks import search_variants as benchmark
from tests.made_table import BUDGET, made_table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return made_table(tmp_path_factory.mktemp("tables") / "made.jsonl")


def test_a_change_counts_only_inside_and_rungs_may_be_others(table):
    _, land = benchmark.landscape_of(table)
    known = benchmark.variants(27)
    took = {
        name: benchmark.play(land, known[name], BUDGET, 9, (0, 1)).epochs
        for name in (benchmark.USUAL, "all to the end", "no rung at a ninth")
    }
    # Beside the candidates' own epochs there are further seeds of finalists.
    assert took["all to the end"] >= 9 * 27 > took["no rung at a ninth"] >= 9 * 9 + 18
    assert took["no rung at a ninth"] > took[benchmark.USUAL] >= 9 * 3 + 6 + 18
    again = benchmark.play(land, known[benchmark.USUAL], BUDGET, 9, (0, 1))
    assert again.epochs == took[benchmark.USUAL]


@pytest.fixture
def few_at_most(monkeypatch):
    monkeypatch.setattr(benchmark, "MOST", 19)


@pytest.mark.long
def test_as_many_candidates_as_the_epochs_allow(table, few_at_most):
    _, land = benchmark.landscape_of(table)
    known = benchmark.variants(27)["all to the end"]
    few, more = (
        benchmark.candidates_for(land, known, [BUDGET], epochs, 0) for epochs in (200, 500)
    )
    assert 3 <= few <= 200 // 27
    assert few < more <= 500 // 27
    dear = benchmark.candidates_for(land, known, [BUDGET], 500, 0, fixed=27)
    assert 3 <= dear <= 500 // 54


@pytest.mark.long
def test_the_command_tells_gains(table, tmp_path, capsys, monkeypatch, few_at_most):
    target = tmp_path / "gains.json"
    words = ["variants", str(table), "--epochs", "300", "--repeats", "4", "--tables", "2",
             "--each", "1", "--only", "all to the end", "--json", str(target)]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    benchmark.main()
    assert "all to the end" in capsys.readouterr().out
    usual, other = json.loads(target.read_text())["rows"]
    assert usual["candidates"] > other["candidates"] > 3
    assert np.isfinite([other["objective"], other["spreads"], *other["spreads_interval"]]).all()
