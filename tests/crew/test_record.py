"""A trial's record: what is written is read back, and only what is known."""

import json
import subprocess
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from flaxyolo.base.errors import InputError
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.custody import Custody, Hold, custody, keep_custody
from flaxyolo.crew.record import STORED, Entry, Record, attributes, progress, read
from flaxyolo.scoring.average_precision import KEYS, ClassScores, Scores
from tests.search.made import COST
from tests.small import tiny_spec

SCORES = Scores(**dict.fromkeys(KEYS, 0.25), per_class=(ClassScores("a", None, 0.5),))
WHOLE = Record(
    number=0,
    state="waiting",
    params={"x": 3},
    constraints={},
    stage="final",
    origin="finalist 2, seed 1",
    finalist=2,
    again=1,
    arm="se",
    seed=1,
    inherited=0.5,
    begun={"copied": 0.5, "fresh": 0.5},
    mended=0.2,
    predicted_ms=4.5,
    predicted_score=0.3,
    table_error="5 %",
    screened=100,
    zero_cost={"nwot": 1.0},
    spec=tiny_spec(),
    cost=COST,
    looks=2,
    features={"log_params": 2.0},
    run="abc",
    history=(
        CurvePoint(1, None, {"box": 1.0}, epoch_seconds=2.0),
        CurvePoint(3, 0.5, {"box": 0.5}, 0.2, None, 2.0, objective_se=0.02, val_loss=3.5),
    ),
    scores=SCORES,
    train_scores=SCORES,
    seconds={"train": 1.5},
    paused=3,
    duplicate_of=1,
    reason="behind",
    crashes=("killed",),
)


def add(study, record):
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": dict(record.params)},
            user_attrs=attributes(record),
        )
    )


@pytest.fixture
def study():
    return optuna.create_study()


def test_every_field_is_read_back_as_it_was_written(study):
    add(study, WHOLE)
    add(study, Record(1, "waiting"))
    assert [read(trial) for trial in study.get_trials()] == [WHOLE, Record(1, "waiting")]
    kept = attributes(WHOLE)
    assert set(kept) == set(STORED), "no field of this record is as ever"
    assert json.loads(json.dumps(kept)) == kept
    assert attributes(Record(1, "waiting")) == {}


def test_what_is_kept_of_a_trial_at_work_is_stored_at_once(study):
    entry = Entry(study.ask())
    entry.keep(cost=COST, origin="explore")
    with entry.timed("measure"):
        pass
    entry.keep_point(CurvePoint(1))
    entry.keep_score(CurvePoint(1, 0.25), SCORES)
    (trial,) = study.get_trials()
    record = read(trial)
    assert (record.state, record.cost, record.origin) == ("running", COST, "explore")
    assert record.history == (CurvePoint(1, 0.25),)
    assert set(record.seconds) == {"measure"}
    assert trial.intermediate_values == {1: 0.25}
    entry.keep(cost=None)
    assert read(study.get_trials()[0]).cost is None


def test_a_misspelt_field_is_an_error(study):
    entry = Entry(study.ask())
    with pytest.raises(TypeError, match="orign"):
        entry.keep(orign="explore")
    assert "orign" not in study.get_trials()[0].user_attrs


def test_what_cannot_be_a_record_names_the_trial_and_the_place(study):
    trial = study.ask()
    trial.set_user_attr("history", [{"epoch": "third", "objective": 0.5}])
    with pytest.raises(InputError, match=r"^trial 0: history: epoch: .*'third'"):
        read(study.get_trials()[0])


def test_progress_changes_with_what_a_person_sees(study):
    entry = Entry(study.ask())
    marks = [progress(study.get_trials()[0])]
    for change in ({"history": (CurvePoint(1),)}, {"paused": 1}, {"crashes": ("killed",)}):
        entry.keep(**change)
        marks.append(progress(study.get_trials()[0]))
    entry.keep(origin="explore")
    assert len(set(marks)) == 4
    assert progress(study.get_trials()[0]) == marks[-1]


def test_no_other_file_knows_the_keys():
    package = Path(__file__).resolve().parents[2] / "flaxyolo"
    listed = subprocess.run(
        [
            "grep",
            "-rnE",
            r"trial\.(user_attrs|set_user_attr)|_user_attr\(|user_attrs=\{",
            str(package),
        ],
        capture_output=True,
        text=True,
    )
    allowed = (
        "crew/record.py",
        "crew/custody.py",
        "crew/optuna_inside.py",
        # What a person reads of a network; nothing is read back.
        "trials/published.py",
        "study.set_user_attr(",
    )
    found = [line for line in listed.stdout.splitlines() if ".py:" in line]
    assert [line for line in found if not any(part in line for part in allowed)] == []
    assert any("crew/record.py" in line for line in found)


def test_who_has_a_trial_is_stored_and_read_back(study):
    trial = study.ask()
    assert custody(trial) == Custody()
    hold = Hold(at=5.0, token="t", worker="w", host="h", lock="/l")
    keep_custody(study, trial, lease=hold, crashes=("killed",), beat=7.0)
    (stored,) = study.get_trials()
    assert custody(stored) == Custody(lease=hold, beat=7.0, crashes=("killed",))
    assert read(stored).crashes == ("killed",)
    assert json.loads(json.dumps(stored.user_attrs)) == stored.user_attrs
    with pytest.raises(TypeError, match="leese"):
        keep_custody(study, trial, leese=hold)


def test_an_epoch_holds_only_what_is_known_of_it():
    assert set(CurvePoint(1, loss={"box": 1.0}).to_dict()) == {"epoch", "loss", "epoch_seconds"}
    scored = CurvePoint(1, 0.5).to_dict()
    assert scored["map"] is None
    assert not {"objective_se", "val_loss"} & set(scored)
    assert CurvePoint(1, 0.5, val_loss=2.0).to_dict()["val_loss"] == 2.0
