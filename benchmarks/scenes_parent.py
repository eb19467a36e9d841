"""Whether a parent that was trained on drawn scenes helps: the same training from it and from none.

One network is trained on `scenes` (or --parent-data), then on every data set with every seed from
its weights and from fresh ones, as a sweep trains. The file has the scores of every run, and the
differences by seed with their 95 % intervals; the same command goes on where it stopped.
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
from typing import Any

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
from flaxyolo.training.loop import train
from flaxyolo.weights.checkpoint import save_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source

log = logging.getLogger("scenes_parent")

STARTS = ("scratch", "parent")


def network(config: Path | None, image_size: int) -> DetectorSpec:
    """The network of a file of configs/, or the baseline of the default space, at that size."""
    if config is None:
        spec = suggest_detector(FixedTrial(reference_params(suggest_detector)))
    else:
        spec = read_config(config).detector
    return replace(spec, image_size=image_size)


def ready_for(spec: DetectorSpec, source: str) -> Prepared:
    """The network with the classes of a data set, and its images."""
    data = read_dataset(source)
    return prepared(replace(spec, num_classes=len(data.class_names)), data, "auto")


def trained_parent(spec: DetectorSpec, source: str, epochs: int, folder: Path) -> Source:
    """The parent, trained now where it is not there yet."""
    if not (folder / "detector").is_dir():
        ready = ready_for(spec, source)
        config, names = sweep_training(epochs, mirror=ready.data.mirror), ready.data.class_names
        for epoch in train(ready.spec, ready.feed, names, config, run_dir=folder):
            log.info("parent: epoch %d of %d, %.0f s", epoch.number, epochs, epoch.seconds)
            if epoch.number == epochs:
                scores = {"scores": scores_of(epoch.detector, ready)}
                save_detector(folder / "detector", epoch.detector, scores)
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
    parent: Source | None,
    settings: dict[str, Any],
    folder: Path,
    save: Any,
) -> None:
    """Train one run to its end, and `save` its row after every epoch that is scored."""
    data, epochs, seed = ready.data, settings["epochs"], row["seed"]
    config = sweep_training(epochs, mirror=data.mirror, seed=seed)
    initial = None
    if parent is not None:
        begun = begun_from(parent, ready.spec, seed, data.class_names)
        initial, row["inherited"] = begun.weights, begun.share
    score_at = {*(settings["score_at"] or range(1, epochs + 1)), epochs}
    known = {point["epoch"] for point in row["curve"]}
    for epoch in train(
        ready.spec, ready.feed, data.class_names, config, run_dir=folder, initial=initial
    ):
        if epoch.number in score_at - known:
            scores = scores_of(epoch.detector, ready)
            row["curve"].append({"epoch": epoch.number, "train_s": epoch.seconds, **scores})
            save()
    shutil.rmtree(folder, ignore_errors=True)
    log.info("%s, %s, seed %d: mAP %.3f", row["data"], row["start"], seed,
             row["curve"][-1]["map"] or 0.0)  # fmt: skip


def differences(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """mAP from the parent minus mAP from scratch, by data set and epoch: pairs of equal seeds."""
    maps = {
        (row["data"], point["epoch"], row["seed"], row["start"]): point["map"] or 0.0
        for row in runs
        for point in row["curve"]
    }
    found = []
    for data, epoch in sorted({key[:2] for key in maps}):
        seeds = sorted({key[2] for key in maps if key[:2] == (data, epoch)})
        pairs = [[maps.get((data, epoch, seed, start)) for start in STARTS] for seed in seeds]
        gains = [pair[1] - pair[0] for pair in pairs if None not in pair]
        if gains:
            found.append({"data": data, "epoch": epoch, "gains": gains, **interval(gains)})
    return found


def interval(gains: Sequence[float]) -> dict[str, Any]:
    """Mean, and its 95 % interval over seeds where there are several."""
    mean = statistics.fmean(gains)
    if len(gains) < 2:
        return {"mean": mean, "interval": None}
    half = float(student.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains)
    half /= math.sqrt(len(gains))
    return {"mean": mean, "interval": [mean - half, mean + half]}


def main() -> None:
    """Train the parent and all runs that are not there yet; print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--config", type=Path, help="a file of configs/ instead of the baseline")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--parent-data", default="scenes")
    parser.add_argument("--parent-epochs", type=int, default=12)
    parser.add_argument("--data", nargs="+", required=True, help="such as coco:DIR")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--score-at", type=int, nargs="+", help="epochs (every one)", default=())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="for the parent and for states")
    parser.add_argument("--json", type=Path, required=True, help="the file of the results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    settings = {
        "what": "mAP of training from a parent and from scratch",
        "network": "baseline" if arguments.config is None else str(arguments.config),
        "image_size": arguments.image_size,
        "parent_data": arguments.parent_data,
        "parent_epochs": arguments.parent_epochs,
        "epochs": arguments.epochs,
        "score_at": list(arguments.score_at),
        "device": device_name(),
        "versions": versions(),
    }
    spec = network(arguments.config, arguments.image_size)
    runs: list[dict[str, Any]] = []
    if arguments.json.exists():
        held = json.loads(arguments.json.read_text())
        if held["settings"] != settings:
            raise SystemExit(
                f"{arguments.json}: expected the settings {settings}, found {held['settings']}"
            )
        runs = held["runs"]

    def save() -> None:
        content = {"settings": settings, "date": time.strftime("%Y-%m-%d"), "runs": runs}
        content["differences"] = differences(runs)
        replace_file(arguments.json, json.dumps(content, indent=1) + "\n")

    parent = trained_parent(
        spec, arguments.parent_data, arguments.parent_epochs, arguments.out / "parent"
    )
    for source in arguments.data:
        ready = ready_for(spec, source)
        for seed in range(arguments.seeds):
            for start in STARTS:
                name = {"data": source, "start": start, "seed": seed}
                row = next((row for row in runs if name.items() <= row.items()), None)
                if row is None:
                    row = name | {"curve": []}
                    runs.append(row)
                if row["curve"] and row["curve"][-1]["epoch"] == arguments.epochs:
                    continue
                place = arguments.data.index(source)
                folder = arguments.out / f"{place}-{start}-{seed}"
                run(row, ready, parent if start == "parent" else None, settings, folder, save)
    for row in differences(runs):
        told = row["interval"] and f" ({row['interval'][0]:+.3f} to {row['interval'][1]:+.3f})"
        print(f"{row['data']}, epoch {row['epoch']}: {row['mean']:+.3f}{told or ''}")


if __name__ == "__main__":
    main()
