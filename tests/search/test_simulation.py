"""A search over a table does what a sweep's workers would be told, rungs included."""

import numpy as np

from flaxyolo.crew.record import CHEAP, FINAL
from flaxyolo.search.known import Known
from flaxyolo.search.simulation import Simulation


def table(rungs, count=60):
    """Networks that are the better the slower, and so at every rung, without noise."""
    size = np.linspace(0, 1, count)
    shares = np.array(rungs) / rungs[-1]
    return Known(
        features=np.stack([size, np.sin(7 * size)], axis=1),
        codes=np.arange(count)[:, None],
        ordered=(True,),
        latency_ms=1 + size,
        rungs=rungs,
        curves=size[:, None] * shares,
        full=100 * size,
    )


def searched(known, runs=12, finalists=3, budget_ms=1.8):
    search = Simulation(
        known, budget_ms, runs=runs, finalists=finalists, rng=np.random.default_rng(0)
    )
    return search, search.run()


def test_without_rungs_every_candidate_is_trained_whole_and_the_finalists_fully():
    search, rows = searched(table((1,)))
    cheap = [record for record in search.records if record.stage == CHEAP]
    assert [record.state for record in search.records] == ["complete"] * (12 + 3)
    assert [record.epochs for record in cheap] == [1] * 12
    finals = [record for record in search.records if record.stage == FINAL]
    assert [search.row(record) for record in finals] == rows.tolist()
    assert all(record.epochs == search.spending.epochs for record in finals)
    assert search.known.latency_ms[rows].max() <= 1.8


def test_with_rungs_only_those_ahead_go_on_and_those_behind_are_ended():
    search, rows = searched(table((3, 9, 27)), runs=18)
    cheap = [record for record in search.records if record.stage == CHEAP]
    at = [record.epochs for record in cheap]
    assert {3, 9, 27} == set(at)
    assert at.count(27) < at.count(9) + at.count(27) < 18
    assert {record.state for record in cheap if record.epochs < 27} == {"pruned"}
    assert {record.state for record in cheap if record.epochs == 27} == {"complete"}
    # Scores rise with the size at every rung, so whoever went on was among the best there were.
    whole = [search.row(record) for record in cheap if record.epochs == 27]
    ended = [search.row(record) for record in cheap if record.epochs == 3]
    assert np.mean(whole) > np.mean(ended)
    assert set(rows) <= {search.row(record) for record in cheap}


def test_a_table_smaller_than_the_runs_ends_when_nothing_is_left():
    search, rows = searched(table((1,), count=5), budget_ms=1.6)
    assert sorted({search.row(record) for record in search.records}) == [0, 1, 2]
    assert sorted(rows.tolist()) == [0, 1, 2]
