"""The table of ratios is what the results of the benchmarks say."""

import pytest

from benchmarks import beside_others
from benchmarks.beside_others import README, Ratio, placed, table


def test_the_readme_has_the_table_that_follows_from_the_results():
    text = README.read_text()
    assert placed(text) == text, "run python -m benchmarks.beside_others --write"


def test_a_missed_aim_is_told_with_what_bounds_it(monkeypatch):
    rows = [
        beside_others.Row("a", "x", "evaluation-cpu", lambda found: Ratio(1, 2, 3), 1.0, "this"),
        beside_others.Row("b", "x", "evaluation-cpu", lambda found: Ratio(2, 2, 2), 1.0, "this"),
        beside_others.Row("c", "x", "evaluation-cpu", lambda found: Ratio(0.2, 0.3, 0.4), 1.0),
    ]
    monkeypatch.setattr(beside_others, "ROWS", rows)
    told = table()
    assert "| a | x | **2.00** (1 to 3) | 1 | `evaluation.py` |" in told
    assert "| c | x | **0.3** (0.2 to 0.4) | 1 |" in told
    assert told.endswith("- Aim not reached: a; b. What bounds it: this.")


def test_of_the_engines_the_fastest_counts():
    row = {"ratio_to_jax": 0.8, "ratio_p10": 0.5, "ratio_p90": 1.0}
    slower = row | {"ratio_to_jax": 0.9}
    engines = {"jax": {}, "product": {}, "onnxruntime": row, "openvino": slower}
    found = beside_others.fastest_engine("n")({"networks": {"n": engines}})
    assert found == pytest.approx((1.0, 1.25, 2.0))


def test_every_missed_aim_has_a_reason():
    for row in beside_others.ROWS:
        assert row.aim is None or row.bound or row.what.startswith("evaluation"), row.what
