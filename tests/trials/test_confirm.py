"""The winner's second measurement: who steps down, and who does not."""

from dataclasses import replace

import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import Entry
from flaxyolo.crew.storage import open_study
from flaxyolo.data.sources import read_dataset
from flaxyolo.machine.gate import Gate
from flaxyolo.search.results import results
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import suggest_detector
from flaxyolo.search.spending import Spending
from flaxyolo.trials import confirm as confirming
from flaxyolo.trials.confirm import confirm, confirmed_cost
from flaxyolo.trials.table import costs
from tests.search.made import COST
from tests.small import tiny_spec
from tests.tiny_data import write_coco

CALM = replace(COST, latency_ms_p95=7.0, load=0.0, slowdown=1.0, floor_ms=6.0)
SLOW = replace(CALM, latency_ms_p95=9.0)
BUSY = replace(SLOW, load=0.9, floor_ms=4.0)
FAR = replace(BUSY, floor_ms=8.5)


@pytest.mark.parametrize(
    ("again", "refuted"), [(CALM, False), (SLOW, True), (BUSY, False), (FAR, True)]
)
def test_only_what_a_calm_machine_says_makes_the_winner_step_down(
    tmp_path, monkeypatch, again, refuted
):
    write_coco(tmp_path / "data")
    source = f"coco:{tmp_path / 'data'}"
    sweep = Sweep(
        suggest=suggest_detector,
        budget=Budget(8.0),
        data=read_dataset(source),
        source=source,
        folder=tmp_path / "s",
        spending=Spending(trials=1, short_epochs=1, epochs=1, finalists=1, seeds=(0,)),
    )
    study = open_study(tmp_path / "s")
    trial = study.ask()
    entry = Entry(trial)
    entry.keep(spec=tiny_spec(), cost=CALM, run="r", history=(CurvePoint(1, 0.5),))
    study.tell(trial, 0.5)
    (sweep.runs / "r" / "detector").mkdir(parents=True)
    calls = []
    monkeypatch.setattr(confirming, "measured_again", lambda *_: calls.append(1) or again)
    gate = Gate("test", tmp_path)
    confirm(study, sweep, gate)
    confirm(study, sweep, gate)
    assert len(calls) == 1
    assert results(study)[0].refuted == refuted
    cost = confirmed_cost(study, 0)
    assert cost == again
    told = costs(cost, sweep.budget)
    assert ("on a busy machine (others use 90 % of it" in told) == again.busy
