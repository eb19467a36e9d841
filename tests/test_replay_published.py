"""The search on a published table, on one whose answer is known."""

import json
import sys

import numpy as np
import pytest

from benchmarks import replay_published as benchmark
from benchmarks.leads import leads
from flaxyolo.search.known import read_table
from flaxyolo.search.strategies import Search

COLUMNS = {"cheap": "map_cheap", "full": "map_full", "latency": "latency_ms_made_up"}
NAMES = [name for name in benchmark.OTHERS if name != "tpe"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """120 networks of four families; wide and shallow ones are the best."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("published") / "table.csv"
    lines = ["family,width,depth,latency_ms_made_up,map_cheap,map_full"]
    for family in "abcd":
        for width in (16, 24, 32, 48, 64):
            for depth in range(1, 7):
                quality = 0.3 + 0.05 * np.log2(width / 16) - 0.01 * depth
                noise = rng.normal(0, 0.004, 2)
                latency = 0.02 * width + 0.3 * depth + rng.uniform(0, 0.02)
                cheap, full = quality + noise[0], quality + noise[1] + 0.1
                lines.append(f"{family},{width},{depth},{latency:.4f},{cheap:.4f},{full:.4f}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def known(table):
    return read_table(table, **COLUMNS)


def test_it_leads_by_no_more_than_the_best_of_the_band(known):
    found = [benchmark.searched(known, ms, 12, 6, 0, NAMES) for ms in (1.5, 2.5)]
    ahead = {name: leads(found, name) for name in NAMES}
    assert ahead["best_of_all"][0] <= 0
    assert ahead["random_band"][0] > 0
    for points, spreads in ahead.values():
        assert np.sign(points) == np.sign(spreads)
    one = found[0]
    points, spreads = leads([one], "random_whole")
    assert spreads == pytest.approx(points / one.spread)
    fits = known.latency_ms <= 1.5
    assert all((values <= known.full[fits].max()).all() for values in one.quality.values())


def test_all_spend_as_much(known, monkeypatch):
    spent = {}

    def counted(name):
        def strategy(search: Search):
            spent.setdefault(name, search.runs)
            return np.array([0])

        return strategy

    monkeypatch.setattr(benchmark, "FULL", {"random_band": counted("random_band")})
    monkeypatch.setattr(benchmark, "SHORT_AND_FULL", {"sweep": counted("sweep")})
    benchmark.searched(known, 2.0, 6, 1, 0, ["random_band"])
    assert spent == {"sweep": 6, "random_band": 6 + benchmark.FINALISTS}


def test_another_table_has_whole_families_or_none_of_them(known):
    rng = np.random.default_rng(1)
    counts = [len(np.unique(benchmark.resampled(known, rng).codes[:, benchmark.FAMILY]))
              for _ in range(20)]  # fmt: skip
    assert min(counts) < 4
    assert max(counts) > 1
    assert not benchmark.enough(known, [0.1])
    assert benchmark.enough(known, [1.5, 2.5])


def test_the_command_tells_leads_with_intervals(table, tmp_path, monkeypatch, capsys):
    result = tmp_path / "leads.json"
    monkeypatch.setattr(sys, "argv", [
        "replay_published", str(table), "--latency-columns", "latency_ms_made_up",
        "--candidates", "6", "--repeats", "2", "--tpe-repeats", "1", "--tables", "3",
        "--each", "1", "--json", str(result),
    ])  # fmt: skip
    benchmark.main()
    rows = json.loads(result.read_text())["rows"]
    assert [row["against"] for row in rows] == benchmark.OTHERS
    for row in rows:
        assert ("spreads_interval" in row) == (row["against"] != "tpe")
    assert capsys.readouterr().out.count("| latency_ms_made_up | 6 |") == len(rows)
