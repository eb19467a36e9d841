"""Measurements that are given again: what is in the file is not measured."""

import json

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.cost import recorded
from flaxyolo.cost.recorded import MEASUREMENTS, cost_of, count_of, times_of
from tests.search.made import COST


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "measurements.jsonl"
    monkeypatch.setenv(MEASUREMENTS, str(path))
    monkeypatch.setattr(recorded, "_OPEN", {})
    return path


def never():
    raise AssertionError("it is in the file")


def anew(monkeypatch):
    """As another process would read it."""
    monkeypatch.setattr(recorded, "_OPEN", {})


def test_a_cost_is_measured_once_and_given_again_in_another_process(file, monkeypatch):
    assert cost_of("a", lambda: COST) == COST
    assert cost_of("a", never) == COST
    anew(monkeypatch)
    assert cost_of("a", never) == COST
    with pytest.raises(AssertionError):
        cost_of("b", never)


def test_of_a_batch_of_pieces_only_the_new_ones_are_timed(file, monkeypatch):
    asked = []

    def measure(places):
        asked.append(places)
        return [10.0 + place for place in places]

    assert times_of(["a", "b"], measure) == [10.0, 11.0]
    anew(monkeypatch)
    assert times_of(["c", "b", "a"], measure) == [10.0, 11.0, 10.0]
    assert asked == [[0, 1], [0]]
    assert times_of(["a", "c"], lambda places: never()) == [10.0, 10.0]


def test_a_count_that_hangs_on_a_clock_is_kept(file, monkeypatch):
    assert count_of("few", lambda: 3) == 3
    anew(monkeypatch)
    assert count_of("few", lambda: 4) == 3


def test_without_a_file_everything_is_measured(monkeypatch):
    monkeypatch.delenv(MEASUREMENTS, raising=False)
    assert [count_of("few", lambda n=n: n) for n in (1, 2)] == [1, 2]
    assert times_of(["a"], lambda places: [float(len(places))]) == [1.0]


@pytest.mark.parametrize("line", ["{", "[1, 2]", '["a"]', "3", '["a", 1, 2]'])
def test_a_line_that_is_none_is_named_with_its_place(file, line):
    file.write_text(json.dumps(["count few", 1]) + f"\n{line}\n")
    with pytest.raises(InputError, match=r"measurements.jsonl, line 2: expected a measurement"):
        count_of("few", never)


def test_a_cost_that_cannot_be_is_named(file):
    file.write_text(json.dumps(["network a", {"latency_ms_p50": "quick"}]) + "\n")
    with pytest.raises(InputError, match="network a"):
        cost_of("a", never)
