"""The records of a study, as its storage holds them."""

from dataclasses import replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import optuna
from optuna.trial import FrozenTrial, create_trial

from flaxyolo.crew.record import CHEAP, FINAL, Record, read

CONFIRMED = "confirmed"
"""Attribute of a study: what fresh processes measured of winners, by the trial's number."""

NO_DRAWS = "no_draws"
"""Attribute of a published study: the trials whose parameters do not make their network."""

MIN_TRIALS_FOR_IMPORTANCE = 4
"""Networks below which an importance of parameters is noise."""


_READ: WeakKeyDictionary[optuna.Study, dict[int, tuple[FrozenTrial, Record]]] = WeakKeyDictionary()
"""Records by number, with what they were read from."""


def read_records(study: optuna.Study) -> list[tuple[FrozenTrial, Record]]:
    """The trials of a study, each with its record as it is stored.

    Only what has changed is read: storages give another object for a trial that was written to.
    """
    before = _READ.setdefault(study, {})
    for trial in study.get_trials(deepcopy=False):
        known = before.get(trial.number)
        if known is None or known[0] is not trial:
            before[trial.number] = trial, read(trial)
    return [before[number] for number in sorted(before)]


def results(study: optuna.Study) -> list[Record]:
    """All trials of a study, by number; the storage is their only source."""
    known = study.user_attrs.get(CONFIRMED, {})
    refuted = {int(number) for number, again in known.items() if not again["inside"]}
    records = [
        replace(record, refuted=True) if record.number in refuted else record
        for _, record in read_records(study)
    ]
    for record in list(records):
        # What was taken to be over the budget by mistake goes on in another trial.
        if record.again is not None and record.duplicate_of is None:
            records[record.again] = replace(records[record.again], duplicate_of=record.number)
    # Two workers may have copied a candidate's run as the same run of a finalist.
    first: dict[tuple[int | None, int | None], int] = {}
    for place, record in enumerate(records):
        if record.stage == FINAL and record.state == "complete" and record.duplicate_of is None:
            number = first.setdefault((record.finalist, record.seed), record.number)
            if number != record.number:
                records[place] = replace(record, duplicate_of=number)
    return _numbered(records)


def _numbered(records: list[Record]) -> list[Record]:
    """The records with the number of their network: candidates count, what is tried twice once."""
    networks: dict[int, int] = {}
    for record in sorted(
        records, key=lambda record: record.number if record.again is None else record.again
    ):
        if record.stage == CHEAP and record.duplicate_of is None:
            networks[record.number] = len(networks)
    # A full run is its candidate's, a candidate that was tried before is the earlier one's.
    owners = [
        record.finalist if record.finalist is not None else record.duplicate_of
        for record in records
    ]
    return [
        replace(record, network=networks.get(record.number if owner is None else owner))
        for record, owner in zip(records, owners, strict=True)
    ]


class Importance(NamedTuple):
    """How much each parameter mattered, most first, and what that is known from."""

    shares: dict[str, float]
    """PED-ANOVA's (arXiv 2304.10255), of sum 1; empty for too few networks."""
    networks: int
    """Networks that were compared."""
    epoch: int | None
    """After which they were, the last that all of them were scored at."""


def importances(study: optuna.Study) -> Importance:
    """How much each parameter mattered, of those that varied among all the networks with a score.

    `study` has one trial for each network. Those that stopped at a rung count too: all are taken
    at the last epoch that they have in common.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values
        and trial.number not in study.user_attrs.get(NO_DRAWS, ())
        and all(excess <= 0 for excess in trial.constraints.values())
    ]
    if not trials:
        return Importance({}, 0, None)
    epochs = set.intersection(*(set(trial.intermediate_values) for trial in trials))
    names = set.intersection(*(set(trial.params) for trial in trials))
    epoch = max(epochs, default=None)
    varied = [name for name in sorted(names) if len({trial.params[name] for trial in trials}) > 1]
    if epoch is None or len(trials) < MIN_TRIALS_FOR_IMPORTANCE or not varied:
        return Importance({}, len(trials), epoch)
    compared = optuna.create_study(direction="maximize")
    for trial in trials:
        compared.add_trial(
            create_trial(
                params={name: trial.params[name] for name in varied},
                distributions={name: trial.distributions[name] for name in varied},
                value=trial.intermediate_values[epoch],
            )
        )
    shares = optuna.importance.get_param_importances(compared, params=varied)
    return Importance(shares, len(trials), epoch)
