"""The records of a study, as its storage holds them."""

from dataclasses import replace

import optuna

from flaxyolo.crew.record import FINAL, Record, read

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
    return records


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each parameter mattered (PED-ANOVA, sum 1), most first; empty for few trials."""
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}
    return optuna.importance.get_param_importances(study)
