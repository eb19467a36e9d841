import ast
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

import flaxyolo
from flaxyolo.crew.databases import close, open_journal, open_url
from flaxyolo.crew.optuna_inside import (
    begin,
    begun,
    latest,
    numbered,
    set_attr,
    set_state,
    uncached,
)

PUBLIC = ("_asdict", "_fields", "_replace")
"""Of every NamedTuple."""


@pytest.fixture(params=["journal", "sqlite"])
def views(request, tmp_path):
    """A study with three trials that wait, as two processes see it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def view():
        journal = request.param == "journal"
        url = f"sqlite:///{tmp_path}/study.db"
        storage = open_journal(tmp_path / "study.log") if journal else open_url(url)
        storages.append(storage)
        return optuna.create_study(storage=storage, study_name="a", load_if_exists=True)

    storages = []
    first, second = view(), view()
    for number in range(3):
        first.enqueue_trial({"x": number})
    yield first, second
    for storage in storages:
        close(storage)


def test_one_of_two_begins_a_trial_and_runs_it(views):
    first, second = views
    known = numbered(first, 1)
    assert begin(first, known)
    assert not begin(second, numbered(second, 1))
    trial = begun(first, known)
    assert (trial.number, trial.suggest_int("x", 0, 9)) == (1, 1)
    first.tell(trial, 2.0)
    assert not begin(second, known)
    assert [trial.state for trial in second.get_trials()] == [
        TrialState.WAITING, TrialState.COMPLETE, TrialState.WAITING
    ]  # fmt: skip


def test_a_trial_is_set_back_by_another_than_its_holder(views):
    first, second = views
    before = numbered(first, 0)
    assert begin(first, before)
    trial = begun(first, before)
    set_attr(second, latest(second, trial), "interruptions", 1)
    set_state(second, before, TrialState.WAITING)
    now = latest(first, trial)
    assert (before.user_attrs, now.user_attrs) == ({}, {"interruptions": 1})
    assert now.state == TrialState.WAITING
    assert begin(second, now)
    # The first had it once.
    assert not begin(first, before)


def test_a_finished_trial_is_changed_no_more(views):
    first, second = views
    known = numbered(first, 0)
    assert begin(first, known)
    first.tell(begun(first, known), 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        set_state(second, known, TrialState.WAITING)
    with pytest.raises(UpdateFinishedTrialError):
        set_attr(second, known, "beat", 1.0)


def test_one_trial_is_looked_at_without_reading_all(views, monkeypatch):
    study = views[0]
    monkeypatch.delattr(type(study), "get_trials")
    monkeypatch.setattr(type(study._storage), "get_all_trials", None)
    known = numbered(study, 2)
    assert latest(study, known).number == 2


def test_a_database_is_found_behind_its_cache(tmp_path):
    storage = open_url(f"sqlite:///{tmp_path}/study.db")
    database = uncached(storage)
    assert isinstance(database, RDBStorage)
    assert uncached(database) is database
    journal = open_journal(tmp_path / "study.log")
    assert uncached(journal) is journal
    close(storage)


def private_names(path: Path) -> list[str]:
    """Private names of others that a file uses."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls" | "os")):
                continue
            case ast.Attribute(attr=name):
                names.append(name)
            case ast.Call(func=ast.Name("getattr"), args=[_, ast.Constant(str(name)), *_]):
                names.append(name)
            case ast.ImportFrom(module=str(module)) if module.startswith("optuna"):
                names += [*module.split("."), *(alias.name for alias in node.names)]
    return [name for name in names if name.startswith("_") and not name.startswith("__")
            and name not in PUBLIC]  # fmt: skip


def test_no_other_file_of_the_package_uses_what_optuna_keeps_private():
    package = Path(flaxyolo.__file__).parent
    users = {
        str(path.relative_to(package)): names
        for path in package.rglob("*.py")
        if "optuna" in path.read_text(encoding="utf-8") and (names := private_names(path))
    }
    assert list(users) == ["crew/optuna_inside.py"]
    assert {"_storage", "_trial_id", "_study_id", "_replay_result", "_backend"} <= set(
        users["crew/optuna_inside.py"]
    )
