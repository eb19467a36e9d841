"""What earlier studies of the same data have found out, for the surrogate of a new one."""

import logging
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from flaxyolo.base.errors import InputError
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.crew.record import CHEAP, Record
from flaxyolo.crew.storage import STUDY_FILE, read_runs
from flaxyolo.search.features import matrix
from flaxyolo.search.growth import Number
from flaxyolo.search.results import results
from flaxyolo.search.units import Runs

log = logging.getLogger(__name__)


class Scored(NamedTuple):
    """A candidate at a rung: what the surrogate sees of it, score, share of the short schedule."""

    number: int
    features: Mapping[str, float]
    score: float
    """NaN where it is at work and has no score yet."""
    share: float


def scored_candidates(
    found: Sequence[Record], short_epochs: int, *, unscored: bool = False
) -> list[Scored]:
    """The candidates inside the budget, once for each rung at which they were scored.

    With `unscored` also those that have begun and have no score yet.
    """
    scored = []
    for each in found:
        if (
            each.stage != CHEAP
            or not (seen := each.known_features)
            or each.over_budget
            or each.duplicate_of is not None
        ):
            continue
        scored += [
            Scored(each.number, seen, point.objective, point.epoch / short_epochs)
            for point in each.history
            if point.objective is not None
        ]
        if unscored and not each.history and each.state in ("running", "waiting"):
            scored.append(Scored(each.number, seen, nan, 1.0))
    return scored


def as_runs(scored: Sequence[Scored], features: Float[np.ndarray, "n f"]) -> Runs:
    """Scored candidates as the funnel takes them."""
    return Runs(
        features,
        np.array([each.score for each in scored], float),
        np.array([each.share for each in scored], float),
    )


def in_columns(
    rows: Sequence[Mapping[str, Number]], studies: Sequence[Sequence[Scored]]
) -> tuple[Float[np.ndarray, "n f"], list[Runs]]:
    """Features of candidates, and studies as the funnel takes them, all in the same columns."""
    seen = [each.features for study in studies for each in study]
    _, values = matrix([*rows, *seen])
    runs, place = [], len(rows)
    for study in studies:
        runs.append(as_runs(study, values[place : place + len(study)]))
        place += len(study)
    return values[: len(rows)], runs


def earlier_studies(
    folder: Path,
    fingerprint: str,
    objective: str,
    *,
    inherited: bool = False,
    engine: Engine = JAX_ENGINE,
) -> list[list[Scored]]:
    """The scored candidates of every other study beside `folder` on the same data.

    Only studies with the same objective count, whose networks begin with `inherited` weights or
    with fresh ones as here, and whose latencies are of the same engine; another budget or space
    does not matter.
    """
    wanted = fingerprint, objective, inherited, engine.describe()
    studies = []
    for path in sorted(folder.parent.glob(f"*/{STUDY_FILE}")):
        if path.parent == folder:
            continue
        try:
            study = read_runs(path.parent)
            facts = study.user_attrs.get("facts", {})
            begun = bool(facts.get("init") or facts.get("parent_epochs"))
            kept = facts.get("fingerprint"), facts.get("objective"), begun
            if (*kept, facts.get("engine", JAX_ENGINE.name)) != wanted:
                continue
            scored = scored_candidates(results(study), facts["schedule"]["short_epochs"])
        except (InputError, KeyError, TypeError, ValueError) as error:
            log.info("%s: an earlier study that cannot be read is left out: %s", path.parent, error)
            continue
        if scored:
            log.info("%s: %d results of this earlier study count", path.parent, len(scored))
            studies.append(scored)
    return studies
