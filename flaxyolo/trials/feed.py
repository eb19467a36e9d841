"""A study for optuna-dashboard: a copy in memory, with a note and pictures for its trials.

The study's own file is read and never written to: what a person does in the page ends with it, and
a sweep goes on beside it. The copy is made anew whenever the sweep has got further.
"""

import time
from collections.abc import Hashable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.crew.alive import SILENCE_SECONDS, is_free
from flaxyolo.crew.custody import custody
from flaxyolo.crew.databases import answering
from flaxyolo.crew.optuna_inside import begun, take_over
from flaxyolo.crew.storage import RUNS, read_runs
from flaxyolo.crew.supervise import state_of
from flaxyolo.search.objective import DEFAULT, Objective
from flaxyolo.search.results import importances, results
from flaxyolo.trials.networks import Network
from flaxyolo.trials.notes import mattered, study_note, trial_note
from flaxyolo.trials.published import describe, wanted
from flaxyolo.trials.standings import Standings

FRONT = "pareto.png"
SEEN = "detections.png"


class Feed:
    """The copy of a study that a dashboard shows; `store` has its pictures, under `pictures`.

    InputError where the folder holds no study of a sweep.
    """

    def __init__(self, folder: Path, pictures: Path, storage: str | None = None):
        self.folder, self.url = folder, storage
        self.runs = read_runs(folder, storage)
        if "budget" not in self.runs.user_attrs.get("facts", {}):
            raise InputError(
                f"{folder}: expected the study of a sweep, found one without a budget; "
                "name a folder that python -m flaxyolo.sweep has made"
            )
        self.storage = InMemoryStorage()
        self.store = FileSystemArtifactStore(pictures)
        self.known: tuple[Hashable, ...] | None = None
        self.kept: list[str] = []

    @property
    def name(self) -> str:
        """Of the study."""
        return self.runs.study_name.removesuffix(RUNS)

    def refresh(self) -> bool:
        """Make the copy anew if the sweep has got further since; whether it had."""
        with answering(self.url):
            return self._refresh()

    def _refresh(self) -> bool:
        working = at_work(self.runs, self.folder)
        state = (working, self._pictures(), *state_of(self.runs))
        if state == self.known:
            return False
        before = self.kept
        fresh, self.kept = self._copied(working)
        take_over(self.storage, fresh)
        for artifact in before:
            self.store.remove(artifact)
        self.known = state
        return True

    def _pictures(self) -> tuple[Hashable, ...]:
        """What changes with the pictures in the study's folder."""
        paths = [self.folder / name for name in (FRONT, SEEN)]
        return tuple(path.stat().st_mtime_ns if path.exists() else None for path in paths)

    def _copied(self, working: bool) -> tuple[InMemoryStorage, list[str]]:
        """The study as it is now, and the artifacts that it has."""
        from optuna_dashboard import save_note
        from optuna_dashboard.artifact import get_artifact_path

        standings = standings_of(self.runs)
        memory = InMemoryStorage()
        # One that draws nothing: trials are only looked at.
        study = optuna.create_study(
            study_name=self.name,
            storage=memory,
            direction="maximize",
            sampler=optuna.samplers.RandomSampler(),
        )
        describe(study, self.runs, standings)
        artifacts, front_line = [], ""
        note = study_note(standings, self.runs.user_attrs["facts"].get("source", ""))
        if (front := self.folder / FRONT).exists():
            kept = upload_artifact(
                artifact_store=self.store, file_path=str(front), study_or_trial=study
            )
            artifacts.append(kept)
            front_line = f"\n![accuracy against latency]({get_artifact_path(study, kept)})\n"
        drawn = self.runs.get_trials(deepcopy=False)
        best = None if standings.best is None else standings.best.trial
        trials = wanted(self.runs, standings, not working)
        for network, trial in zip(standings.networks, trials, strict=False):
            for_viewers(trial, drawn[network.candidate.number], working)
            seen = self.folder / SEEN
            picture = None
            if network.number == best and seen.exists():
                picture, attributes = self._attached(seen)
                trial.system_attrs = {**trial.system_attrs, **attributes}
                artifacts.append(picture)
            study.add_trial(trial)
            self._tell(study, network, standings, picture)
        save_note(study, f"{note}{mattered(importances(study))}{front_line}")
        return memory, artifacts

    def _attached(self, path: Path) -> tuple[str, dict[str, Any]]:
        """Store a picture for a trial that is finished, and so takes none any more; its name and
        what the trial needs to hold it."""
        study = optuna.create_study(storage=InMemoryStorage())
        kept = upload_artifact(
            artifact_store=self.store, file_path=str(path), study_or_trial=study.ask()
        )
        return kept, study.get_trials(deepcopy=False)[0].system_attrs

    def _tell(
        self, study: optuna.Study, network: Network, standings: Standings, picture: str | None
    ) -> None:
        from optuna_dashboard import save_note
        from optuna_dashboard.artifact import get_artifact_path

        trial = begun(study, study.get_trials(deepcopy=False)[-1])
        note = trial_note(network, standings)
        if picture is not None:
            note += f"\n![what it detects]({get_artifact_path(trial, picture)})\n"
        save_note(trial, note)


def standings_of(runs: optuna.Study) -> Standings:
    """Who leads in a study, by the budget and the objective that it was begun with."""
    facts = runs.user_attrs["facts"]
    budget = Budget.from_dict(facts["budget"], runs.study_name)
    return Standings(results(runs), budget, Objective(facts.get("objective") or DEFAULT))


def at_work(runs: optuna.Study, folder: Path) -> bool:
    """Whether a sweep is adding to the study now, here or on another machine."""
    if any(is_free(path) is False for path in folder.glob(".lock-*")):
        return True
    states = (TrialState.RUNNING, TrialState.WAITING)
    trials = runs.get_trials(deepcopy=False, states=states)
    heard = max((custody(trial).beat for trial in trials), default=0.0)
    return time.time() - heard < SILENCE_SECONDS


def for_viewers(trial: FrozenTrial, source: FrozenTrial, working: bool) -> None:
    """Change a trial, which is to be published, for those who only look at it.

    Plots of values take pruned trials in, though theirs are those of shorter runs: only complete
    ones keep a value. What waits for the next command runs on in the study; while there is none it
    has stopped here, so that a time line ends when it did.
    """
    if trial.state == TrialState.RUNNING and not working:
        trial.state = TrialState.PRUNED
        began = trial.datetime_start
        heard = custody(source).beat
        spent = sum(source.user_attrs.get("seconds", {}).values())
        ended = heard or (began.timestamp() + spent if began else time.time())
        trial.datetime_complete = datetime.fromtimestamp(ended)
    if trial.state == TrialState.PRUNED:
        trial.values = None
