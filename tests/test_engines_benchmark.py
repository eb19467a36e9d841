"""The benchmark of engines gives each its turns, and compares within a round."""

import numpy as np
import pytest

from benchmarks import engines as benchmark


def test_every_engine_runs_in_every_round_and_goes_first_in_turn():
    seen = []
    runs = {name: lambda call, name=name: seen.append((name, call)) for name in "abc"}
    times = benchmark.rounds(runs, 4)
    assert {name: of_engine.shape for name, of_engine in times.items()} == {
        name: (4, benchmark.CALLS - 1) for name in "abc"
    }
    first = [name for name, call in seen if call == 0][::3]
    assert first == ["a", "b", "c", "a"]


def test_a_ratio_is_of_engines_in_the_same_round():
    ours = np.array([[1.0, 1.0], [4.0, 4.0]])
    times = {"jax": ours, "other": ours / 2, benchmark.PRODUCT: np.array([[1.0, 1.0], [2.0, 2.0]])}
    rows = benchmark.figures(times, gflops=benchmark.PRODUCT_GFLOPS / 4)
    assert rows["other"]["ratio_to_jax"] == rows["other"]["ratio_p90"] == 0.5
    assert rows["jax"]["ratio_to_jax"] == 1
    assert rows["other"]["ms_min"] == 0.5
    assert rows["other"]["share_of_peak"] == pytest.approx((0.5 + 0.25) / 2)
    assert rows[benchmark.PRODUCT]["share_of_peak"] == 1


@pytest.mark.slow
def test_a_network_runs_on_all_of_them(tmp_path, capsys, monkeypatch):
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    out = tmp_path / "figures.json"
    arguments = ["configs/yolov8n.yaml@64", "--rounds", "1", "--json", str(out)]
    monkeypatch.setattr("sys.argv", ["engines", *arguments])
    benchmark.main()
    printed = capsys.readouterr().out
    assert all(f"yolov8n at 64 px, {name}: " in printed for name in benchmark.ENGINES)
    assert '"ratio_to_jax"' in out.read_text()
