"""What is compared of parents whose rate falls and stays, and that the benchmark goes on."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import parent_rates
from benchmarks.parent_rates import RATES, averaging, differences, families, ordering
from flaxyolo.spec import to_dict
from tests.small import tiny_spec


def row(seed, rate, **children):
    return {"seed": seed, "rate": rate, "parent": [0.1], "children": children, "seconds": 1}


def test_differences_are_of_equal_networks_and_seeds_by_epoch():
    rows = [
        row(0, "falls", itself=[0.5, 0.6], wide=[0.1, 0.4]),
        row(0, "stays", itself=[0.6, 0.8], wide=[0.4, 0.6]),
        row(1, "falls", itself=[0.5, 0.6], wide=[0.1, 0.4]),
        row(1, "stays", itself=[0.5, 0.7], wide=[0.1, 0.5]),
        row(2, "stays", itself=[9.0, 9.0], wide=[9.0, 9.0]),
    ]
    first, last = differences(rows)
    assert first["gains"] == pytest.approx([0.2, 0.0])
    assert last["gains"] == pytest.approx([0.2, 0.1])
    assert last["mean"] == pytest.approx(0.15)
    assert (first["epoch"], last["epoch"]) == (1, 2)
    assert differences(rows[4:]) == []


def test_an_average_is_compared_with_the_last_weights_of_the_same_child():
    rows = [
        row(1, "stays", itself=[0.5, 0.9], wide=[0.3, 0.7])
        | {"averaged": {"itself": [0.7, 0.9], "wide": [0.3, 0.5]}},
        row(0, "stays", itself=[0.5, 0.9]) | {"averaged": {"itself": [0.6, 0.9]}},
        row(0, "falls", itself=[9.0, 9.0]),
    ]
    first, last = averaging(rows)
    assert first["gains"] == pytest.approx([0.1, 0.1])
    assert last["gains"] == pytest.approx([0.0, -0.1])
    assert averaging(rows[2:]) == []


def test_what_is_scored_early_is_told_by_how_it_orders_the_networks_at_the_end():
    last = {"itself": [4, 1], "a": [3, 2], "b": [2, 3], "c": [1, 4]}
    average = {"itself": [1, 1], "a": [2, 2], "b": [4, 3], "c": [3, 4]}
    told = row(0, "stays", **last) | {"averaged": average}
    few = row(1, "stays", itself=[0.1, 0.2]) | {"averaged": {"itself": [0.1, 0.2]}}
    (one,) = ordering([told, few])
    assert (one["epoch"], one["last"], one["average"]) == (1, -1, pytest.approx(0.8))
    assert one["gains"] == pytest.approx([1.8])
    assert ordering([few]) == []


def test_a_table_gives_its_parents_with_their_children(tmp_path):
    path = tmp_path / "table.jsonl"

    def write(**settings):
        rows = [
            {"number": number, "spec": to_dict(tiny_spec(image_size=32 * (number + 1)))}
            for number in range(6)
        ]
        lines = [{"data": "digits", **settings}, *rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def sizes(found):
        return {elder: [spec.image_size // 32 - 1 for spec in specs.values()]
                for elder, specs in found.items()}  # fmt: skip

    write(parents=2)
    data, found = families(path, 9, None)
    assert (data, sizes(found)) == ("digits", {"network 0": [0, 2, 4], "network 1": [1, 3, 5]})
    assert list(found["network 1"]) == ["itself", "network 3", "network 5"]
    write()
    data, found = families(path, 3, "coco:elsewhere")
    assert (data, sizes(found)) == ("coco:elsewhere", {"network 0": [0, 1, 2]})


def test_it_goes_on_with_the_next_parent(tmp_path, monkeypatch, capsys):
    asked = []

    def family(specs, data, seed, rate, epochs, averaged):
        assert not averaged
        asked.append((seed, rate))
        if len(asked) == 3:
            raise KeyboardInterrupt
        assert (data, epochs) == ("digits", (14, 4))
        return row(seed, rate, itself=[0.5 + seed + (rate == "stays")])

    study = SimpleNamespace(user_attrs={"facts": {"source": "digits"}})
    monkeypatch.setattr(parent_rates, "read_runs", lambda path: study)
    monkeypatch.setattr(parent_rates, "networks", lambda study, most: {"itself": tiny_spec()})
    monkeypatch.setattr(parent_rates, "family", family)
    out = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["x", "runs/s", "--seeds", "2", "--json", str(out)])
    with pytest.raises(KeyboardInterrupt):
        parent_rates.main()
    assert not out.exists()
    parent_rates.main()
    assert asked == [(0, "falls"), (0, "stays"), (1, "falls"), (1, "falls"), (1, "stays")]
    assert list(RATES) == ["falls", "stays"]
    assert json.loads(out.read_text())["differences"][0]["gains"] == [1.0, 1.0]
    assert "a rate that stays, after epoch 1: +1.000" in capsys.readouterr().out


def test_a_parent_of_before_is_trained_again_where_its_children_have_no_average(
    tmp_path, monkeypatch, capsys
):
    lines = tmp_path / "found.jsonl"
    lines.write_text(json.dumps(row(0, "stays", itself=[0.5])) + "\n")
    asked = []

    def family(specs, data, seed, rate, epochs, averaged):
        asked.append((seed, rate, averaged))
        return row(seed, rate, itself=[0.5]) | {"averaged": {"itself": [0.75]}}

    study = SimpleNamespace(user_attrs={"facts": {"source": "digits"}})
    monkeypatch.setattr(parent_rates, "read_runs", lambda path: study)
    monkeypatch.setattr(parent_rates, "networks", lambda study, most: {"itself": tiny_spec()})
    monkeypatch.setattr(parent_rates, "family", family)
    arguments = ["runs/s", "--seeds", "2", "--averaged", "--json", str(lines.with_suffix(".json"))]
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    for _ in range(2):
        parent_rates.main()
        assert asked == [(0, "stays", True), (1, "stays", True)]
    assert "an average, after epoch 1: +0.250" in capsys.readouterr().out
