"""Whether sweeps find better detectors than others in the same time: pairs of sweeps.

The two sweeps of a pair have the same data, seed, limits and hours, and run at the same time on a
core each, which change places from seed to seed. `--compare parents` is a parent and short runs
from its weights against longer runs from fresh ones; `--compare random` is the search against
networks drawn at random in the band of the limit and all trained to the end, both with such a
parent (`random-fresh`: both without). All are judged by the objective on the validation images: of
the detector that each leaves in best/ ("shipped"), of its network trained again as it was, with
seeds that chose nothing ("again"), and once more from fresh weights by one schedule ("from
scratch"). The limit is GFLOPs, or with `--budget-ms` the latency, for which each sweep stops the
other's training while it measures. A sweep begins with an empty cache, or with `--warm` with what
an earlier sweep on this device left in its cache, compiled programs apart: as a second sweep does.
Before the first pair the file says what difference so many pairs can show (`shows`): 2.6 standard
errors, where differences scatter by `SPREAD`.

    python -m benchmarks.pairs_of_sweeps --compare random --seeds 10 --out runs/pairs --json FILE

The same command goes on with the next pair. A sweep that finishes no network in its time leaves
its pair without a difference, and is counted.
"""

import argparse
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.starts import held, interval, ready_for, scores_of
from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.phases import Prepared
from flaxyolo.crew.record import Record
from flaxyolo.crew.storage import read_runs
from flaxyolo.nn.detector import TrainedDetector, Weights
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.results import results
from flaxyolo.search.setting import sweep_training
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.loop import train
from flaxyolo.trials.parent import FOLDER
from flaxyolo.weights.checkpoint import load_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source

log = logging.getLogger("pairs_of_sweeps")

INHERITED = ["--parent-epochs", "14", "--epochs", "4"]
FRESHLY = ["--from-scratch", "--epochs", "18", "--short-epochs", "6"]
RANDOM_WAY, RANDOM = "random", ["--search", "random"]
COMPARED = {
    "parents": {"inherited": INHERITED, "from scratch": FRESHLY},
    "random": {"sweep": INHERITED, "random": [*INHERITED, *RANDOM]},
    "random-fresh": {"sweep": FRESHLY, "random": ["--from-scratch", "--epochs", "18", *RANDOM]},
}
"""Two ways each, with the flags of their sweeps."""
PARTS = {
    "training": ("train", "mend"),
    "compiling": ("compile",),
    "measuring": ("measure",),
    "scoring": ("evaluate",),
    "deciding": ("draw", "predict", "score"),
}
"""Of a sweep's time, with the stages of trials that are counted there."""
REST = "parent and rest"
FRESH, AGAIN = "from scratch", "again"
JUDGED = ("shipped", AGAIN, FRESH)
NEW_SEEDS = (101, 202)
"""Added to the sweep's: of the runs that judge and chose nothing."""
SPREAD = 0.2
"""Standard deviation of the difference of two sweeps' objectives: a guess, before there are any."""
POWER = 2.6
LEAST = 8
"""Networks of which a standard deviation is told."""
COMPILED = "compiled-*"
"""XLA's programs in a cache."""


def limit_flags(limits: argparse.Namespace) -> list[str]:
    """Those of a sweep."""
    if limits.budget_ms is not None:
        return ["--budget-ms", f"{limits.budget_ms:g}"]
    return ["--budget-gflops", f"{limits.budget_gflops:g}"]


def swept(data: str, seed: int, way: str, limits: argparse.Namespace, folder: Path) -> None:
    """Run one sweep to its end, and write what it found to `folder`/row.json."""
    cache = folder / "cache"
    if limits.warm is not None and not cache.exists():
        shutil.copytree(limits.warm, cache, ignore=shutil.ignore_patterns(COMPILED))
    began = time.monotonic()
    command = [sys.executable, "-m", "flaxyolo.sweep", "--data", data, "--seed", str(seed),
               *limit_flags(limits), "--hours", f"{limits.hours:g}",
               "--seeds", "1", "--no-controls", "--no-preflight", "--trials", "99",
               "--out", str(folder), "--study", "study",
               *COMPARED[limits.compare][way]]  # fmt: skip
    with (folder / "log").open("w") as output:
        subprocess.run(command, check=False, stderr=output, stdout=output,
                       env=os.environ | {"FLAXYOLO_CACHE": str(cache)})  # fmt: skip
    seconds = time.monotonic() - began
    study = folder / "study"
    if not (study / "trials.json").exists():
        raise SystemExit(f"{folder}/log: the sweep wrote no trials")
    networks = json.loads((study / "trials.json").read_text())
    trained = [each for each in networks if each["objective"] is not None]
    tried = [{"origin": each["origin"], "epochs": each["epochs"], "objective": each["objective"]}
             for each in trained]  # fmt: skip
    shares = spent(results(read_runs(study)), seconds)
    if not (study / "best").is_dir():
        # It finished no network in its time, and said so.
        row = {"data": data, "seed": seed, "way": way, "seconds": round(seconds),
               "measured": len(networks), "trained": len(trained), "tried": tried, "spent": shares,
               **dict.fromkeys(JUDGED)}  # fmt: skip
        (folder / "row.json").write_text(json.dumps(row))
        return
    best = load_detector(study / "best")
    ready = ready_for(best.spec, data)
    objective = supported(support(ready.data.val))
    row = {
        "data": data, "seed": seed, "way": way, "seconds": round(seconds),
        "objective": objective.text, "measured": len(networks), "trained": len(trained),
        "tried": tried, "spent": shares, "shipped": told(scores_of(best, ready), objective),
    }  # fmt: skip
    found = read_config(study / "best.yaml")
    parent = study / FOLDER / "detector"
    source = read_source(parent) if parent.is_dir() else None
    for name, config, start, seeds in (
        (AGAIN, found.training, source, NEW_SEEDS),
        (FRESH, sweep_training(limits.end_epochs, mirror=ready.data.mirror), None, NEW_SEEDS[:1]),
    ):
        runs = [end_of(ready, replace(config, seed=seed + more), start) for more in seeds]
        each = [told(scores_of(detector, ready), objective) for detector in runs]
        row[name] = {key: mean_of([one[key] for one in each]) for key in each[0]}
    (folder / "row.json").write_text(json.dumps(row))


def spent(records: Sequence[Record], seconds: float) -> dict[str, float]:
    """Shares of a sweep's seconds; the parent's training and what no trial does is the rest."""
    by_part = dict.fromkeys(PARTS, 0.0)
    for record in records:
        for stage, taken in record.seconds.items():
            by_part[next(part for part, stages in PARTS.items() if stage in stages)] += taken
    shares = {part: round(taken / seconds, 4) for part, taken in by_part.items()}
    return {**shares, REST: round(1 - sum(shares.values()), 4)}


def end_of(ready: Prepared, config: TrainConfig, start: Source | None) -> TrainedDetector:
    """A network trained by a schedule, from another's weights as a sweep has it begin or afresh."""
    weights = None if start is None else first_weights(ready, config, start)
    for epoch in train(ready.spec, ready.feed, ready.data.class_names, config, initial=weights):
        if epoch.number == config.epochs:
            return epoch.detector
    raise AssertionError("a training gives its last epoch")


def first_weights(ready: Prepared, config: TrainConfig, start: Source) -> Weights:
    """Another's weights, as a sweep has a network begin with them."""
    begun = begun_from(start, ready.spec, config.seed, ready.data.class_names)
    task = to_mend(ready.spec, start, begun)
    return begun.weights if task is None else mend(task, ready.feed, config, start, begun).weights


def mean_of(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one is not known."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def told(scores: dict[str, float | None], objective: Objective) -> dict[str, Any]:
    """The objective, and the scores that people ask for."""
    return {"objective": objective.value(scores), "map": scores["map"], "map_50": scores["map_50"]}


def pair(data: str, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both sweeps at once, each in a process on a core of its own."""
    cores, running = sorted(os.sched_getaffinity(0))[:2], []
    name = Path(data.rpartition(":")[2]).name
    for place, way in enumerate(COMPARED[arguments.compare]):
        folder = arguments.out / f"{name}-{seed}-{place}"
        folder.mkdir(parents=True, exist_ok=True)
        core = cores[(place + seed) % len(cores)]
        command = [sys.executable, "-m", "benchmarks.pairs_of_sweeps", *sys.argv[1:],
                   "--one", data, str(seed), way, str(folder), str(core)]  # fmt: skip
        running.append((folder, subprocess.Popen(command)))
    for folder, process in running:
        if process.wait():
            raise SystemExit(f"{folder}/log: the sweep failed")
    return [json.loads((folder / "row.json").read_text()) for folder, _ in running]


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objective of the first way minus that of the second, in pairs, with 95 % intervals."""
    found, ways = [], tuple(dict.fromkeys(row["way"] for row in rows))
    for data in dict.fromkeys(row["data"] for row in rows):
        spread = scatter([r for r in rows if (r["way"], r["data"]) == (RANDOM_WAY, data)])
        by_way = [{row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, way)}
                  for way in ways]  # fmt: skip
        for judged in [name for name in JUDGED if any(name in row for row in rows)]:
            gains = [
                by_way[0][seed][judged]["objective"] - by_way[1][seed][judged]["objective"]
                for seed in sorted(by_way[0])
                if by_way[0][seed][judged] and by_way[1][seed][judged]
            ]
            nothing = {
                way: sum(row[judged] is None for row in rows.values())
                for way, rows in zip(ways, by_way, strict=True)
            }
            told = interval(gains) if gains else {"mean": None, "interval": None}
            in_sd = told["mean"] / spread if gains and spread else None
            found.append({"data": data, "judged": judged, "gains": gains, "nothing": nothing,
                          **told, "in_sd": in_sd})  # fmt: skip
    return found


def scatter(rows: Sequence[dict[str, Any]]) -> float | None:
    """Standard deviation of the objective of all that random search trained to the end.

    It is the unit of leads: what sets networks in the band apart, the luck of a seed and that of a
    sweep's parent. None where fewer than `LEAST` networks tell of it.
    """
    ended = []
    for row in rows:
        tried = row.get("tried", ())
        last = max((each["epochs"] for each in tried), default=0)
        ended += [each["objective"] for each in tried if each["epochs"] == last]
    return stdev(ended) if len(ended) >= LEAST else None


def main() -> None:
    """Run the pairs that are not in the file yet; print the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--compare", choices=COMPARED, default="parents")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget-gflops", type=float, default=0.15)
    parser.add_argument("--budget-ms", type=float, help="of the latency, instead of GFLOPs")
    parser.add_argument("--hours", type=float, default=0.25)
    parser.add_argument("--warm", type=Path, help="a cache that the sweeps begin with")
    parser.add_argument("--end-epochs", type=int, default=18)
    parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
    parser.add_argument("--json", type=Path, required=True, help="the file of the results")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    if arguments.one:
        data, seed, way, folder, core = arguments.one
        os.sched_setaffinity(0, {int(core)})
        return swept(data, int(seed), way, arguments, Path(folder))
    ways = COMPARED[arguments.compare]
    settings = {
        "what": f"{' against '.join(ways)}: sweeps as long, on a core each",
        "data": arguments.data, "limit": " ".join(limit_flags(arguments)),
        "hours": arguments.hours, "warm": arguments.warm is not None,
        "end_epochs": arguments.end_epochs, "flags": ways,
        "device": device_name(), "versions": versions(),
    }  # fmt: skip
    rows = held(arguments.json, settings, "rows")
    shows = round(POWER * SPREAD / math.sqrt(arguments.seeds), 3)
    log.info("%d pairs show a difference of %.2f", arguments.seeds, shows)
    for seed in range(arguments.seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        rows += pair(arguments.data, seed, arguments)
        content = {"settings": settings, "shows": shows, "date": time.strftime("%Y-%m-%d"),
                   "differences": differences(rows), "rows": rows}  # fmt: skip
        replace_file(arguments.json, json.dumps(content, indent=1) + "\n")
        for row in rows[-2:]:
            known = [(name, row.get(name) or {}) for name in JUDGED]
            values = ", ".join(f"{name} {scores.get('objective')}" for name, scores in known)
            log.info("%s, seed %d, %s: %s, %d trained, %d s", row["data"], row["seed"], row["way"],
                     values, row["trained"], row["seconds"])  # fmt: skip
    for way in ways:
        told = [row["spent"] for row in rows if row["way"] == way and "spent" in row]
        if told:
            means = {part: fmean(one[part] for one in told) for part in told[0]}
            order = sorted(means, key=lambda part: -means[part])
            print(f"time of {way}: " + ", ".join(f"{part} {means[part]:.0%}" for part in order))
    for each in differences(rows):
        low, high = each["interval"] or (math.nan, math.nan)
        mean = math.nan if each["mean"] is None else each["mean"]
        unit = "" if each["in_sd"] is None else f", {each['in_sd']:+.2f} SD of the band"
        left = ", ".join(f"{count} {way}" for way, count in each["nothing"].items() if count)
        print(f"{each['data']}, {each['judged']}: {mean:+.3f} ({low:+.3f} to {high:+.3f}){unit}, "
              f"{len(each['gains'])} pairs"
              + (f"; sweeps that finished nothing: {left}" if left else ""))  # fmt: skip


if __name__ == "__main__":
    main()
