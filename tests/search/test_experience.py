"""The prior of a new study: what networks have shown on other data."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.landscape import table
from benchmarks.trained import rounded
from flaxyolo.search.experience import FILE, Table, as_large, experience
from flaxyolo.search.features import features
from flaxyolo.search.funnel import Candidates, propose
from flaxyolo.search.screen import draw
from flaxyolo.search.space import load_space
from flaxyolo.search.units import Runs

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "tables"
SMALL = Table("x", "map", 3, "cpu", "2026-01-01", ("log_params", "family=csp", "attention"),
              ((20.0, 1.0, None), (22.0, 0.0, 0.5)), (0.1, 0.4))  # fmt: skip


def test_the_file_is_what_the_tables_say():
    kept = json.loads(FILE.read_text())
    assert len(kept) > 1
    for each in kept:
        made = rounded(asdict(table(TABLES / f"{each['data']}.jsonl")))
        assert made == each, "run python -m benchmarks.experience"


def test_every_table_speaks_of_what_the_surrogate_sees():
    specs = [each.spec for each in draw(load_space(None), 40, 0).drawn]
    seen = {name for spec in specs for name in features(spec, latency_ms=1, params=1, gflops=1)}
    for each in experience():
        assert {name for name in each.names if "=" not in name} <= seen
        assert len(each.rows) == len(each.scores) > 10
        assert all(0 < score < 3 for score in each.scores)
        assert np.ptp(each.scores) > 0.05


def test_sizes_are_moved_to_those_of_the_study_and_the_rest_stays():
    own = [{"log_params": 10.0, "family=csp": 0.0}, {"log_params": 14.0}]
    first, second = SMALL.scored(own)
    assert first.features == {"log_params": 11.0, "family=csp": 1.0}
    assert second.features == {"log_params": 13.0, "family=csp": 0.0, "attention": 0.5}
    assert (first.score, first.share, second.score) == (0.1, 1.0, 0.4)
    assert first.number != second.number
    # A size that some do not have cannot be compared.
    unlike = [{"family=csp": 0.0}]
    assert as_large([{"log_params": 20.0}], unlike) == [{"log_params": 20.0}]


@pytest.mark.parametrize("agree", [True, False])
def test_other_data_lead_the_first_choices_until_the_studys_own_disagree(agree):
    rng = np.random.default_rng(0)
    features, others = rng.uniform(size=(80, 3)), rng.uniform(size=(60, 3))
    before = Runs(others, others[:, 0], np.ones(60))
    those = Candidates(features, np.full(80, 9.0))
    nothing = Runs(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    first = propose(those, nothing, budget_ms=10.0, turn=0, rng=rng, elsewhere=[before])
    assert first.origin == "surrogate"
    alike = Runs(rng.uniform(size=(4, 3)), np.full(4, 0.1), np.ones(4))
    doubt = propose(those, alike, budget_ms=10.0, turn=4, rng=rng, elsewhere=[before])
    assert doubt.origin == "explore", "what they led to tells nothing"
    known = propose(those, alike, budget_ms=10.0, turn=4, rng=rng, earlier=[before])
    assert known.origin == "surrogate"
    many = rng.uniform(size=(60, 3))
    long = Runs(many, many[:, 1], np.ones(60))
    alone = propose(those, long, budget_ms=10.0, turn=60, rng=rng)
    assert propose(those, long, budget_ms=10.0, turn=60, rng=rng, elsewhere=[before]) == alone
    seen = rng.uniform(size=(12, 3))
    scores = seen[:, 0] if agree else -seen[:, 0]
    own = Runs(seen, scores, np.ones(12))
    later = propose(those, own, budget_ms=10.0, turn=12, rng=rng, elsewhere=[before])
    assert (features[later.place, 0] > 0.8) == agree
