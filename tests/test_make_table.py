"""Tables of trained networks grow by lines, from several commands, and go on after a kill."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import make_table
from benchmarks.make_table import Maker, choose, inside, planned
from benchmarks.trained import File, columns, points, read, rounded

CURVE = [
    {"epoch": 1, "loss": 2.0, "objective": 0.1},
    {"epoch": 2, "loss": 1.0},
    {"epoch": 3, "loss": 0.5, "objective": 0.3},
]


def test_a_curve_comes_back_from_its_columns():
    assert points(json.loads(json.dumps(columns(CURVE)))) == CURVE
    assert points(columns([])) == []


def test_lines_of_a_number_are_one_network(tmp_path):
    path = tmp_path / "new" / "table.jsonl"
    settings = {"epochs": 3, "share": 1 / 3, "sizes": (1, 2)}
    file, other = File(path, settings), File(path, settings)
    file.add(0, seed=0, spec={"a": 1}, curve=columns(CURVE))
    other.add(1, seed=0, curve=columns(CURVE[:1]))
    other.add(0, seed=2, curve=columns(CURVE[1:]))
    file.add(0, cost={"ms": 1.23456789})
    table = read(path)
    assert table.settings == rounded(settings)
    assert table.networks == file.networks
    assert table.networks[0]["curves"] == {0: CURVE, 2: CURVE[1:]}
    assert table.networks[0]["cost"] == {"ms": 1.235}
    assert table.networks[0]["spec"] == {"a": 1}
    assert "seed" not in table.networks[0]


def test_half_a_line_is_cut_off_and_other_settings_are_refused(tmp_path):
    path = tmp_path / "table.jsonl"
    File(path, {"epochs": 3, "data": "x"}).add(0, seed=0, curve=columns(CURVE))
    whole = path.read_text()
    path.write_text(whole + '{"number": 1, "cu')
    assert list(read(path).networks) == [0]
    File(path, {"epochs": 3, "data": "x"}).add(1, seed=0, curve=columns(CURVE))
    assert list(read(path).networks) == [0, 1]
    elsewhere = {"epochs": 3, "data": "x", "device": "another", "date": "later"}
    File(path, elsewhere).add(2, seed=0, curve=columns(CURVE))
    assert list(read(path).networks) == [0, 1, 2]
    with pytest.raises(SystemExit, match="made with other settings: data, epochs, more"):
        File(path, {"epochs": 4, "data": "y", "more": 1})


def test_several_commands_share_all_runs_and_half_a_table_has_several_seeds():
    whole = list(planned(360, 60, 3, (0, 1)))
    parts = [set(planned(360, 60, 3, (part, 2))) for part in range(2)]
    assert set.union(*parts) == set(whole)
    assert not set.intersection(*parts)
    assert len(whole) == len(set(whole)) == 360 + 2 * 60
    again = [work.number for work in whole if work.seed == 2]
    assert len(again) == 60
    assert all(inside(number) for number in again)
    assert {number % 3 for number in again if number < 180} == {0, 1, 2}
    assert sum(number < 180 for number in again) == 30
    assert [work.seed for work in planned(4, 0, 3, (0, 1))] == [0] * 4


def test_a_network_is_chosen_in_the_band_of_its_budget_or_outside_of_all():
    drawn = [SimpleNamespace(latency=SimpleNamespace(p95_ms=ms)) for ms in (0.9, 0.5, 5.0, 1.6)]
    assert choose(drawn, (1.0, 2.0), 0).latency.p95_ms == 0.9
    assert choose(drawn, (1.0, 2.0), 1).latency.p95_ms == 1.6
    assert not inside(5)
    assert choose(drawn, (1.0, 2.0), 5).latency.p95_ms == 0.5
    # Without one there it is the nearest.
    assert choose(drawn[1:3], (1.0, 2.0), 0).latency.p95_ms == 0.5
    assert choose([drawn[0], drawn[2]], (1.0, 2.0), 5).latency.p95_ms == 5.0


def test_children_begin_with_the_parent_of_their_turn(tmp_path):
    given = SimpleNamespace(inherit=9, parents=3, json=tmp_path / "table.jsonl")
    maker = Maker(given, SimpleNamespace(class_names=("a",)), None, None, [], None)
    assert maker.parent_of(1) == tmp_path / "table.parent1", "its own"
    with pytest.raises(SystemExit, match=r"table\.parent2: not there; train it first"):
        maker.parent_of(5)
    (tmp_path / "table.parent2").mkdir()
    assert maker.parent_of(5) == tmp_path / "table.parent2"
    given.inherit = None
    assert Maker(given, SimpleNamespace(class_names=()), None, None, [], None).parent_of(5) is None


def test_parents_want_epochs_for_their_children(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["make_table", "--parents", "3", "--json", str(tmp_path / "table.jsonl")]
    )
    with pytest.raises(SystemExit):
        make_table.main()
    assert "--parents: expected --inherit EPOCHS as well" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
