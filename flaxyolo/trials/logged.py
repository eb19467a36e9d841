"""Trainings of a sweep for loggers: a run for each, with the names that a single training has."""

from collections.abc import Mapping, Sequence
from typing import Any

from flaxyolo.config import TrainConfig
from flaxyolo.crew.record import FINAL, CurvePoint, Record
from flaxyolo.search.setting import Sweep
from flaxyolo.training.follow import Followers
from flaxyolo.training.metrics import VAL, VAL_LOSS, epoch_metrics
from flaxyolo.trials.published import cost_figures


def follow(logs: Followers, records: Sequence[Record], sweep: Sweep, *, shared: bool) -> None:
    """Give the loggers what they do not have of the trainings of a study.

    Where many machines share it, each logs what was trained under its own folder; of those that
    have one folder, the first logs for all.
    """
    if not logs.kinds:
        return
    for record in records:
        if logs.is_over(str(record.number)):
            continue
        if record.duplicate_of is not None or _copied(record, records) or _not_begun(record):
            continue
        if shared and (record.run is None or not (sweep.runs / record.run).is_dir()):
            continue
        logs.follow(
            str(record.number),
            rows(record, sweep),
            settings(record, sweep),
            name=f"{sweep.folder.name} {name(record).replace('-', ' ')}",
            part=name(record),
            figures=figures(record) if record.is_over else None,
        )


def name(record: Record) -> str:
    """Of a training: `trial-3`, or `trial-3-seed-0` of a finalist's."""
    return f"trial-{record.trial}" + (f"-seed-{record.seed}" if record.stage == FINAL else "")


def rows(record: Record, sweep: Sweep) -> list[tuple[int, dict[str, float]]]:
    """The epochs that were scored, with their figures."""
    spec = record.spec
    if spec is None:
        return []
    config = _training(record, sweep)
    images = len(sweep.data.train)
    found = []
    for point in record.history:
        known = {**point.loss, **_scores(point, record)}
        metrics = epoch_metrics(point.epoch, known, point.epoch_seconds, spec, config, images)
        more = {VAL_LOSS: point.val_loss, f"{VAL}objective": point.objective}
        metrics |= {key: value for key, value in more.items() if value is not None}
        found.append((point.epoch, metrics))
    return found


def figures(record: Record) -> dict[str, float]:
    """What is known of a training as a whole: what its network costs, by the study's names."""
    return {} if record.cost is None else cost_figures(record.cost)


def settings(record: Record, sweep: Sweep) -> dict[str, Any]:
    """What a training is: where it comes from, its parameters, and its network."""
    told = {
        "study": sweep.folder.name,
        "data": sweep.source,
        "budget": sweep.budget.describe(),
        "objective": sweep.objective.text,
        "trial": record.trial,
        "stage": record.stage,
        "seed": record.seed,
        "origin": record.origin,
        "inherited": record.inherited,
        "training": _training(record, sweep),
        "params": dict(record.params),
        "spec": record.spec,
    }
    return {key: value for key, value in told.items() if value is not None}


def _training(record: Record, sweep: Sweep) -> TrainConfig:
    return sweep.full(record.seed or 0) if record.stage == FINAL else sweep.short


def _scores(point: CurvePoint, record: Record) -> Mapping[str, float | None]:
    """All of COCO's numbers of the last point; of those before only two are kept."""
    if point is record.history[-1] and record.scores is not None:
        return {key: value for key, value in vars(record.scores).items() if key != "per_class"}
    return {"map": point.map, "map_50": point.map_50}


def _copied(record: Record, records: Sequence[Record]) -> bool:
    """Whether it is the candidate's own run once more, which counts as a finalist's too."""
    if record.stage != FINAL or record.finalist is None or record.run is None:
        return False
    return record.run == records[record.finalist].run


def _not_begun(record: Record) -> bool:
    return not record.history and (record.cost is None or not record.is_over)
