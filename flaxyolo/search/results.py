"""The records of a study, as its storage holds them."""

from dataclasses import replace

import optuna

from flaxyolo.crew.record import CHEAP, FINAL, Record, read

CONFIRMED = "confirmed"
"""Attribute of a study: what fresh processes measured of winners, by the trial's number."""

MIN_TRIALS_FOR_IMPORTANCE = 4
"""Complete trials below which an importance of parameters is noise."""


def results(study: optuna.Study) -> list[Record]:
    """All trials of a study, by number; the storage is their only source."""
    known = study.user_attrs.get(CONFIRMED, {})
    refuted = {int(number) for number, again in known.items() if not again["inside"]}
    records = [
        replace(read(trial), refuted=trial.number in refuted)
        for trial in study.get_trials(deepcopy=False)
    ]
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
    for record in records:
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


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each parameter mattered (PED-ANOVA, sum 1), most first; empty for few trials."""
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    return optuna.importance.get_param_importances(study)
