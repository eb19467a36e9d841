import logging
import math
import time

import optuna
import pytest
from optuna.trial import TrialState

from flaxyolo.crew import custody as module
from flaxyolo.crew.alive import stale
from flaxyolo.crew.custody import Custody, Hold, custody
from flaxyolo.crew.leases import at_work, claim, take_up
from tests.crew.held import open_view


def waiting(**attributes) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.WAITING, user_attrs=attributes)


@pytest.fixture(autouse=True)
def told_anew():
    module._tell_once.cache_clear()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease", "mine"),
        ("lease", [1]),
        ("lease", {"at": None}),
        ("lease", {"at": math.nan, "worker": "w"}),
        ("lease", {"at": 1.0, "worker": 7}),
        ("lease", {"at": 4e12, "worker": "w"}),
        ("beat", "now"),
        ("beat", math.inf),
        ("beat", -1.0),
        ("beat", 4e12),
        ("interruptions", "many"),
        ("interruptions", -1),
        ("fruitless", [1]),
        ("crashes", "boom"),
        ("crashes", [None]),
        ("reason", 3),
    ],
)
def test_what_cannot_be_counts_as_not_stored_and_is_told_once(name, value, caplog):
    trial = waiting(**{name: value})
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert custody(trial) == Custody()
    (line,) = caplog.messages
    assert line.startswith(f"trial {trial.number}: {name}: ")
    assert line.endswith("it counts as not stored")


def test_what_can_be_is_kept_beside_it():
    trial = waiting(lease="mine", beat=5.0, crashes=["a", "b"], reason="x")
    assert custody(trial) == Custody(beat=5.0, crashes=("a", "b"), reason="x")
    lease = {"at": 5.0, "worker": "w", "of_a_later_version": 1}
    assert custody(waiting(lease=lease)).lease == Hold(at=5.0, worker="w")


def test_a_trial_whose_lease_is_damaged_is_taken_up_again(tmp_path):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_view(tmp_path)
    study.enqueue_trial({"x": 0})
    study.ask()
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, "lease", {"at": "x"})
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, "beat", 4e12)
    assert stale(study, tmp_path, silence=3600.0) == []
    time.sleep(0.02)
    assert take_up(study, tmp_path, silence=0.01) == [0]
    with at_work(tmp_path) as worker:
        assert claim(study, 0, worker) is not None
