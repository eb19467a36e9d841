"""Trains networks of a space from scratch, and keeps what each had after every epoch.

Networks are drawn so that the table of blocks expects them in the bands under the latency budgets,
in turn, and one in OUTSIDE_EACH anywhere else up to the largest budget and a half. Each is trained
as a sweep trains, the first of them with several seeds, which tells how much a seed makes. With
`--inherit EPOCHS` all but the first are also trained for so many from the weights of the first,
which is kept beside the file, as a sweep has its networks begin (the curve `inherited`). With
`--parents N` as well the first N are trained from scratch, and the others, of which two in three
are near it as a sweep proposes them, only with the weights of one of these.

The file grows by a line for each run; the same command goes on with the next, whatever became of
the last. Training small networks hardly uses a second core: several commands may fill one file,
each with its own `--part`. Latencies are measured by a pass of their own, `--measure`, which wants
the machine for itself.
"""

import argparse
import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.trained import CURVES, File, columns, read
from flaxyolo.config import TrainConfig
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import compiled_network, forget_programs, measure
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.cost.table.table import LatencyTable
from flaxyolo.crew.phases import Prepared, prepared
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.nn.detector import TrainedDetector, Weights
from flaxyolo.scoring.average_precision import KEYS, coco_scores
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.detect import run_detector
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.propose import WIDE_EACH
from flaxyolo.search.ranges import screened_ranges
from flaxyolo.search.relatives import relatives
from flaxyolo.search.screen import Finish, Judged, draw, judge, neighbours
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import Ranges, Suggest, image_sizes_for, load_space, with_ranges
from flaxyolo.spec import DetectorSpec, detector_from_dict, parse, to_dict
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.loop import DivergedError, train
from flaxyolo.training.validation import validation_loss, weighted_sum
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source

log = logging.getLogger("make_table")

BAND = (0.7, 1.0)
"""Of the budget, in expected milliseconds (p95)."""
OUTSIDE_EACH = 6
"""One in so many networks lies outside the bands."""
SLOWEST = 1.5
"""Of the largest budget, up to which networks outside the bands are taken."""
POOL = 300
"""Specs that are drawn to choose one from."""
FILL = 45
"""Pieces measured for the table of blocks, once in a run of this command."""
KEPT = ("objective", "objective_se", "map", "map_small", "map_medium", "map_large", "val_loss",
        "loss", "box")  # fmt: skip
"""Of every epoch, in the file."""


def known_ranges(path: Path) -> list[Ranges] | None:
    """The ranges of the space that a table has been made in; None where there is none yet."""
    if not path.exists() or not path.read_bytes().partition(b"\n")[1]:
        return None
    return [parse(Ranges, one, str(path)) for one in read(path).settings["ranges"]]


def inside(number: int) -> bool:
    """Whether the network of this number is one of a band."""
    return number % OUTSIDE_EACH != OUTSIDE_EACH - 1


def choose(judged: Sequence[Judged], budgets: Sequence[float], number: int) -> Judged:
    """The network of this number: in the band of its turn's budget, or outside all of them.

    Where the draws hold none of those, it is the nearest to them in its expected latency.
    """
    expected = np.log([one.latency.p95_ms for one in judged])
    low, high = np.log(np.multiply.outer(BAND, budgets))[:, :, None]
    # How far each is above a band or below it, 0 inside.
    off = np.maximum(np.maximum(expected - high, low - expected), 0.0)
    if inside(number):
        off = off[number % len(budgets)]
    else:
        off = np.maximum(expected - np.log(SLOWEST * max(budgets)), 0.0) + ~np.all(off, axis=0)
    # They come at random, so the first is as good as any.
    return judged[int(off.argmin())]


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
    found = run_detector(detector, data.val, ready.val)
    scores = coco_scores(truth, found)
    scored = time.perf_counter()
    network = partial(compiled_network(detector.spec), detector.fused)
    loss = validation_loss(network, detector.spec, ready.val, config)
    lost = time.perf_counter()
    return {
        **{key: getattr(scores, key) for key in KEYS},
        "objective": objective.value(scores),
        "objective_se": objective.standard_error(matched_by_size(truth, found)),
        "val_loss": loss,
        "evaluate_s": scored - began,
        "val_loss_s": lost - scored,
    }


def inherit(ready: Prepared, parent: Source, config: TrainConfig) -> tuple[Weights, dict[str, Any]]:
    """Weights that a network begins with as in a sweep, and what was done for them."""
    began, seed = time.perf_counter(), config.seed
    begun = begun_from(parent, ready.spec, seed, ready.data.class_names)
    told: dict[str, Any] = {"share": begun.share}
    weights = begun.weights
    if (task := to_mend(ready.spec, parent, begun)) is not None:
        fit = mend(task, ready.feed, config, parent, begun)
        weights, told["mended"] = fit.weights, fit.after
    told["mend_s"] = time.perf_counter() - began
    return weights, told


def inherited_row(
    ready: Prepared, parent: Source, objective: Objective, epochs: int, seed: int
) -> dict[str, Any]:
    """Train one network with the parent's weights, as a sweep does, scored after every epoch."""
    config = sweep_training(epochs, mirror=ready.data.mirror, seed=seed)
    weights, row = inherit(ready, parent, config)
    row["curve"] = []
    try:
        for point in curve(ready, config, objective, (), weights):
            row["curve"].append(point)
    except DivergedError as error:
        row["failed"] = str(error)
    return row


class Work(NamedTuple):
    """What is to be done for a network."""

    number: int
    seed: int


def planned(networks: int, seeded: int, seeds: int, part: tuple[int, int]) -> Iterable[Work]:
    """Every run of a part, seed by seed of a network where it has several.

    Those with several are spread among the others, so that a table half made has some of each
    budget.
    """
    each = max(1, networks // seeded) if seeded else networks + 1
    for number in range(part[0], networks, part[1]):
        again = number // each < seeded and number % each == number // each % max(1, each - 1)
        for seed in range(seeds if again else 1):
            yield Work(number, seed)


def one_curve(
    ready: Prepared,
    config: TrainConfig,
    objective: Objective,
    at: Sequence[int],
    initial: Weights | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Train one network; where the loss diverges, `failed` says so."""
    began, found = time.perf_counter(), []
    told: dict[str, Any] = {}
    try:
        for point in curve(ready, config, objective, at, initial, keep):
            found.append(point)
    except DivergedError as error:
        told["failed"] = str(error)
    kept = [{key: point[key] for key in KEPT if key in point} for point in found]
    seconds = {
        "train_s": sum(point["train_s"] for point in found),
        "evaluate_s": sum(point.get("evaluate_s", 0.0) for point in found),
        "seconds": time.perf_counter() - began,
    }
    return {"curve": columns(kept), **told, **seconds}


class Maker:
    """Chooses networks and trains them, one run after the other."""

    def __init__(self, arguments: argparse.Namespace, data: Dataset, objective: Objective,
                 suggest: Suggest, ranges: Sequence[Ranges], table: LatencyTable):  # fmt: skip
        self.arguments, self.data, self.objective = arguments, data, objective
        self.suggest, self.ranges, self.table = suggest, ranges, table
        self.finish: Finish = partial(replace, num_classes=len(data.class_names))
        self.parents = arguments.parents or 1
        self.filled = False

    def parent_of(self, number: int) -> Path | None:
        """Where the weights are that a network begins with, a parent's own; None without any."""
        if not self.arguments.inherit:
            return None
        elder = number % self.parents
        path: Path = self.arguments.json.with_suffix(f".parent{elder}")
        if number >= self.parents and not path.exists():
            raise SystemExit(f"{path}: not there; train it first (--networks {self.parents})")
        return path

    def choose(self, number: int, networks: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
        """What is known of a new network: in its band, and near its parent two times in three."""
        elder, turn = number % self.parents, number // self.parents
        suggest = with_ranges(self.suggest, self.ranges[number % len(self.ranges)])
        if not self.arguments.parents or turn % WIDE_EACH == 0:
            pool = draw(suggest, POOL, number, finish=self.finish).drawn
        else:
            rng, known = random.Random(number), networks[elder]["params"]
            pool = relatives(known, suggest, rng, POOL // 2, finish=self.finish)
            pool += neighbours(known, suggest, rng, POOL // 2, finish=self.finish)
        tried = {detector_from_dict(row["spec"]) for row in networks.values()}
        pool = [one for one in pool if one.spec not in tried]
        if not self.filled:
            self.table.fill([one.spec for one in pool], self.arguments.fill)
            self.table.save()
            self.filled = True
        judged = judge(pool, self.table, counts=False)
        chosen = choose(judged, self.arguments.budget_ms, number)
        return {"spec": to_dict(chosen.spec), "params": chosen.params,
                "predicted_ms": chosen.latency.p95_ms, "in_band": inside(number)}  # fmt: skip

    def train(self, spec: DetectorSpec, number: int, seed: int) -> dict[str, Any]:
        """One run; with only one parent a run from its weights as well."""
        given, parent = self.arguments, self.parent_of(number)
        ready = prepared(spec, self.data, "auto")
        child = parent is not None and number >= self.parents
        only = child and given.parents > 0
        epochs = given.inherit if only else given.epochs
        config = sweep_training(epochs, mirror=self.data.mirror, seed=seed)
        weights, told = None, {}
        if only and parent is not None:
            weights, told = inherit(ready, read_source(parent), config)
        keep = parent if not child and not seed else None
        row = one_curve(ready, config, self.objective, given.score_at, weights, keep)
        if child and not only and not seed and parent is not None:
            told["inherited"] = inherited_row(
                ready, read_source(parent), self.objective, given.inherit, seed
            )
        return told | row


def measured(file: File, data: Dataset) -> None:
    """Measure what has not been measured, one network after the other."""
    networks = file.networks
    rest = {number: row for number, row in sorted(networks.items()) if "cost" not in row}
    for place, (number, row) in enumerate(rest.items(), 1):
        spec = detector_from_dict(row["spec"])
        cost = measure(spec, images=prepared(spec, data, "auto").shown)
        file.add(number, cost=cost.to_dict())
        log.info("%d of %d measured: network %d, %.2f ms (%.2f expected)", place, len(rest),
                 number, cost.latency_ms_p95, row["predicted_ms"])  # fmt: skip


def main() -> None:
    """Train as many networks as are wanted, or as the time allows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", type=Path, help="a file of sweeps/ instead of the default space")
    parser.add_argument("--networks", type=int, default=360)
    parser.add_argument("--part", type=int, nargs=2, metavar=("K", "N"), default=(0, 1),
                        help="only networks K, K + N, ...: N commands fill one file")  # fmt: skip
    parser.add_argument("--seeded", type=int, default=60, help="networks with several seeds")
    parser.add_argument("--seeds", type=int, default=3, help="of those")
    parser.add_argument("--epochs", type=int, default=27)
    parser.add_argument("--score-at", type=int, nargs="+", help="epochs (every one)", default=())
    parser.add_argument("--inherit", type=int, metavar="EPOCHS", help="also from the first's")
    parser.add_argument("--parents", type=int, metavar="N", default=0,
                        help="with --inherit: train others only from the first N")  # fmt: skip
    parser.add_argument("--budget-ms", type=float, nargs="+", default=[8.0])
    parser.add_argument("--sizes", type=int, nargs="+", help="input sizes (the space's choice)")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin none after so long")
    parser.add_argument("--fill", type=int, default=FILL, help="pieces for table of blocks")
    parser.add_argument("--measure", action="store_true", help="measure what is there, and end")
    parser.add_argument("--json", type=Path, required=True, help="the file, a line for each run")
    arguments = parser.parse_args()
    if arguments.parents and not arguments.inherit:
        parser.error("--parents: expected --inherit EPOCHS as well")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    end = time.monotonic() + 60 * arguments.minutes
    data, space = read_dataset(arguments.data), load_space(arguments.space)
    table, classes = LatencyTable.open(), len(data.class_names)
    ranges = known_ranges(arguments.json)
    if ranges is None:
        longest = max(max(one.height, one.width) for one in data.train)
        sizes = arguments.sizes or image_sizes_for(longest)
        ranges = [
            screened_ranges(space, sizes, Budget(ms), table, classes=classes)
            for ms in arguments.budget_ms
        ]
    objective = supported(support(data.val))
    start = "the weights of the first few" if arguments.parents else "scratch"
    settings = {
        "what": f"networks of a space, trained from {start}",
        # Wherever they lie; the counts tell them apart, as a copy's fingerprint is another.
        "data": Path(data.name.rpartition(":")[2]).name,
        "images": [len(data.train), len(data.val)],
        "boxes": [sum(len(one.boxes) for one in part) for part in (data.train, data.val)],
        "fingerprint": data.fingerprint,
        "space": "default" if arguments.space is None else str(arguments.space),
        "epochs": arguments.epochs,
        "score_at": list(arguments.score_at),
        "budget_ms": arguments.budget_ms,
        "objective": objective.text,
        "ranges": [to_dict(one) for one in ranges],
        "inherit": arguments.inherit,
        "parents": arguments.parents or None,
        "versions": versions(),
        "device": device_name(),
        "date": time.strftime("%Y-%m-%d"),
    }
    file = File(arguments.json, settings)
    if arguments.measure:
        return measured(file, data)
    maker = Maker(arguments, data, objective, space, ranges, table)
    work = list(planned(arguments.networks, arguments.seeded, arguments.seeds, arguments.part))
    for place, (number, seed) in enumerate(work, 1):
        networks = file.networks
        if seed in networks.get(number, {}).get(CURVES, {}):
            continue
        if time.monotonic() >= end:
            break
        facts = {} if number in networks else maker.choose(number, networks)
        spec = detector_from_dict((networks.get(number) or facts)["spec"])
        row = maker.train(spec, number, seed)
        # A process that keeps those of some forty networks gets no memory for another's.
        forget_programs()
        file.add(number, seed=seed, **facts, **row)
        last = row["curve"].get("objective", [0.0])[-1]
        log.info("%d of %d: network %d, seed %d, %d px, objective %.3f, %.0f s", place, len(work),
                 number, seed, spec.image_size, last or 0.0, row["seconds"])  # fmt: skip


if __name__ == "__main__":
    main()
