"""What children are worth by whether their parent's rate falls at the end of its training.

The parent and the candidates of a finished sweep are trained anew: the parent twice with each seed,
once by the usual schedule and once at a rate that stays, and from either end every network for as
long as the sweep's candidates. Each is scored by the sweep's objective on the validation images,
after every epoch. Differences are in pairs of equal network and seed; their interval is over seeds,
each with the mean over its networks.

    python -m benchmarks.parent_rates runs/digits-8ms --seeds 4 --json results.json

`--averaged` trains, of the parent whose rate stays, every child once more and scores an average of
its last steps (about an epoch of 600 images); the weights that are trained are the same. It also
tells how well what is scored after every epoch orders the networks as they end.

Instead of a sweep's folder it takes a table of make_table.py, with the parents and children of
that, or with its first network as the parent of the others.

It goes on where it stopped; several commands may take a core and `--part` of the seeds each.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.pairs_of_sweeps import first_weights, told
from benchmarks.rank_correlation import correlations
from benchmarks.starts import interval, ready_for, scores_of
from benchmarks.trained import read
from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import forget_programs
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.storage import read_runs
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.results import results
from flaxyolo.search.setting import sweep_training
from flaxyolo.spec import DetectorSpec, detector_from_dict
from flaxyolo.training.loop import train
from flaxyolo.trials.parent import FOLDER
from flaxyolo.weights.checkpoint import load_detector, save_detector
from flaxyolo.weights.transfer import Source, read_source

RATES = {"falls": {}, "stays": {"decay_share": 0.0}}
"""Of a parent, with what its schedule changes for it."""
AVERAGED = {"ema_decay": 0.97, "ema_ramp_steps": 10.0}
"""Of a child, with what it changes: the last 33 steps count, from the first few on."""
ITSELF = "itself"
LEAST = 4
"""Networks that an order takes."""
CHILD_SEED = 101
"""Added to a parent's, for its children."""


Networks = dict[str, DetectorSpec]
"""By name, the parent as `ITSELF` among them."""


def networks(study: Path, most: int) -> Networks:
    """The parent, and the first other networks that the sweep has tried, by their origins."""
    parent = load_detector(study / FOLDER / "detector").spec
    found = {ITSELF: parent}
    for record in results(read_runs(study)):
        if record.spec is not None and record.spec not in found.values():
            found.setdefault(record.origin or f"trial {record.number}", record.spec)
    return dict(list(found.items())[:most])


def families(path: Path, most: int, data: str | None) -> tuple[str, dict[str, Networks]]:
    """Where the data are, and parents with their children, by the parents' names."""
    if path.suffix != ".jsonl":
        source = data or read_runs(path).user_attrs["facts"]["source"]
        return source, {ITSELF: networks(path, most)}
    settings, rows = read(path)
    specs = {number: detector_from_dict(row["spec"]) for number, row in sorted(rows.items())}
    parents = settings.get("parents") or 1
    found = {}
    for elder in range(parents):
        mine = [number for number in specs if number % parents == elder and number != elder]
        children = {f"network {number}": specs[number] for number in mine[: most - 1]}
        found[f"network {elder}"] = {ITSELF: specs[elder], **children}
    return data or settings["data"], found


def curve(
    spec: DetectorSpec, data: str, config: TrainConfig, objective: Objective, start: Source | None
) -> tuple[list[float], TrainedDetector]:
    """The objective after every epoch, and the detector at the end."""
    ready, scores, detector = ready_for(spec, data), [], None
    weights = None if start is None else first_weights(ready, config, start)
    for epoch in train(spec, ready.feed, ready.data.class_names, config, initial=weights):
        detector = epoch.detector
        scores.append(told(scores_of(detector, ready), objective)["objective"])
    assert detector is not None, "there is an epoch"
    # A process that keeps those of some forty networks gets no memory for another's.
    forget_programs()
    return scores, detector


def family(
    specs: Networks,
    data: str,
    seed: int,
    rate: str,
    epochs: tuple[int, int],
    *,
    averaged: bool = False,
) -> dict[str, Any]:
    """One parent with its children, also averaged: a row."""
    ready = ready_for(specs[ITSELF], data)
    objective = supported(support(ready.data.val))
    began = time.monotonic()
    config = sweep_training(epochs[0], mirror=ready.data.mirror, seed=seed)
    own, parent = curve(specs[ITSELF], data, replace(config, **RATES[rate]), objective, None)
    children, smooth = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        save_detector(Path(folder) / "parent", parent, {})
        start = read_source(Path(folder) / "parent")
        for name, spec in specs.items():
            config = sweep_training(epochs[1], mirror=ready.data.mirror, seed=seed + CHILD_SEED)
            children[name], _ = curve(spec, data, config, objective, start)
            if averaged:
                smooth[name], _ = curve(spec, data, replace(config, **AVERAGED), objective, start)
    return {"seed": seed, "rate": rate, "parent": own, "children": children,
            **({"averaged": smooth} if averaged else {}),
            "seconds": round(time.monotonic() - began)}  # fmt: skip


def differences(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By epoch of the children, the objective after a parent whose rate stays minus the other."""
    by = {(row["seed"], row["rate"]): row["children"] for row in rows}
    seeds = [seed for seed, rate in by if rate == "stays" and (seed, "falls") in by]
    return by_epoch([(by[seed, "stays"], by[seed, "falls"]) for seed in sorted(seeds)])


def averaging(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By epoch of the children, the objective of their average minus that of their last weights."""
    rows = sorted((row for row in rows if "averaged" in row), key=lambda row: row["seed"])
    return by_epoch([(row["averaged"], row["children"]) for row in rows])


def ordering(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By epoch of the children before the last, Spearman's correlation of what is scored then with
    how the networks of a row end, the mean of both ways: by the last weights and by an average.

    The interval of their difference is over rows.
    """
    told = [row for row in rows if len(row.get("averaged", ())) >= LEAST]
    found = []
    for epoch in range(len(told[0]["averaged"][ITSELF]) - 1 if told else 0):
        both = []
        for row in told:
            ways = [row["children"], row["averaged"]]
            end = np.array([fmean(way[name][-1] for way in ways) for name in ways[0]])
            both.append([correlations(np.array([way[name][epoch] for name in ways[0]]), end)[0]
                         for way in ways])  # fmt: skip
        last, average = zip(*both, strict=True)
        gains = [more - less for less, more in both]
        found.append({"epoch": epoch + 1, "last": fmean(last), "average": fmean(average),
                      "gains": gains, **interval(gains)})  # fmt: skip
    return found


Curves = Mapping[str, Sequence[float]]
"""Of networks, by name: the objective after every epoch."""


def by_epoch(pairs: Sequence[tuple[Curves, Curves]]) -> list[dict[str, Any]]:
    """After every epoch, what the first of a pair has more, on the mean of its networks."""
    found = []
    for epoch in range(len(next(iter(pairs[0][0].values()))) if pairs else 0):
        gains = [
            fmean(first[name][epoch] - other[name][epoch] for name in first)
            for first, other in pairs
        ]
        found.append({"epoch": epoch + 1, "gains": gains, **interval(gains)})
    return found


def main() -> None:
    """Train the families that are not there yet; print the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument(
        "study",
        type=Path,
        help="folder of a finished sweep that has a parent, or a table of networks (.jsonl)",
    )
    parser.add_argument("--data", help="where the data are (what the study says)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--networks", type=int, default=2, help="the parent itself among them")
    parser.add_argument("--parent-epochs", type=int, default=14)
    parser.add_argument("--epochs", type=int, default=4, help="of a child")
    parser.add_argument("--averaged", action="store_true", help="also children's last steps")
    parser.add_argument("--part", type=int, nargs=2, metavar=("K", "N"), default=(0, 1))
    parser.add_argument("--json", type=Path, required=True, help="the file of the results")
    arguments = parser.parse_args()
    data, all_specs = families(arguments.study, arguments.networks, arguments.data)
    settings = {
        "data": data, "networks": {elder: list(specs) for elder, specs in all_specs.items()},
        "parent_epochs": arguments.parent_epochs, "epochs": arguments.epochs,
        "device": device_name(), "versions": versions(),
    }  # fmt: skip
    lines = arguments.json.with_suffix(".jsonl")
    part, parts = arguments.part
    epochs = arguments.parent_epochs, arguments.epochs
    rates = ("stays",) if arguments.averaged else tuple(RATES)
    for seed, elder, rate in product(range(arguments.seeds), all_specs, rates):
        if (seed + list(all_specs).index(elder)) % parts != part:
            continue
        if any(
            (row["seed"], row["rate"], row.get("family", ITSELF)) == (seed, rate, elder)
            and (not arguments.averaged or "averaged" in row)
            for row in kept(lines)
        ):
            continue
        row = family(all_specs[elder], data, seed, rate, epochs, averaged=arguments.averaged)
        with lines.open("a") as file:
            file.write(json.dumps({"family": elder, **row}) + "\n")
        last = {name: round(scores[-1], 3) for name, scores in row["children"].items()}
        print(f"{elder}, seed {seed}, the parent's rate {rate}: parent {row['parent'][-1]:.3f}, "
              f"children {last}, {row['seconds']} s", flush=True)  # fmt: skip
    rows = kept(lines)
    content = {"settings": settings, "date": time.strftime("%Y-%m-%d"),
               "differences": differences(rows), "averaging": averaging(rows),
               "ordering": ordering(rows), "rows": rows}  # fmt: skip
    replace_file(arguments.json, json.dumps(content, indent=1) + "\n")
    for what, each in [
        *(("a rate that stays", one) for one in differences(rows)),
        *(("an average", one) for one in averaging(rows)),
    ]:
        low, high = each["interval"] or (float("nan"),) * 2
        print(f"{what}, after epoch {each['epoch']}: {each['mean']:+.3f} "
              f"({low:+.3f} to {high:+.3f}), {len(each['gains'])} rows")  # fmt: skip
    for each in ordering(rows):
        low, high = each["interval"] or (float("nan"),) * 2
        print(
            f"order after epoch {each['epoch']} and at the end: {each['last']:.2f} by the last "
            f"weights, {each['average']:.2f} by an average ({low:+.2f} to {high:+.2f})"
        )


def kept(lines: Path) -> list[dict[str, Any]]:
    """The rows that were written so far."""
    return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


if __name__ == "__main__":
    main()
