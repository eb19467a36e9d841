"""What it is worth to begin elsewhere, or to be taught: paired trainings of one network.

A network is trained on every data set with every seed in several ways, each as a sweep trains:
"scratch" from fresh weights, "longer" the same for three times the epochs, "parent" from the
weights of the network trained on --parent-data, "taught" from fresh weights by a larger teacher
that was trained on the same images. The file has the scores of every run, and the differences by
seed with their 95 % intervals; the same command goes on where it stopped.
"""

import argparse
import json
import logging
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import FixedTrial
from scipy.stats import t as student

from flaxyolo.base.files import replace_file
from flaxyolo.config import read_config
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.crew.phases import Prepared, prepared
from flaxyolo.data.sources import read_dataset
from flaxyolo.scoring.average_precision import KEYS
from flaxyolo.scoring.detect import evaluate
from flaxyolo.search.setting import sweep_training
from flaxyolo.search.space import reference_params, suggest_detector
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.begin import mend, to_mend
from flaxyolo.training.distill import teacher_for
from flaxyolo.training.loop import train
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source

log = logging.getLogger("starts")

SCRATCH, LONGER, PARENT, TAUGHT = WAYS = ("scratch", "longer", "parent", "taught")
TIMES = 3
"""Times as many epochs of what is trained for longer."""
AGAINST = ((PARENT, SCRATCH), (PARENT, LONGER), (TAUGHT, SCRATCH), (LONGER, SCRATCH))
"""What is compared, the second taken from the first."""


class Elsewhere(NamedTuple):
    """Detectors that a run has something from."""

    parent: Source | None = None
    teacher: Source | None = None


def network(config: Path | None, image_size: int | None) -> DetectorSpec:
    """The network of a file of configs/, or the baseline of the default space, at that size."""
    if config is None:
        spec = suggest_detector(FixedTrial(reference_params(suggest_detector)))
    else:
        spec = read_config(config).detector
    return replace(spec, image_size=image_size or spec.image_size)


def ready_for(spec: DetectorSpec, source: str) -> Prepared:
    """The network with the classes of a data set, and its images."""
    data = read_dataset(source)
    return prepared(replace(spec, num_classes=len(data.class_names)), data, "auto")


def trained_elsewhere(spec: DetectorSpec, source: str, epochs: int, folder: Path) -> Source:
    """A parent or teacher, trained now where it is not there yet."""
    if not (folder / "detector").is_dir():
        ready = ready_for(spec, source)
        config, names = sweep_training(epochs, mirror=ready.data.mirror), ready.data.class_names
        for epoch in train(ready.spec, ready.feed, names, config, run_dir=folder):
            log.info("%s: epoch %d of %d, %.0f s", folder, epoch.number, epochs, epoch.seconds)
            if epoch.number == epochs:
                scores = scores_of(epoch.detector, ready)
                log.info("%s: mAP %.3f", folder, scores["map"] or 0.0)
                save_detector(folder / "detector", epoch.detector, {"scores": scores})
        shutil.rmtree(folder / "state", ignore_errors=True)
    return read_source(folder / "detector")


def scores_of(detector: Any, ready: Prepared) -> dict[str, float | None]:
    """Average precision on the validation images."""
    data = ready.data
    scores = evaluate(detector, data.val, ready.val, data.class_names, data.category_ids)
    return {key: getattr(scores, key) for key in KEYS}


def run(
    row: dict[str, Any],
    ready: Prepared,
    elsewhere: Elsewhere,
    settings: dict[str, Any],
    folder: Path,
    save: Any,
) -> None:
    """Train one run to its end, and `save` its row after every epoch that is scored."""
    data, seed, way = ready.data, row["seed"], row["start"]
    epochs = settings["epochs"] * (TIMES if way == LONGER else 1)
    config = sweep_training(epochs, mirror=data.mirror, seed=seed)
    initial = teacher = None
    if way == PARENT and elsewhere.parent is not None:
        begun = begun_from(elsewhere.parent, ready.spec, seed, data.class_names)
        initial, row["inherited"] = begun.weights, begun.share
        if (task := to_mend(ready.spec, elsewhere.parent, begun)) is not None:
            initial = mend(task, ready.feed, config, elsewhere.parent, begun).weights
    if way == TAUGHT and elsewhere.teacher is not None:
        teacher = teacher_for(elsewhere.teacher, ready.spec, data.class_names)
    score_at = {*(settings["score_at"] or range(1, epochs + 1)), epochs}
    known = {point["epoch"] for point in row["curve"]}
    for epoch in train(
        ready.spec, ready.feed, data.class_names, config, run_dir=folder, initial=initial,
        teacher=teacher,
    ):  # fmt: skip
        if epoch.number in score_at - known:
            scores = scores_of(epoch.detector, ready)
            row["curve"].append({"epoch": epoch.number, "train_s": epoch.seconds, **scores})
            row["complete"] = epoch.number == epochs
            save()
    shutil.rmtree(folder, ignore_errors=True)
    log.info("%s, %s, seed %d: mAP %.3f", row["data"], way, seed,
             row["curve"][-1]["map"] or 0.0)  # fmt: skip


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """mAP of one way minus that of another, by data set and epoch: pairs of equal seeds.

    What was trained for longer is compared by its end alone, with the end of the others.
    """
    curves = {
        (row["data"], row["start"], row["seed"]): {
            point["epoch"]: point["map"] or 0.0 for point in row["curve"]
        }
        for row in runs
        if row["curve"]
    }
    found = []
    for data in sorted({key[0] for key in curves}):
        for way, other in AGAINST:
            by_epoch: dict[int, list[float]] = {}
            for (known, start, seed), theirs in sorted(curves.items()):
                mine = curves.get((data, way, seed), {})
                if (known, start) != (data, other) or not mine:
                    continue
                if LONGER in (way, other):
                    ends = max(mine), max(theirs)
                    if max(ends) == TIMES * min(ends):
                        by_epoch.setdefault(min(ends), []).append(mine[ends[0]] - theirs[ends[1]])
                    continue
                for epoch in sorted(mine.keys() & theirs.keys()):
                    by_epoch.setdefault(epoch, []).append(mine[epoch] - theirs[epoch])
            found += [
                {"data": data, "way": way, "against": other, "epoch": epoch, "gains": gains,
                 **interval(gains)}
                for epoch, gains in sorted(by_epoch.items())
            ]  # fmt: skip
    return found


def interval(gains: Sequence[float]) -> dict[str, Any]:
    """Mean, and its 95 % interval over seeds where there are several."""
    mean = statistics.fmean(gains)
    if len(gains) < 2:
        return {"mean": mean, "interval": None}
    half = float(student.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains)
    half /= math.sqrt(len(gains))
    return {"mean": mean, "interval": [mean - half, mean + half]}


def held(path: Path, settings: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What a file of results has under a name, none where it is not there yet; SystemExit where it
    is one of other settings."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(f"{path}: expected the settings {settings}, found {found['settings']}")
    return found[name]


def main() -> None:
    """Train the parent and all runs that are not there yet; print the differences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--config", type=Path, help="a file of configs/ instead of the baseline")
    parser.add_argument("--image-size", type=int, help="the network's own")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=(SCRATCH, PARENT))
    parser.add_argument("--parent-data", default="scenes")
    parser.add_argument("--parent-epochs", type=int, default=12)
    parser.add_argument("--teacher-config", type=Path, default=Path("configs/yolov8n.yaml"))
    parser.add_argument("--teacher-epochs", type=int, default=36)
    parser.add_argument("--data", nargs="+", required=True, help="such as coco:DIR")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--score-at", type=int, nargs="+", help="epochs (every one)", default=())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="for the parent and for states")
    parser.add_argument("--json", type=Path, required=True, help="the file of the results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    spec = network(arguments.config, arguments.image_size)
    settings = {
        "what": "mAP of one network by how its training begins",
        "network": "baseline" if arguments.config is None else str(arguments.config),
        "image_size": spec.image_size,
        "epochs": arguments.epochs,
        "score_at": list(arguments.score_at),
        "parent": {"data": arguments.parent_data, "epochs": arguments.parent_epochs},
        "teacher": {"network": str(arguments.teacher_config), "epochs": arguments.teacher_epochs},
        "device": device_name(),
        "versions": versions(),
    }
    runs = held(arguments.json, settings, "runs")

    def save() -> None:
        content = {"settings": settings, "date": time.strftime("%Y-%m-%d"), "runs": runs}
        content["differences"] = differences(runs)
        replace_file(arguments.json, json.dumps(content, indent=1) + "\n")

    parent = None
    if PARENT in arguments.ways:
        parent = trained_elsewhere(
            spec, arguments.parent_data, arguments.parent_epochs, arguments.out / "parent"
        )
    for place, source in enumerate(arguments.data):
        ready, teacher = ready_for(spec, source), None
        if TAUGHT in arguments.ways:
            larger = network(arguments.teacher_config, spec.image_size)
            teacher = trained_elsewhere(
                larger, source, arguments.teacher_epochs, arguments.out / f"teacher-{place}"
            )
        for seed in range(arguments.seeds):
            for start in arguments.ways:
                name = {"data": source, "start": start, "seed": seed}
                row = next((row for row in runs if name.items() <= row.items()), None)
                if row is None:
                    row = name | {"curve": [], "complete": False}
                    runs.append(row)
                if not row["complete"]:
                    folder = arguments.out / f"{place}-{start}-{seed}"
                    run(row, ready, Elsewhere(parent, teacher), settings, folder, save)
    for row in differences(runs):
        told = row["interval"] and f" ({row['interval'][0]:+.3f} to {row['interval'][1]:+.3f})"
        print(f"{row['data']}, {row['way']} minus {row['against']}, epoch {row['epoch']}: "
              f"{row['mean']:+.3f}{told or ''}")  # fmt: skip


if __name__ == "__main__":
    main()
