"""What the tables say a rung should go by, and that a search goes by it."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import early_merit
from benchmarks.early_merit import Told, learnt, orders, table, weights
from flaxyolo.search.funnel import DEFAULTS

TABLES = Path(early_merit.__file__).parent / "tables"
RNG = np.random.default_rng(0)


def made(count=200, by=(0.2, 0.0, 0.8)):
    shown = RNG.normal(size=(count, 3))
    return Told(shown, shown @ np.array(by) + 0.01 * RNG.normal(size=count))


def test_weights_are_those_by_which_the_ends_were_made():
    assert weights([made(), made()]) == pytest.approx([0.2, 0.0, 0.8], abs=0.02)
    one = made()
    alike, merit = orders(one, np.array([0.2, 0.0, 0.8]), np.arange(len(one.end)))
    assert merit > 0.99 > alike


def test_a_search_goes_by_what_the_tables_say():
    found = learnt([table(str(TABLES / f"{name}.jsonl")) for name in ("digits", "nuclei", "bccd")])
    assert found == pytest.approx(DEFAULTS.merit, abs=0.05)
    assert sum(DEFAULTS.merit) == pytest.approx(1)


def test_it_tells_of_each_band_and_of_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(early_merit, "RESAMPLES", 20)
    out = tmp_path / "found.json"
    named = [f"{TABLES / 'nuclei.jsonl'}@1.1,1.5", str(TABLES / "bccd.jsonl")]
    monkeypatch.setattr("sys.argv", ["x", *named, "--json", str(out)])
    early_merit.main()
    rows = json.loads(out.read_text())["rows"]
    names = [(row["after"], row["data"], row["band"]) for row in rows]
    assert names[:4] == [("1/9", "nuclei", "1.1 ms"), ("1/9", "nuclei", "1.5 ms"),
                         ("1/9", "bccd", "all"), ("1/9", "all", "mean")]  # fmt: skip
    assert rows[3]["merit"] == pytest.approx(np.mean([row["merit"] for row in rows[:3]]))
    assert rows[0]["weights"] == learnt([table(named[1])]), "of the others"
    assert "after 1/3, all, mean: " in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["x", named[0]])
    with pytest.raises(SystemExit):
        early_merit.main()
