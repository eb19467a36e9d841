"""The closing lines: what could not be compared, and what only a calmer machine can tell."""

from dataclasses import replace

import optuna
import pytest

from flaxyolo.cost.budget import Budget
from flaxyolo.search.advised import BASELINE
from flaxyolo.search.controls import SCALED
from flaxyolo.search.objective import Objective
from flaxyolo.search.spending import Spending
from flaxyolo.trials.answer import missing_line, open_line
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.work import NONE_SCALED
from tests.search.made import COST, final, result

SPENDING = Spending(trials=4, short_epochs=6, epochs=6, finalists=1, seeds=(0,), controls=True)
FOUND = [replace(result(0, "complete", [(6, 0.4)]), origin=BASELINE), final(1, 0, 0, 0.4)]


@pytest.fixture
def study():
    return optuna.create_study()


def standings(*more):
    return Standings([*FOUND, *more], Budget(10.0), Objective())


def test_a_family_that_was_not_begun_is_told_with_the_reason(study):
    told = missing_line(study, standings(), SPENDING)
    assert told == (
        "No YOLOv8 scaled into the budget is compared with yet: the same command goes on with it"
    )
    study.set_user_attr(NONE_SCALED, True)
    assert missing_line(study, standings(), SPENDING).endswith("none is expected to keep it")
    assert missing_line(study, standings(result(2, "waiting", origin=SCALED)), SPENDING) is None
    without = replace(SPENDING, controls=False)
    assert missing_line(study, standings(), without) is None


def test_what_is_ahead_but_for_a_busy_machine_is_no_secret():
    busy = replace(COST, latency_ms_p95=11.0, load=0.9, slowdown=2.0, floor_ms=7.0)
    waiting = replace(final(3, 2, 0, 0.6, state="waiting", cost=busy), looks=1)
    assert open_line(standings()) is None
    assert open_line(standings(result(2), waiting)) == (
        "Trial 3 has 0.600, and only a calmer machine can tell if it keeps the budget: "
        "11.00 ms here, at least 7.00 ms; the same command measures it again"
    )
    behind = replace(final(3, 2, 0, 0.3, state="waiting", cost=busy), looks=1)
    assert open_line(standings(result(2), behind)) is None
