"""Studies whose trials are held, by the living and the dead."""

from dataclasses import replace

import optuna

from flaxyolo.crew.alive import workers_folder
from flaxyolo.crew.custody import custody, keep_custody
from flaxyolo.crew.databases import open_journal
from flaxyolo.crew.leases import at_work, claim


def open_view(tmp_path):
    return optuna.create_study(
        storage=open_journal(tmp_path / "study.log"), study_name="a", load_if_exists=True
    )


def state(study, number=0):
    return study.get_trials()[number].state


def attrs(study, number=0):
    return study.get_trials()[number].user_attrs


def dead_holder(tmp_path, *, host=None, at=None, parent=None, number=0):
    """Let a trial be held by a worker that is no more."""
    study = open_view(tmp_path)
    with at_work(tmp_path) as worker:
        lease = claim(study, number, worker)
        assert lease is not None
        known = custody(study.get_trials()[number]).lease
    lock = workers_folder(tmp_path) / "gone.lock"
    lock.touch()
    hold = replace(
        known,
        lock=str(lock),
        parent=parent and str(parent),
        host=host or known.host,
        at=known.at if at is None else at,
    )
    keep_custody(study, lease.trial, lease=hold)
    return lease
