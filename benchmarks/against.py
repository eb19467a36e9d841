"""A sweep's winner against the YOLOv8 family and against random search, at the same cost.

Run it after a sweep, on the same device:

    python benchmarks/against.py runs/bccd-8ms --json benchmarks/results/against-bccd-cpu.json

All are trained by the sweep's full schedule and keep its budget. The family is YOLOv8n scaled in
width, at each input size and depth as wide as the budget allows; random search trains what it
draws from the default space, whole runs of one seed, until it has trained as much as the sweep in
all, its best's further seeds included. How much is counted in GFLOPs times epochs, which other work
on the machine does not change, or in seconds (`--count seconds`); both are reported. Each way's
best by its first seed, and the sweep's by its finals, has the sweep's seeds. The same command goes
on where it was interrupted.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats

from flaxyolo.cost.again import measure_for
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import count_gflops
from flaxyolo.cost.measurement import Measurement
from flaxyolo.crew.optuna_inside import begun
from flaxyolo.crew.phases import MEASURED_IMAGES
from flaxyolo.crew.record import FINAL, Entry, Record, read
from flaxyolo.crew.storage import open_study, read_runs
from flaxyolo.data.feeds import open_pixels
from flaxyolo.data.sources import read_dataset
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.scoring.average_precision import Scores
from flaxyolo.search.controls import SCALED, controls
from flaxyolo.search.family import DEPTHS, scaled
from flaxyolo.search.finalists import fastest_tied, finalists
from flaxyolo.search.objective import Objective
from flaxyolo.search.ranges import stored_ranges
from flaxyolo.search.results import results
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import Ranges, former_image_sizes, suggest_detector, with_ranges
from flaxyolo.search.spending import Spending
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.trials.trial import run_trial

log = logging.getLogger("against")

SMALLER = (64, 96)
"""Input sizes of the family beside the sweep's: its head alone may be too slow at those."""


@dataclass(frozen=True)
class Way:
    """One way to a detector: the runs of its best, and what was trained to find it."""

    name: str
    spec: DetectorSpec
    values: tuple[float, ...]
    """The objective of each seed."""
    scores: tuple[Scores, ...]
    latency_ms: float
    candidates: int
    train_seconds: float
    train_gflop_epochs: float


class Runner:
    """Measures and trains detectors by a sweep's rules, in a study of its own."""

    def __init__(self, folder: Path, sweep: Sweep):
        self.sweep = replace(sweep, folder=folder)
        self.study = open_study(folder, seed=sweep.seed)
        self.shown = {}

    def measured(self, spec: DetectorSpec) -> Measurement:
        """Its cost, from the study where it is known."""
        known = self.study.user_attrs.get("measured", {})
        key = json.dumps(to_dict(spec), sort_keys=True)
        if key not in known:
            if spec.image_size not in self.shown:
                pixels = open_pixels(self.sweep.data, "val", spec.image_size)
                self.shown[spec.image_size] = pixels.images[:MEASURED_IMAGES]
            cost = measure_for(self.sweep.budget, spec, self.shown[spec.image_size], None)
            known = {**known, key: cost.to_dict()}
            self.study.set_user_attr("measured", known)
        return Measurement.from_dict(known[key])

    def trained(self, spec: DetectorSpec, seed: int) -> Record:
        """Its full run, from the study where that is done; it may end over the budget."""
        for each in results(self.study):
            if each.is_over and each.spec == spec and each.seed == seed:
                return each
        sweep = replace(self.sweep, suggest=lambda trial: spec)
        running = self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        waiting = [
            trial for trial in running if (read(trial).spec, read(trial).seed) == (spec, seed)
        ]
        if waiting:
            trial = begun(self.study, waiting[0])
        else:
            trial = self.study.ask()
            Entry(trial).keep(stage=FINAL, seed=seed, cost=self.measured(spec))
        try:
            value = run_trial(trial, sweep=sweep, until=sweep.spending.epochs)
        except optuna.TrialPruned as pruned:
            Entry(trial).keep(reason=str(pruned))
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, value)
        return results(self.study)[trial.number]


def family(runner: Runner, sizes: Sequence[int]) -> Iterator[DetectorSpec]:
    """At each input size and depth the widest that keeps the budget."""
    classes, budget = len(runner.sweep.data.class_names), runner.sweep.budget
    for size in sizes:
        for depth in DEPTHS:
            low = 0
            while budget.allows(runner.measured(scaled(8 * (low + 1), depth, size, classes))):
                low += 1
            if not low:
                # Deeper ones are slower still.
                break
            yield scaled(8 * low, depth, size, classes)


def drawn(runner: Runner) -> Iterator[DetectorSpec]:
    """Random draws of the sweep's space that keep the budget."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=runner.sweep.seed))
    seen, over = set(), 0
    while True:
        spec = runner.sweep.suggest(study.ask())
        spec = replace(spec, num_classes=len(runner.sweep.data.class_names))
        if spec in seen:
            continue
        seen.add(spec)
        if runner.sweep.budget.allows(runner.measured(spec)):
            log.info("random: a draw that keeps the budget, after %d that do not", over)
            over = 0
            yield spec
        else:
            over += 1


def seconds_of(run: Record) -> float:
    """Seconds of its training."""
    return run.seconds.get("train", 0.0)


def work_of(run: Record) -> float:
    """GFLOPs of an image times epochs; none of a final that is a candidate's own run."""
    return run.cost.gflops * run.epochs if run.cost and seconds_of(run) else 0.0


def best_of(
    runner: Runner,
    name: str,
    specs: Iterator[DetectorSpec],
    limit: float,
    count: Callable[[Record], float],
) -> Way:
    """Train one seed of each until `limit`, less what the best's other seeds will take."""
    seeds = runner.sweep.spending.seeds
    first: list[Record] = []
    every: list[Record] = []
    for spec in specs:
        log.info("%s %d: %d px, %.3f GFLOPs", name, len(first), spec.image_size, count_gflops(spec))
        done = runner.trained(spec, seeds[0])
        every.append(done)
        if done.state == "complete":
            first.append(done)
            log.info("%s %d: %.3f", name, len(first) - 1, done.objective)
        else:
            log.info("%s: over the budget once trained; left out", name)
        spent = sum(map(count, every))
        log.info("%s: trained %.1f of %.1f", name, spent, limit)
        best = max(first, key=lambda each: each.objective or 0.0, default=done)
        if first and spent + (len(seeds) - 1) * count(best) >= limit:
            break
    if not first:
        raise SystemExit(f"{name}: nothing keeps the budget")
    best = max(first, key=lambda each: each.objective or 0.0)
    assert best.spec is not None, "a complete run has its spec"
    runs = [best]
    for seed in seeds[1:]:
        again = runner.trained(best.spec, seed)
        every.append(again)
        if again.state == "complete":
            runs.append(again)
    return way(name, runs, len(first), every)


def way(name: str, runs: Sequence[Record], candidates: int, trained: Sequence[Record]) -> Way:
    """The figures of one way from its best's runs."""
    spec = runs[0].spec
    assert spec is not None, "a complete run has its spec"
    return Way(
        name,
        spec,
        tuple(float(run.objective or 0.0) for run in runs),
        tuple(run.scores for run in runs if run.scores),
        float(np.mean([run.cost.latency_ms_p50 for run in runs if run.cost])),
        candidates,
        sum(map(seconds_of, trained)),
        sum(map(work_of, trained)),
    )


def compared(ways: Sequence[Way]) -> list[dict[str, Any]]:
    """Means, and the first's lead over each, with 95 % intervals; the spread is pooled."""
    values = [np.array(each.values) for each in ways]
    freedom = sum(len(each) - 1 for each in values)
    spread = math.sqrt(sum(((each - each.mean()) ** 2).sum() for each in values) / freedom)
    reach = float(stats.t.ppf(0.975, freedom)) * spread
    rows = []
    for each, seen in zip(ways, values, strict=True):
        mean, count = seen.mean(), len(seen)
        row = {
            "way": each.name,
            "objective": float(mean),
            "half_width": reach / math.sqrt(count),
            "values": list(each.values),
            "map": float(np.mean([scores.map or 0.0 for scores in each.scores])),
            "map_50": float(np.mean([scores.map_50 or 0.0 for scores in each.scores])),
            "latency_ms_p50": each.latency_ms,
            "image_size": each.spec.image_size,
            "candidates": each.candidates,
            "train_seconds": round(each.train_seconds, 1),
            "train_gflop_epochs": round(each.train_gflop_epochs, 2),
            "spec": to_dict(each.spec),
        }
        if each is not ways[0]:
            row["lead"] = float(values[0].mean() - mean)
            row["lead_half_width"] = reach * math.sqrt(1 / len(values[0]) + 1 / count)
        rows.append(row)
    return rows


COUNTS = {"gflop-epochs": work_of, "seconds": seconds_of}


def main() -> None:
    """Train the others, and print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="folder of a finished sweep of the default space")
    parser.add_argument("--json", type=Path, help="also write the result there")
    parser.add_argument("--count", choices=COUNTS, default="gflop-epochs")
    arguments = parser.parse_args()
    # Forced: an import has set handlers of its own.
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    logging.getLogger("absl").setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = read_runs(arguments.study)
    facts, found = study.user_attrs["facts"], results(study)
    if facts["space"] != "default" or facts["init"] is not None:
        raise SystemExit(
            f"{arguments.study}: expected a sweep of the default space, without --init"
        )
    budget = Budget.from_dict(facts["budget"])
    control = controls(found).get(SCALED)
    if control is not None:
        # The sweep's own comparison with the family is made again here.
        found = [one for one in found if control.number not in (one.number, one.finalist)]
    ordered = finalists(found, budget)
    if not ordered:
        raise SystemExit(f"{arguments.study}: expected a finished sweep, got one without finals")
    winner, faster = ordered[0], fastest_tied(ordered)
    seeds = tuple(sorted(run.seed for run in winner.runs if run.seed is not None))
    schedule = facts["schedule"]
    data = read_dataset(facts["source"])
    longest = max(max(example.height, example.width) for example in data.train)
    ranges = stored_ranges(study) or Ranges(former_image_sizes(longest, budget.latency_ms, "cpu"))
    sweep = Sweep(
        suggest=with_ranges(suggest_detector, ranges),
        budget=budget,
        data=data,
        source=facts["source"],
        folder=arguments.study,
        spending=Spending(0, schedule["short_epochs"], schedule["epochs"], 1, seeds),
        objective=Objective(facts["objective"]),
    )
    others = arguments.study.with_name(f"{arguments.study.name}-against")
    keep_compiled()
    count = COUNTS[arguments.count]
    trained = sum(map(count, found))
    candidates = sum(each.stage != FINAL and each.cost is not None for each in found)
    ways = [way("flaxyolo", winner.runs, candidates, found)]
    log.info("the sweep trained %.1f %s; its winner %.3f", trained, arguments.count, winner.mean)
    if faster is not None and faster is not winner:
        # Not told apart from the winner; this is the one that the sweep recommends.
        ways.append(way("faster", faster.runs, candidates, found))
    runner = Runner(others / "yolov8", sweep)
    ways.append(
        best_of(
            runner,
            "yolov8",
            family(runner, sorted({*SMALLER, *ranges.image_sizes})),
            math.inf,
            count,
        )
    )
    runner = Runner(others / "random", sweep)
    ways.append(best_of(runner, "random", drawn(runner), trained, count))
    rows = compared(ways)
    for row in rows:
        lead = f"; lead {row['lead']:+.3f} ± {row['lead_half_width']:.3f}" if "lead" in row else ""
        print(
            f"{row['way']:9s} {row['objective']:.3f} ± {row['half_width']:.3f}, "
            f"mAP {row['map']:.3f}, {row['latency_ms_p50']:.2f} ms p50, {row['image_size']} px, "
            f"{row['candidates']} "
            f"candidates, trained {row['train_seconds']:.0f} s{lead}"
        )
    if arguments.json:
        kind, _, root = str(facts["data"]).partition(":")
        content = {
            "data": f"{kind}:{Path(root).name}" if root else kind,
            "study": {key: facts[key] for key in ("budget", "objective", "schedule")},
            "device": facts["device"],
            "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optuna")},
            "date": date.today().isoformat(),
            "seeds": list(seeds),
            "count": arguments.count,
            "ways": rows,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
