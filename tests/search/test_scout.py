"""Zero-cost scores that are taken only where they cost little beside training."""

import math
from dataclasses import replace

import pytest
from optuna.trial import FixedTrial

from flaxyolo.search import scout
from flaxyolo.search.features import features
from flaxyolo.search.space import suggest_detector
from tests.search.made import result
from tests.search.test_propose import made


@pytest.mark.parametrize(
    ("trained", "each", "count"),
    [
        ([], [], 0),
        ([300.0], [], 1),  # a twentieth of five minutes is one guess of 15 s
        ([100.0, 500.0], [5.0], 3),
        ([100_000.0], [5.0], scout.MOST),
        ([60.0], [5.0], 0),
    ],
)
def test_scores_cost_a_twentieth_of_a_training_at_most(trained, each, count, tmp_path, monkeypatch):
    one = made(tmp_path, monkeypatch)[0].scout
    one.seconds = each
    found = [result(n, seconds={"train": seconds}) for n, seconds in enumerate(trained)]
    found.append(result(9, seconds={"measure": 1e6}))
    found.append(result(10, stage="final", seconds={"train": 1.0}))
    assert one.affords(found) == count


def tried(proposer):
    """Four candidates, of which those with a wide neck score well, and long trainings."""
    found = []
    for number in range(4):
        proposal = proposer.propose(found)
        spec = suggest_detector(FixedTrial(proposal.params))
        seen = features(spec, latency_ms=1.0 + number, params=1e6, gflops=0.1)
        rungs = [(9, 0.1 * number)]
        found.append(
            result(number, "complete", rungs, spec=spec, params=proposal.params,
                   features=seen | {"zico": float(number)})
        )  # fmt: skip
    return [replace(each, seconds={"train": 1e5}) for each in found]


def test_the_best_are_scored_and_the_scores_decide(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=2.0)
    found = tried(proposer)
    seen = []

    def scores(spec, batches, config, *, seed):
        seen.append(spec)
        return {"nwot": 1.0, "zico": 20.0 if len(seen) == 5 else 1.0}

    monkeypatch.setattr(scout, "zero_cost", scores)
    proposal = proposer.propose(found)
    assert len(set(seen)) == scout.MOST
    assert proposal.zero_cost == {"nwot": 1.0, "zico": 20.0}
    assert proposer._finish(suggest_detector(FixedTrial(proposal.params))) == seen[4]
    assert proposal.seconds["score"] >= 0


def test_short_trainings_are_not_scored(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=2.0)
    monkeypatch.setattr(scout, "SHARE", 0.0)
    monkeypatch.setattr(scout, "zero_cost", None)
    proposal = proposer.propose(tried(proposer))
    assert proposal.zero_cost == {}
    assert "score" not in proposal.seconds


def test_the_scores_are_those_of_the_data(tmp_path, monkeypatch):
    proposer, _ = made(tmp_path, monkeypatch, latency_ms=2.0)
    proposal = proposer.propose([])
    spec = proposer._finish(suggest_detector(FixedTrial({**proposal.params, "image_size": 128})))
    first = proposer.scout.scores(spec)
    assert set(first) == {"nwot", "zico"}
    assert all(math.isfinite(value) for value in first.values())
    assert proposer.scout.scores(spec) is first
    assert len(proposer.scout.seconds) == 1
