import json

import numpy as np
import pytest

from flaxyolo.replay import main, replay
from flaxyolo.search.known import read_table
from flaxyolo.search.strategies import STRATEGIES, Search, funnel

COLUMNS = ("--cheap-column", "cheap", "--full-column", "full", "--latency-column", "latency_ms")
HEADER = "family,resolution,latency_ms,latency_other,cheap,full\n"


def write(path, *lines, header=HEADER):
    table = path / "table.csv"
    table.write_text(header + "".join(f"{line}\n" for line in lines))
    return table


def read(table, **more):
    return read_table(table, cheap="cheap", full="full", latency="latency_ms", **more)


THREE = ("a,160,1,9,0.1,0.2", "a,320,2,8,0.2,0.3", "b,320,4,7,0.3,0.5")


def test_a_table_is_read_by_hand(tmp_path):
    known = read(write(tmp_path, *THREE))
    expected = [
        [1, 0, np.log(160), 0],
        [1, 0, np.log(320), np.log(2)],
        [0, 1, np.log(320), np.log(4)],
    ]
    np.testing.assert_allclose(known.features, expected)
    np.testing.assert_array_equal(known.codes, [[0, 0], [0, 1], [1, 1]])
    assert known.ordered == (False, True)
    np.testing.assert_allclose(known.full, [20, 30, 50])


def test_other_latencies_are_no_architecture_and_that_is_said(tmp_path, caplog):
    caplog.set_level("INFO", "flaxyolo")
    known = read(write(tmp_path, *THREE[:2], "b,480,4,7,0.3,0.5"), ignore=("family",))
    assert known.features.shape == (3, 2)
    assert "not part of the architecture: family, latency_other" in caplog.text


def test_a_name_for_each_line_tells_nothing(tmp_path):
    lines = [f"{name},{line}" for name, line in zip("xyz", THREE, strict=True)]
    known = read(write(tmp_path, *lines, header="name," + HEADER))
    assert known.features.shape == (3, 4)


def test_scores_of_a_hundred_stay_and_unknown_sizes_are_allowed(tmp_path):
    known = read(write(tmp_path, "a,,1,9,10,20", "a,320,2,8,20,30", "b,nan,3,8,20,30"))
    np.testing.assert_allclose(known.full, [20, 30, 30])
    assert np.isnan(known.features[[0, 2], 2]).all()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "expected a header and at least one line"),
        (("a,160,1,9,0.1,",), "line 2: expected a number for full, got ''"),
        (("a,160,1,9,0.1,nan",), "line 2: expected a number for full, got 'nan'"),
        (("a,160,1,9,high,0.2",), "line 2: expected a number for cheap, got 'high'"),
        (("a,160,0,9,0.1,0.2",), "line 2: expected latency_ms above 0, got 0"),
        (("a,160,1,9,0.1",), "line 2: expected 6 cells as in the header, got 5"),
        ((THREE[0], THREE[1], "a,160,3,9,0.3,0.3"), "lines 2 and 4: the same architecture twice"),
    ],
)
def test_bad_tables_are_said_in_one_line(tmp_path, capsys, lines, said):
    assert main([str(write(tmp_path, *lines)), *COLUMNS]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--cheap-column", "nothing"), "no column nothing; there are family, resolution"),
        (("--cheap-column", "full"), "expected 3 different columns"),
        (("--ignore-columns", "family", "resolution"), "no column is left"),
        (("--ignore-columns", "x"), "no column x"),
        (("--repeats", "0"), "--repeats: expected at least 1, got 0"),
        (("--cheap-runs", "0"), "--cheap-runs: expected at least 1, got 0"),
        (("--seed", "-1"), "--seed: expected 0 or more, got -1"),
    ],
)
def test_bad_flags_are_said_in_one_line(tmp_path, capsys, flags, said):
    table = str(write(tmp_path, *THREE))
    given = dict(zip(COLUMNS[::2], COLUMNS[1::2], strict=True))
    given.pop(flags[0], None)
    rest = [part for pair in given.items() for part in pair]
    assert main([table, *rest, *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_text(tmp_path, capsys):
    assert main([str(tmp_path / "none.csv"), *COLUMNS]) == 2
    assert "none.csv: cannot be read" in capsys.readouterr().err
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00a,b\n")
    assert main([str(tmp_path / "bytes.csv"), *COLUMNS]) == 2
    assert "expected a CSV file in UTF-8" in capsys.readouterr().err


def test_three_networks_are_replayed_as_json(tmp_path, capsys):
    table = write(tmp_path, *THREE)
    assert main([str(table), *COLUMNS, "--repeats", "2", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) == set(STRATEGIES)
    # Three runs are enough for three networks, and the slower one is always the better.
    assert figures["funnel"]["mean_regret"] == 0.0
    assert figures["slowest_that_fits"]["mean_regret"] == 0.0
    assert len(figures["funnel"]["by_budget"]) == 8


def test_the_table_names_every_strategy(tmp_path, capsys):
    assert main([str(write(tmp_path, *THREE)), *COLUMNS, "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in STRATEGIES)


@pytest.mark.parametrize("kind", ["constant cheap", "one family", "unknown sizes"])
def test_tables_that_say_little_are_replayed(tmp_path, kind):
    rng = np.random.default_rng(0)
    lines = []
    for number in range(40):
        family = "a" if kind == "one family" else "ab"[number % 2]
        size = "" if kind == "unknown sizes" and number % 3 else str(100 + number)
        cheap = 0.5 if kind == "constant cheap" else number / 100
        part = number if kind == "unknown sizes" else 1
        lines.append(f"{part},{family},{size},{5 + rng.random()},1,{cheap},{number / 100}")
    known = read(write(tmp_path, *lines, header="part," + HEADER))
    found = replay(known, runs=12, finalists=2, repeats=2, seed=0)
    assert all(np.isfinite(regret).all() for regret in found.values())
    assert all((regret >= 0).all() for regret in found.values())


def test_the_funnel_trains_what_it_may_and_nothing_twice(tmp_path):
    lines = [f"a,{100 + n},{1 + n / 40},1,{n / 100},{n / 100}" for n in range(40)]
    known = read(write(tmp_path, *lines))
    rows = funnel(Search(known, 1.5, 12, 5, np.random.default_rng(0)))
    assert len(set(rows.tolist())) == 5
    assert known.latency_ms[rows].max() <= 1.5
    # Score and latency rise together without noise: the best is found.
    assert known.full[rows].max() == known.full[known.latency_ms <= 1.5].max()


def test_a_smaller_budget_than_runs_ends_early(tmp_path):
    known = read(write(tmp_path, *THREE))
    rows = funnel(Search(known, 2.0, 20, 3, np.random.default_rng(0)))
    assert sorted(rows.tolist()) == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "funnel_most"), [("latency_ms_x86_openvino", 0.45), ("latency_ms_jetson_nano", 0.30)]
)
def test_the_funnel_stays_ahead_on_published_results(test_data, device, funnel_most, monkeypatch):
    table = test_data / "yolobench" / "voc.csv"
    if not table.is_file():
        pytest.skip(f"no table at {table}")
    names = ("funnel", "random_full", "random_band_full", "slowest_that_fits")
    for name in set(STRATEGIES) - set(names):
        monkeypatch.delitem(STRATEGIES, name)
    known = read_table(table, cheap="map_cheap", full="map_full", latency=device)
    found = replay(known, runs=20, finalists=3, repeats=15, seed=0)
    mean = {name: regret.mean() for name, regret in found.items()}
    assert mean["funnel"] <= funnel_most
    assert mean["funnel"] < mean["random_band_full"] < mean["random_full"]
    assert mean["random_full"] < mean["slowest_that_fits"]


def test_earlier_scores_of_a_cheap_run_are_its_rungs(tmp_path, capsys):
    lines = [f"a,{100 + n},{1 + n / 40},1,{n / 300},{n / 200},{n / 100},{n / 100}"
             for n in range(40)]  # fmt: skip
    header = "family,resolution,latency_ms,latency_other,ninth,third,cheap,full\n"
    path = write(tmp_path, *lines, header=header)
    known = read(path, early=("ninth", "third"))
    assert known.rungs == (3, 9, 27)
    np.testing.assert_allclose(known.curves[10], [10 / 300, 10 / 200, 10 / 100])
    assert known.features.shape == (40, 3), "scores are no architecture"
    command = [str(path), *COLUMNS, "--rung-columns", "ninth", "third", "--repeats", "1"]
    assert main(command) == 0
    assert "funnel" in capsys.readouterr().out
    assert main([*command, "--rung-columns", "ninth", "third", "family"]) == 2
    assert "expected at most 2 columns of earlier scores" in capsys.readouterr().err
