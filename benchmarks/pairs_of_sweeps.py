"""Whether sweeps with inherited weights find better detectors: pairs with and without, as long.

The two sweeps of a pair have the same data, seed, limits and hours, and run at the same time on a
core each, which change places from seed to seed. Each has its own schedules: a parent and short
runs from its weights, or longer runs from fresh ones. Both are judged by the objective on the
validation images, of the detector that each leaves in best/ ("shipped"), and of its network trained
once more from fresh weights by one schedule ("from scratch"). Limits are GFLOPs, since a latency
taken beside another job is none. Before the first pair the file says what difference so many pairs
can show (`shows`): 2.6 standard errors, where differences scatter by `SPREAD`.

    python -m benchmarks.pairs_of_sweeps --data digits --seeds 5 --out runs/pairs --json FILE

The same command goes on with the next pair. A sweep that finishes no network in its time leaves
its pair without a difference, and is counted.
"""

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.starts import held, interval, ready_for, scores_of
from flaxyolo.base.files import replace_file
from flaxyolo.config import read_config
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.setting import sweep_training
from flaxyolo.training.loop import train
from flaxyolo.weights.checkpoint import load_detector

log = logging.getLogger("pairs_of_sweeps")

WAYS = {
    "inherited": ["--parent-epochs", "14", "--epochs", "4"],
    "from scratch": ["--from-scratch", "--epochs", "18", "--short-epochs", "6"],
}
FRESH = "from scratch"
SPREAD = 0.2
"""Standard deviation of the difference of two sweeps' objectives: a guess, before there are any."""
POWER = 2.6


def swept(data: str, seed: int, way: str, limits: argparse.Namespace, folder: Path) -> None:
    """Run one sweep to its end, and write what it found to `folder`/row.json."""
    began = time.monotonic()
    command = [sys.executable, "-m", "flaxyolo.sweep", "--data", data, "--seed", str(seed),
               "--budget-gflops", f"{limits.budget_gflops:g}", "--hours", f"{limits.hours:g}",
               "--seeds", "1", "--no-controls", "--no-preflight", "--trials", "99",
               "--out", str(folder), "--study", "study", *WAYS[way]]  # fmt: skip
    with (folder / "log").open("w") as output:
        subprocess.run(command, check=False, stderr=output, stdout=output,
                       env=os.environ | {"FLAXYOLO_CACHE": str(folder / "cache")})  # fmt: skip
    seconds = time.monotonic() - began
    study = folder / "study"
    if not (study / "trials.json").exists():
        raise SystemExit(f"{folder}/log: the sweep wrote no trials")
    networks = json.loads((study / "trials.json").read_text())
    trained = [each for each in networks if each["objective"] is not None]
    if not (study / "best").is_dir():
        # It finished no network in its time, and said so.
        row = {"data": data, "seed": seed, "way": way, "seconds": round(seconds),
               "measured": len(networks), "trained": len(trained),
               "shipped": None, FRESH: None}  # fmt: skip
        (folder / "row.json").write_text(json.dumps(row))
        return
    best = load_detector(study / "best")
    ready = ready_for(best.spec, data)
    objective = supported(support(ready.data.val))
    row = {
        "data": data, "seed": seed, "way": way, "seconds": round(seconds),
        "objective": objective.text, "measured": len(networks), "trained": len(trained),
        "shipped": told(scores_of(best, ready), objective),
    }  # fmt: skip
    spec = read_config(study / "best.yaml").detector
    config = sweep_training(limits.end_epochs, mirror=ready.data.mirror, seed=100 + seed)
    for epoch in train(spec, ready.feed, ready.data.class_names, config):
        if epoch.number == limits.end_epochs:
            row[FRESH] = told(scores_of(epoch.detector, ready), objective)
    (folder / "row.json").write_text(json.dumps(row))


def told(scores: dict[str, float | None], objective: Objective) -> dict[str, Any]:
    """The objective, and the scores that people ask for."""
    return {"objective": objective.value(scores), "map": scores["map"], "map_50": scores["map_50"]}


def pair(data: str, seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both sweeps at once, each in a process on a core of its own."""
    cores, running = sorted(os.sched_getaffinity(0))[:2], []
    name = Path(data.rpartition(":")[2]).name
    for place, way in enumerate(WAYS):
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
    """The objective with inherited weights minus that without, in pairs, with 95 % intervals."""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        by_way = [{row["seed"]: row for row in rows if (row["data"], row["way"]) == (data, way)}
                  for way in WAYS]  # fmt: skip
        for judged in ("shipped", FRESH):
            gains = [
                by_way[0][seed][judged]["objective"] - by_way[1][seed][judged]["objective"]
                for seed in sorted(by_way[0])
                if by_way[0][seed][judged] and by_way[1][seed][judged]
            ]
            nothing = {
                way: sum(row[judged] is None for row in rows.values())
                for way, rows in zip(WAYS, by_way, strict=True)
            }
            told = interval(gains) if gains else {"mean": None, "interval": None}
            found.append(
                {"data": data, "judged": judged, "gains": gains, "nothing": nothing, **told}
            )
    return found


def main() -> None:
    """Run the pairs that are not in the file yet; print the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget-gflops", type=float, default=0.15)
    parser.add_argument("--hours", type=float, default=0.25)
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
    settings = {
        "what": "sweeps with and without inherited weights, as long, on one core each",
        "data": arguments.data, "budget_gflops": arguments.budget_gflops,
        "hours": arguments.hours, "end_epochs": arguments.end_epochs, "flags": WAYS,
        "shows": round(POWER * SPREAD / math.sqrt(arguments.seeds), 3),
        "device": device_name(), "versions": versions(),
    }  # fmt: skip
    rows = held(arguments.json, settings, "rows")
    log.info("%d pairs show a difference of %.2f", arguments.seeds, settings["shows"])
    for seed in range(arguments.seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        rows += pair(arguments.data, seed, arguments)
        content = {"settings": settings, "date": time.strftime("%Y-%m-%d"),
                   "differences": differences(rows), "rows": rows}  # fmt: skip
        replace_file(arguments.json, json.dumps(content, indent=1) + "\n")
        for row in rows[-len(WAYS) :]:
            shipped, fresh = (
                row[judged] and row[judged]["objective"] for judged in ("shipped", FRESH)
            )
            log.info("%s, seed %d, %s: shipped %s, from scratch %s, %d trained, %d s",
                     row["data"], seed, row["way"], shipped, fresh, row["trained"],
                     row["seconds"])  # fmt: skip
    for each in differences(rows):
        low, high = each["interval"] or (math.nan, math.nan)
        mean = math.nan if each["mean"] is None else each["mean"]
        left = ", ".join(f"{count} {way}" for way, count in each["nothing"].items() if count)
        print(f"{each['data']}, {each['judged']}: {mean:+.3f} ({low:+.3f} to {high:+.3f}), "
              f"{len(each['gains'])} pairs"
              + (f"; sweeps that finished nothing: {left}" if left else ""))  # fmt: skip


if __name__ == "__main__":
    main()
