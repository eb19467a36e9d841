"""What a child of a trained detector scores at once: inherited, mended, and by naive slices.

The parent is the baseline of the default space. Its children are ten with one change each, and ten
at random near it, which may be smaller. Naive slices are arrays of the same path, cut or padded
with zeros to their shapes, and fresh where there is none. Each way is scored before any training,
and after one and the last of a few epochs. The file has an entry for each child; the same command
goes on with the next.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from optuna.trial import FixedTrial

from benchmarks.starts import trained_elsewhere
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.phases import Prepared, prepared
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.nn.compiling import keep_compiled
from flaxyolo.nn.detector import TrainedDetector, Weights, initial_weights
from flaxyolo.scoring.detect import evaluate
from flaxyolo.search.objective import Objective, support, supported
from flaxyolo.search.screen import neighbours
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import reference_params, suggest_detector
from flaxyolo.spec import DetectorSpec, to_dict
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.loop import train
from flaxyolo.weights.inherit.walk import path_text
from flaxyolo.weights.transfer import Source, begun_from

log = logging.getLogger("inherited_children")

CHANGED: Mapping[str, Mapping[str, Any]] = {
    "the same": {},
    "c4 deeper": {"c4.depth": 2},
    "wider": {"width": 24},
    "early c2f": {"early.block": "c2f"},
    "late depthwise": {"late.block": "depthwise"},
    "neck pan": {"neck.kind": "pan"},
    "160 px": {"image_size": 160},
    "192 px": {"image_size": 192},
    "P2": {"plan": "P2-P5"},
    "narrower late": {"ratio": 1.5},
}
"""Children with one change each."""
RANDOM = 10
WAYS = ("naive", "inherited", "mended")


def children(data: Dataset, seed: int) -> dict[str, DetectorSpec]:
    """All of them by name."""
    finish = partial(replace, num_classes=len(data.class_names))
    params = reference_params(suggest_detector)
    found = {
        name: finish(suggest_detector(FixedTrial(reference_params(suggest_detector, changed))))
        for name, changed in CHANGED.items()
    }
    near = neighbours(params, suggest_detector, random.Random(seed), 2 * RANDOM, finish=finish)
    others = [each.spec for each in near if each.spec not in found.values()]
    return found | {f"random {place}": spec for place, spec in enumerate(others[:RANDOM])}


def naive(spec: DetectorSpec, parent: Source, seed: int) -> Weights:
    """Arrays of the same path, cut or padded with zeros; fresh where there is none."""
    held = {
        path_text(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(parent.weights)
    }

    def taken(path: Any, leaf: jax.Array) -> jax.Array:
        found = held.get(path_text(path))
        if found is None or found.ndim != leaf.ndim:
            return leaf
        array = np.array(leaf)
        common = tuple(slice(0, min(pair)) for pair in zip(array.shape, found.shape, strict=True))
        if array.ndim == 4:
            # The parent's channels do not hear the new ones.
            array[:, :, found.shape[2] :, : found.shape[3]] = 0
        array[common] = found[common]
        return jnp.array(array)

    return jax.tree_util.tree_map_with_path(taken, initial_weights(spec, seed))


def starts(
    ready: Prepared, parent: Source, epochs: int, seed: int
) -> Iterator[tuple[str, Weights, dict[str, Any]]]:
    """The first weights of every way, with what is known of them."""
    yield "naive", naive(ready.spec, parent, seed), {}
    begun = begun_from(parent, ready.spec, seed, ready.data.class_names)
    known = {"share": begun.share}
    yield "inherited", begun.weights, known
    began, config = time.perf_counter(), sweep_training(epochs, mirror=ready.data.mirror, seed=seed)
    if (task := to_mend(ready.spec, parent, begun)) is not None:
        fit = mend(task, ready.feed, config, parent, begun)
        seconds = time.perf_counter() - began
        yield "mended", fit.weights, {**known, "missed": fit.after, "mend_s": seconds}


def scores(
    ready: Prepared, weights: Weights, epochs: int, seed: int, objective: Objective
) -> dict[str, Any]:
    """mAP and the objective after 0, 1 and all epochs."""
    data, found = ready.data, {}

    def keep(epoch: int, detector: TrainedDetector) -> None:
        told = evaluate(detector, data.val, ready.val, data.class_names, data.category_ids)
        found[str(epoch)] = {"map": told.map, "objective": objective.value(told)}

    keep(0, TrainedDetector(ready.spec, weights, tuple(data.class_names)))
    config = sweep_training(epochs, mirror=data.mirror, seed=seed)
    for epoch in train(ready.spec, ready.feed, data.class_names, config, initial=weights):
        if epoch.number in (1, epochs):
            keep(epoch.number, epoch.detector)
    return found


def table(rows: list[dict[str, Any]], epochs: int) -> str:
    """As Markdown: the objective of each way after 0, 1 and all epochs, and its mean."""
    at = ("0", "1", str(epochs))
    ways = " | ".join(f"{way}, after {', '.join(at)}" for way in WAYS)
    lines = [f"| child | inherited | {ways} |", "|---|---:|---|---|---|"]
    named = {row["child"]: row["ways"] for row in rows}
    for name, tried in named.items():
        parts = [_told([tried[way]], at) if way in tried else "nothing to mend" for way in WAYS]
        share = tried["inherited"]["share"]
        lines.append(f"| {name} | {share:.0%} | {' | '.join(parts)} |")
    # What needs no mending begins as inherited.
    means = [
        _told([tried.get(way, tried["inherited"]) for tried in named.values()], at) for way in WAYS
    ]
    return "\n".join([*lines, f"| mean of {len(named)} | | {' | '.join(means)} |"])


def _told(ways: list[dict[str, Any]], at: tuple[str, ...]) -> str:
    return " ".join(
        f"{np.mean([way['scores'][epoch]['objective'] for way in ways]):.3f}" for epoch in at
    )


def main() -> None:
    """Train the parent and the children that are not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--parent-epochs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=len(CHANGED) + RANDOM)
    parser.add_argument("--out", type=Path, default=Path("runs/inherited_children"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    arguments.out.mkdir(parents=True, exist_ok=True)
    keep_compiled()
    data = read_dataset(arguments.data)
    objective = supported(support(data.val))
    wanted = children(data, arguments.seed)
    folder = arguments.out / "parent"
    parent = trained_elsewhere(wanted["the same"], arguments.data, arguments.parent_epochs, folder)
    path = arguments.out / "rows.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name, spec in list(wanted.items())[: arguments.children]:
        if any(row["child"] == name for row in rows):
            continue
        ready = prepared(spec, data, "auto")
        ways = {
            way: {"scores": scores(ready, weights, arguments.epochs, arguments.seed, objective),
                  **known}
            for way, weights, known in starts(ready, parent, arguments.epochs, arguments.seed)
        }  # fmt: skip
        rows.append({"child": name, "spec": to_dict(spec), "ways": ways})
        told = {"what": "objective of children of a trained parent, by how they begin",
                "data": data.name, "parent_epochs": arguments.parent_epochs,
                "epochs": arguments.epochs, "seed": arguments.seed, "rows": rows,
                "device": device_name(), "versions": versions(),
                "date": time.strftime("%Y-%m-%d")}  # fmt: skip
        path.write_text(json.dumps(told, indent=1) + "\n")
        log.info("%d of %d: %s", len(rows), arguments.children, name)
    print(table(rows, arguments.epochs))


if __name__ == "__main__":
    main()
