"""What a crew needs of Optuna that its public interface does not give: all private names are here.

There, a trial is written to by the process that drew it. Workers go on with trials that others
drew, look at single ones that others hold, and set them back, which every storage can do.
"""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

AnyTrial = optuna.Trial | FrozenTrial

CONSTRAINTS = "constraints"
"""System attribute of a trial, and the beginning of the name of each single one."""


def numbered(study: optuna.Study, number: int) -> FrozenTrial:
    """The trial of this number as it is stored now; `Study.get_trials` would read all of them."""
    storage = study._storage
    return storage.get_trial(
        storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    )


def latest(study: optuna.Study, trial: AnyTrial) -> FrozenTrial:
    """A trial as it is stored now; a `FrozenTrial` stays what it was, a `Trial` hides its state."""
    return study._storage.get_trial(trial._trial_id)


def begin(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Set a trial RUNNING that waits; False where another was faster, or it is finished.

    `Study.ask` begins whichever waits, and draws a new one where none does.
    """
    # The journal takes a trial for this thread's own if it was once, though another now has it.
    replay = getattr(study._storage, "_replay_result", None)
    if replay is not None:
        replay._worker_id_to_owned_trial_id.pop(replay.worker_id, None)
    try:
        return study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
    except UpdateFinishedTrialError:
        return False


def begun(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """A trial that was begun, to be run as if `Study.ask` had given it."""
    return optuna.Trial(study, trial._trial_id)


def set_state(study: optuna.Study, trial: AnyTrial, state: TrialState) -> None:
    """Set any trial's state; UpdateFinishedTrialError where it is finished.

    `Study.tell` only ends a trial, so that it neither waits nor runs again.
    """
    study._storage.set_trial_state_values(trial._trial_id, state)


def set_attr(study: optuna.Study, trial: AnyTrial, key: str, value: Any) -> None:
    """Set a user attribute of any trial; UpdateFinishedTrialError where it is finished.

    `Trial.set_user_attr` needs a `Trial`, and to make one reads the trial and calls the sampler.
    """
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def constrain(trial: AnyTrial, excess: Mapping[str, float], *, listed: bool = False) -> None:
    """Store how far inside (negative) or outside each limit a trial is; the last word counts.

    `Trial.set_constraint` keeps the first, and optuna-dashboard 0.21 reads a list of another name,
    which is added if `listed`. A `FrozenTrial` that no storage has yet is changed itself.
    """
    kept: dict[str, Any] = {f"{CONSTRAINTS}:{name}": share for name, share in excess.items()}
    if listed and excess:
        kept[CONSTRAINTS] = list(excess.values())
    if isinstance(trial, FrozenTrial):
        trial.system_attrs = {**trial.system_attrs, **kept}
        return
    for key, value in kept.items():
        trial.storage.set_trial_system_attr(trial._trial_id, key, value)


def beside(study: optuna.Study, name: str) -> optuna.Study:
    """Open or create another study in the storage of this one, without opening that once more."""
    return optuna.create_study(
        study_name=name,
        storage=study._storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )


def delete(study: optuna.Study) -> None:
    """Remove a study; the public function wants its storage, which a study does not give."""
    optuna.delete_study(study_name=study.study_name, storage=study._storage)


def copy(study: optuna.Study, name: str) -> None:
    """Copy a study beside itself, in its own storage."""
    optuna.copy_study(
        from_study_name=study.study_name,
        from_storage=study._storage,
        to_storage=study._storage,
        to_study_name=name,
    )


def take_over(storage: InMemoryStorage, other: InMemoryStorage) -> None:
    """Let a storage hold what another does, at once for all who read it; the other is done with."""
    with storage._lock:
        vars(storage).update(other.__getstate__())


def uncached(storage: BaseStorage) -> BaseStorage:
    """The database that a storage stands before; other storages themselves.

    `optuna.storages.get_storage` puts a cache before a database, which cannot be closed.
    """
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, BaseStorage) else storage
