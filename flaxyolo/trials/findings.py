"""Everything that the page of a study tells, gathered from its folder and its storage."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from flaxyolo.base.errors import InputError
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.databases import answering
from flaxyolo.crew.record import FINAL, Record
from flaxyolo.crew.storage import read_runs, read_study
from flaxyolo.scoring.confusion import Confusion
from flaxyolo.scoring.curves import Curves
from flaxyolo.scoring.error_kinds import ErrorKinds
from flaxyolo.scoring.mistakes import Mistake, mistakes_from
from flaxyolo.search.advised import Verdict, verdicts
from flaxyolo.search.finalists import verdict
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import Importance, importances, results
from flaxyolo.trials.account import funnel_line, inside_line
from flaxyolo.trials.conditions import Conditions, conditions
from flaxyolo.trials.confirm import confirmed_cost
from flaxyolo.trials.networks import Network
from flaxyolo.trials.outputs import PICTURE
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.trial import CURVES_FILE, ERRORS_FILE, MISTAKES_FILE

FEW = 3
"""Networks that are compared where none was trained as a finalist."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known of a study; None or empty is what is not, which `missing` says in words."""

    name: str
    facts: Mapping[str, Any]
    """What the study is about, as its sweep has stored it."""
    standings: Standings
    compared: tuple[Network, ...]
    """Finalists and controls, best first."""
    cost: Measurement | None
    """Of the best, as it was measured last."""
    confirmed: bool
    """Whether that was in a fresh process."""
    importance: Importance | None
    conditions: Conditions | None
    verdicts: tuple[Verdict, ...]
    told: tuple[str, ...]
    """How the search went, and how sure the first place is."""
    errors: ErrorKinds | None
    confusion: Confusion | None
    curves: Curves | None
    mistakes: tuple[Mistake, ...]
    picture: bytes | None
    """A PNG of what the best finds."""
    intervals: Mapping[str, Curves]
    """Of the runs of what is compared, by the name of their folder."""
    missing: tuple[str, ...]

    @property
    def best(self) -> Network | None:
        """The network of the best run."""
        best = self.standings.best
        found = (each for each in self.standings.networks if best and each.number == best.trial)
        return next(found, None)


def read_findings(folder: Path, storage: str | None = None) -> Findings:
    """Those of a study's folder; InputError where it holds no sweep."""
    with answering(storage):
        runs = read_runs(folder, storage)
        seen = read_study(folder, storage)
        return gathered(folder, runs, None if "facts" in seen.user_attrs else seen)


def gathered(folder: Path, runs: optuna.Study, seen: optuna.Study | None) -> Findings:
    """Of the study of the runs, and of the one that a person sees; studies of old have none."""
    facts: Mapping[str, Any] = runs.user_attrs.get("facts", {})
    if "budget" not in facts or "objective" not in facts:
        raise InputError(
            f"{folder}: expected the study of a sweep, found another one, without a budget; "
            "name a folder that python -m flaxyolo.sweep has made"
        )
    standings = Standings(
        results(runs), Budget.from_dict(facts["budget"]), Objective(facts["objective"])
    )
    best, found = standings.best, standings.records
    files = _Files(folder, best)
    compared = _compared(standings)
    again = None if best is None else confirmed_cost(runs, best.number)
    stored = files.errors()
    made = conditions(runs)
    funnel = [] if made is None else [funnel_line(found, made.spending)]
    sure = [] if standings.nothing_learnt else verdict(standings.finalists)
    findings = Findings(
        name=folder.name,
        facts=facts,
        standings=standings,
        compared=compared,
        cost=again or (None if best is None else best.cost),
        confirmed=again is not None,
        importance=None if seen is None else importances(seen),
        conditions=made,
        verdicts=tuple(verdicts(found, standings.objective)),
        told=tuple(line for line in (*sure, *funnel, inside_line(found)) if line),
        errors=stored and stored[0],
        confusion=stored and stored[1],
        curves=files.curves(),
        mistakes=files.mistakes(),
        picture=files.picture(),
        intervals=_intervals(folder, compared),
        missing=(),
    )
    return _with_missing(findings)


def _compared(standings: Standings) -> tuple[Network, ...]:
    known = [each for each in standings.ranked if each.scores]
    final = [each for each in known if each.standing is not None or (each.control and each.runs)]
    return tuple(final or known[:FEW])


def _intervals(folder: Path, compared: Sequence[Network]) -> dict[str, Curves]:
    names = {run.run for network in compared for run in network.scored if run.run}
    found = {name: _read(folder / "trials" / name / CURVES_FILE) for name in sorted(names)}
    return {
        name: Curves.from_dict(data, str(folder / "trials" / name / CURVES_FILE))
        for name, data in found.items()
        if data is not None
    }


class _Files:
    """What lies in a study's folder about its best run: in that of the run, or beside the study."""

    def __init__(self, folder: Path, best: Record | None):
        self.folder, self.best = folder, best

    def errors(self) -> tuple[ErrorKinds, Confusion] | None:
        path = self._path(ERRORS_FILE)
        data = _read(path)
        if data is None:
            return None
        if not isinstance(data, dict) or not {"errors", "confusion"} <= data.keys():
            raise InputError(
                f"{path}: expected errors and confusion, as a sweep writes them, found something "
                "else; remove the file, and the page does without"
            )
        kinds = ErrorKinds.from_dict(data["errors"], f"{path}: errors")
        return kinds, Confusion.from_dict(data["confusion"], f"{path}: confusion")

    def curves(self) -> Curves | None:
        path = self._path(CURVES_FILE)
        data = _read(path)
        return None if data is None else Curves.from_dict(data, str(path))

    def mistakes(self) -> tuple[Mistake, ...]:
        path = self._path(MISTAKES_FILE)
        data = _read(path)
        return () if data is None else mistakes_from(data, str(path))

    def picture(self) -> bytes | None:
        path = self.folder / PICTURE
        return path.read_bytes() if self.best is not None and path.is_file() else None

    def _path(self, name: str) -> Path | None:
        if self.best is None or self.best.run is None:
            return None
        own = self.folder / "trials" / self.best.run / name
        return own if own.is_file() else self.folder / name


def _read(path: Path | None) -> Any:
    """What a JSON file holds; None where there is none."""
    if path is None or not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path}: expected JSON, as a sweep writes it, found something else ({error}); remove "
            "the file, and the page does without"
        ) from None


def _with_missing(found: Findings) -> Findings:
    """Say what an older study, or one without a best detector, does not hold."""
    best = found.standings.best
    absent = {
        "the command, the versions of other packages, the plan and the reasons of the advice: they "
        "were not stored when this study was made": found.conditions is None,
        "which parameters mattered: the study has no trial for each network yet":
            found.importance is None,
    }  # fmt: skip
    if best is not None:
        one_seed = all(network.half_width is None for network in found.compared)
        begun = best.inherited is None or best.begun
        absent |= {
            "kinds of errors and the confusion matrix: no errors.json of the best run":
                found.errors is None,
            "precision against recall: no curves.json of the best run": found.curves is None,
            "pictures of errors: no mistakes.json of the best run": not found.mistakes,
            "what the best finds in images: no detections.png": found.picture is None,
            "intervals of mAP by size: no curves.json of these runs": not found.intervals,
            "the spread over seeds: each network was trained with one": one_seed,
            "shares of copied, sliced, grown and fresh layers: they were not stored": not begun,
            "full runs, of finalists and controls: there are none yet": not any(
                each.stage == FINAL for each in found.standings.records
            ),
        }  # fmt: skip
    told = tuple(line for line, missing in absent.items() if missing)
    return replace(found, missing=told)
