"""Trains networks of a space from scratch, and keeps what each had after every epoch.

Networks are drawn so that the table of blocks expects most of them in the band under a latency
budget, and one in OUTSIDE_EACH anywhere else up to the budget and a half. Each is measured, and
trained as a sweep trains; with `--inherit EPOCHS` all but the first are also trained for so many
from the weights of the first, which is kept beside the file, as a sweep has its networks begin (the
curve `inherited`). The file has a line of JSON for the settings and one for each network;
the same command goes on with the next network, whatever became of the last. Training small
networks hardly uses a second core: several commands may fill one file, each with its own
`--numbers`, once the first network is there.
"""

import argparse
import io
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from flaxyolo.config import TrainConfig
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import compiled_network, measure
from flaxyolo.cost.measurement import Measurement, device_name, versions
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.crew.phases import Prepared, prepared
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.nn.detector import TrainedDetector, Weights
from flaxyolo.scoring.average_precision import KEYS, evaluated, scores_of
from flaxyolo.scoring.detect import run_detector
from flaxyolo.scoring.resamples import matched_by_size
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.ranges import screened_ranges
from flaxyolo.search.screen import Judged, draw, judge
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import Ranges, image_sizes_for, load_space, with_ranges
from flaxyolo.spec import detector_from_dict, parse, to_dict
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.loop import DivergedError, train
from flaxyolo.training.validation import validation_loss, weighted_sum
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source

log = logging.getLogger("make_table")

BAND = (0.7, 1.0)
"""Of the budget, in expected milliseconds (p95)."""
OUTSIDE_EACH = 4
"""One in so many networks lies outside the band."""
SLOWEST = 1.5
"""Of the budget, up to which networks outside the band are taken."""
POOL = 300
"""Specs that are drawn to choose one from."""
FILL = 45
"""Pieces for the table of blocks, once in a run of this command."""
DIGITS = 6
"""Of a number in the file."""


class File:
    """The lines of a table: settings, then networks; several processes may add to it."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.lock = FileLock(f"{path}.lock")
        with self.lock:
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            # A line that was being written when the command was killed has no end.
            whole = [line for line in lines if line.endswith(b"\n")]
            if not whole:
                path.write_text("")
                self._append(settings)
            elif json.loads(whole[0]) != settings:
                raise SystemExit(
                    f"{path}: expected the settings {settings}, found {json.loads(whole[0])}"
                )
            elif len(whole) < len(lines):
                path.write_bytes(b"".join(whole))

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """The networks that are there now, by their numbers."""
        with self.lock:
            found = [json.loads(line) for line in self.path.read_text().splitlines()[1:]]
        return {row["number"]: row for row in found}

    def add(self, row: dict[str, Any]) -> None:
        """Append a network."""
        with self.lock:
            self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(rounded(row), separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())


def known_ranges(path: Path) -> Ranges | None:
    """The ranges of the space that a table has been made in; None where there is none yet."""
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        line = file.readline()
    return parse(Ranges, json.loads(line)["ranges"], str(path)) if line.endswith(b"\n") else None


def rounded(value: Any) -> Any:
    """The same with fewer digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def choose(judged: Sequence[Judged], budget_ms: float, number: int) -> tuple[Judged, bool]:
    """The network of this number, and whether it is expected in the band."""
    share = np.array([one.latency.p95_ms for one in judged]) / budget_ms
    band = (share >= BAND[0]) & (share <= BAND[1])
    inside = bool(number % OUTSIDE_EACH != OUTSIDE_EACH - 1 and band.any())
    places = np.flatnonzero(band if inside else ~band & (share <= SLOWEST))
    if not len(places):
        raise SystemExit(f"no network of the space is expected under {SLOWEST * budget_ms:g} ms")
    # They come at random, so the first is as good as any.
    return judged[places[0]], inside


def curve(
    ready: Prepared,
    config: TrainConfig,
    objective: Objective,
    score_at: Sequence[int],
    initial: Weights | None = None,
    keep: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """What every epoch of a training leaves; scores after those of `score_at`.

    The detector of the last one is saved where `keep` says.
    """
    names = ready.data.class_names
    for epoch in train(ready.spec, ready.feed, names, config, initial=initial):
        if keep is not None and epoch.number == config.epochs:
            save_detector(keep, epoch.detector, {})
        point = {
            "epoch": epoch.number,
            "loss": weighted_sum(epoch.loss, config),
            **{name: float(value) for name, value in epoch.loss._asdict().items()},
            "train_s": epoch.seconds,
        }
        if not score_at or epoch.number in score_at or epoch.number == config.epochs:
            point |= scores_at(epoch.detector, ready, config, objective)
        yield point


def scores_at(
    detector: TrainedDetector, ready: Prepared, config: TrainConfig, objective: Objective
) -> dict[str, Any]:
    """Everything that a rung may be decided by."""
    began, data = time.perf_counter(), ready.data
    truth = ground_truth(data.val, data.class_names, data.category_ids)
    evaluator = evaluated(truth, run_detector(detector, data.val, ready.val))
    scores = scores_of(truth, evaluator)
    scored = time.perf_counter()
    network = partial(compiled_network(detector.spec), detector.fused)
    loss = validation_loss(network, detector.spec, ready.val, config)
    lost = time.perf_counter()
    return {
        **{key: getattr(scores, key) for key in KEYS},
        "objective": objective.value(scores),
        "objective_se": objective.standard_error(matched_by_size(evaluator)),
        "val_loss": loss,
        "evaluate_s": scored - began,
        "val_loss_s": lost - scored,
    }


def inherited_row(
    ready: Prepared, parent: Source, objective: Objective, epochs: int, seed: int
) -> dict[str, Any]:
    """Train one network with the parent's weights, as a sweep does, scored after every epoch."""
    began, data = time.perf_counter(), ready.data
    config = sweep_training(epochs, mirror=data.mirror, seed=seed)
    begun = begun_from(parent, ready.spec, seed, data.class_names)
    row: dict[str, Any] = {"share": begun.share}
    weights = begun.weights
    if (task := to_mend(ready.spec, parent, begun)) is not None:
        fit = mend(task, ready.feed, config, parent, begun)
        weights, row["mended"] = fit.weights, fit.after
    row["mend_s"] = time.perf_counter() - began
    row["curve"] = []
    try:
        for point in curve(ready, config, objective, (), weights):
            row["curve"].append(point)
    except DivergedError as error:
        row["failed"] = str(error)
    return row


def network_row(
    judged: Judged,
    data: Dataset,
    objective: Objective,
    epochs: int,
    seed: int,
    at: Sequence[int],
    keep: Path | None = None,
) -> dict[str, Any]:
    """Measure and train one network; where the loss diverges, `failed` says so."""
    ready = prepared(judged.spec, data, "auto")
    began = time.perf_counter()
    cost = measure(judged.spec, images=ready.shown)
    row: dict[str, Any] = {
        "predicted_ms": judged.latency.p95_ms,
        "params": judged.params,
        "spec": to_dict(judged.spec),
        "cost": cost.to_dict(),
        "measure_s": time.perf_counter() - began,
        "curve": [],
    }
    config = sweep_training(epochs, mirror=data.mirror, seed=seed)
    try:
        for point in curve(ready, config, objective, at, keep=keep):
            row["curve"].append(point)
    except DivergedError as error:
        row["failed"] = str(error)
    return row | {"seconds": time.perf_counter() - began}


def main() -> None:
    """Train as many networks as are wanted, or as the time allows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", type=Path, help="a file of sweeps/ instead of the default space")
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--numbers", type=int, nargs=2, metavar=("FIRST", "END"),
                        help="only those before END (all of --networks)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--score-at", type=int, nargs="+", help="epochs (every one)", default=())
    parser.add_argument("--inherit", type=int, metavar="EPOCHS", help="also from the first's")
    parser.add_argument("--budget-ms", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0, help="of the draws and of the training")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin none after so long")
    parser.add_argument("--fill", type=int, default=FILL, help="pieces for table of blocks")
    parser.add_argument("--json", type=Path, required=True, help="the file, a line for each")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    end = time.monotonic() + 60 * arguments.minutes
    data, space = read_dataset(arguments.data), load_space(arguments.space)
    longest = max(max(one.height, one.width) for one in data.train)
    table, classes = LatencyTable.open(), len(data.class_names)
    ranges = known_ranges(arguments.json)
    if ranges is None:
        sizes, budget = image_sizes_for(longest), Budget(arguments.budget_ms)
        ranges = screened_ranges(space, sizes, budget, table, classes=classes)
    suggest = with_ranges(space, ranges)
    objective = supported(support(data.val))
    settings = {
        "what": "networks of a space, trained from scratch",
        "data": data.name,
        "fingerprint": data.fingerprint,
        "space": "default" if arguments.space is None else str(arguments.space),
        "epochs": arguments.epochs,
        "score_at": list(arguments.score_at),
        "budget_ms": arguments.budget_ms,
        "objective": objective.text,
        "ranges": to_dict(ranges),
        "seed": arguments.seed,
        "device": device_name(),
        "versions": versions(),
        # Tables made before have no such entry.
        **({"inherit": arguments.inherit} if arguments.inherit else {}),
    }
    parent = arguments.json.with_suffix(".parent") if arguments.inherit else None
    file, filled = File(arguments.json, settings), False
    for number in range(*(arguments.numbers or (0, arguments.networks))):
        rows = file.rows
        if number in rows:
            continue
        if time.monotonic() >= end:
            break
        tried = {detector_from_dict(row["spec"]) for row in rows.values()}
        finish = partial(replace, num_classes=classes)
        pool = draw(suggest, POOL, 1009 * arguments.seed + number, finish=finish).drawn
        pool = [one for one in pool if one.spec not in tried]
        if not filled:
            table.fill([one.spec for one in pool], arguments.fill)
            filled = True
        judged, inside = choose(judge(pool, table, counts=False), arguments.budget_ms, number)
        row = network_row(
            judged, data, objective, arguments.epochs, arguments.seed, arguments.score_at,
            None if number else parent,
        )  # fmt: skip
        if parent is not None and number:
            ready = prepared(judged.spec, data, "auto")
            row["inherited"] = inherited_row(
                ready, read_source(parent), objective, arguments.inherit, arguments.seed
            )
        file.add({"number": number, "in_band": inside, **row})
        table.add_network(judged.spec, Measurement.from_dict(row["cost"]))
        table.save()
        last = row["curve"][-1] if row["curve"] else {}
        log.info(
            "%d of %d: %d px, %.2f ms (%.2f expected), objective %.3f, %.0f s",
            number + 1,
            arguments.networks,
            judged.spec.image_size,
            row["cost"]["latency_ms_p95"],
            row["predicted_ms"],
            last.get("objective") or 0.0,
            row["seconds"],
        )


if __name__ == "__main__":
    main()
