"""What a table would say of another's networks, on tables whose answer is known."""

import json

import pytest

from benchmarks import experience
from benchmarks.trained import File, columns, read
from tests.made_table import BUDGET, made_table


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return made_table(tmp_path_factory.mktemp("tables") / "made.jsonl")


def test_a_table_orders_its_own_networks(path):
    told = experience.table(path)
    assert told.data == "made up"
    found = experience.judged(path, [BUDGET, 0.1], [told])
    assert list(found) == [f"{BUDGET:g} ms"], "nothing is under the other budget"
    assert found[f"{BUDGET:g} ms"]["made up"] > 0.8
    assert found[f"{BUDGET:g} ms"]["networks"] > 10


def test_children_compare_with_those_of_their_parent(path, tmp_path):
    networks = read(path).networks
    children = tmp_path / "children.jsonl"
    file = File(children, {"epochs": 27, "inherit": 2, "parents": 2})
    for number, row in networks.items():
        if number < 16:
            end = 0.5 + number / 100
            file.add(number, seed=0, spec=row["spec"], predicted_ms=1.0, share=1 - number / 20,
                     curve=columns([{"objective": 0.0}, {"objective": end}]))  # fmt: skip
    found = experience.judged(children, [], [experience.table(path)])
    assert {name: each["networks"] for name, each in found.items()} == {
        "parent 0": 7,
        "parent 1": 7,
    }
    for each in found.values():
        assert each["share inherited"] == pytest.approx(-1)


def test_the_command_writes_and_judges(path, tmp_path, capsys, monkeypatch):
    out, told = tmp_path / "out.json", tmp_path / "told.json"
    monkeypatch.setattr("sys.argv", ["experience", str(path), "--out", str(out)])
    experience.main()
    assert json.loads(out.read_text())[0]["data"] == "made up"
    monkeypatch.setattr(
        "sys.argv", ["experience", str(path), "--judge", str(path), "--json", str(told)]
    )
    experience.main()
    assert "operations" in capsys.readouterr().out
    assert json.loads(told.read_text())["spearman"]
