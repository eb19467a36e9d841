"""A study's folder as a sweep leaves it, made in a moment: nothing is trained."""

import json
from pathlib import Path

import cv2
import numpy as np

from flaxyolo.cost.budget import Budget
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import FINAL, Entry
from flaxyolo.crew.storage import open_runs
from flaxyolo.data.sources import Example
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.coco_matches import matched_by_size
from flaxyolo.scoring.curves import curves
from flaxyolo.scoring.diagnosis import diagnose
from flaxyolo.scoring.matches import match
from flaxyolo.scoring.mistakes import mistakes
from flaxyolo.scoring.thresholds import thresholds
from flaxyolo.search.controls import SCALED
from flaxyolo.search.objective import Objective
from flaxyolo.search.results import results
from flaxyolo.spec import BackboneSpec, DetectorSpec, NeckSpec, StageSpec
from flaxyolo.trials.published import publish
from flaxyolo.trials.standings import Standings
from tests.scoring.judged import judged
from tests.search.made import COST
from tests.small import tiny_spec

NAMES = ("<script>alert(1)</script>", '"><img src=http://x.test/y onerror=alert(2)>', "$5 & 螺丝")
"""Classes of somebody who tries."""
SOURCE = "coco:</title><script src=https://x.test/z.js></script>"
SIDE = 120
BUDGET = Budget(10.0)


def scene():
    """Truth and detections of three images, small and medium, some right and some wrong."""
    places = {0: (5, 5, 20, 20), 1: (30, 5, 50, 60), 2: (5, 70, 100, 45)}
    truth = {
        "images": [{"id": number} for number in (1, 2, 3)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES)],
        "annotations": [
            {"id": 10 * image + label, "image_id": image, "category_id": label, "bbox": box,
             "area": box[2] * box[3], "iscrowd": 0}
            for image in (1, 2, 3) for label, box in places.items()
        ],
    }  # fmt: skip
    rows = [(image, *box, 0.9 - 0.1 * image, label)
            for image in (1, 2, 3) for label, box in places.items()]  # fmt: skip
    # Another class, a second time, and where nothing is.
    rows += [(1, 5, 5, 20, 20, 0.95, 1), (2, 6, 70, 98, 45, 0.3, 2), (3, 95, 5, 20, 20, 0.4, 0)]
    return judged(truth, np.array(rows[1:], float))


def examples():
    noise = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE, 3), np.uint8)
    none = np.zeros(0, np.float32)
    return [
        Example(number, image, SIDE, SIDE, none.reshape(-1, 4), none.astype(np.int32), none,
                none.astype(bool))
        for number, image in enumerate(noise, 1)
    ]  # fmt: skip


def winner() -> DetectorSpec:
    """Attention, a context, and every level from C2 to C5."""
    stages = tuple(
        StageSpec(block="c2f", width=width, depth=depth, attention=attention)
        for width, depth, attention in
        ((16, 1, "none"), (32, 2, "se"), (64, 2, "cbam"), (96, 1, "none"))
    )  # fmt: skip
    backbone = BackboneSpec(stem_width=8, stages=stages, context="sppf")
    return DetectorSpec(backbone, NeckSpec(kind="pan", levels=(2, 3, 4, 5), block="plain"),
                        num_classes=3, image_size=128)  # fmt: skip


def write_study(folder: Path, *, seeds: int = 2) -> Path:
    """A winner and both controls with full runs, a candidate that stopped, one over the budget."""
    runs = open_runs(folder)
    facts = {
        "source": SOURCE,
        "budget": BUDGET.to_dict(),
        "objective": Objective().text,
        "device": "a <device>",
        "fingerprint": "f" * 64,
        "space": "default",
        "schedule": {"short_epochs": 3, "epochs": 9},
        "training": {"box_gain": 7.5, "seed": 0},
    }
    runs.set_user_attr("facts", facts)
    truth, found = scene()
    scores = coco_scores(truth, found)

    def tried(*rungs, cost=COST, final_of=None, seed=None, **facts):
        trial = runs.ask()
        entry = Entry(trial)
        trial.suggest_int("width", 1, 64)
        if final_of is not None:
            entry.keep(stage=FINAL, finalist=final_of, seed=seed)
        entry.keep(cost=cost, seconds={"train": 3.0, "measure": 1.0}, **facts)
        entry.constrain(BUDGET.excess(cost))
        for epoch, value in rungs:
            loss = {"box": 1.0 / epoch, "cls": 2.0 / epoch, "dfl": 0.5}
            point = CurvePoint(epoch, value, loss, value / 3, value / 2, 1.0, 0.03)
            entry.keep_score(point, scores)
        return trial

    def costing(p95):
        return {**COST.__dict__, "latency_ms_p50": p95 - 0.5, "latency_ms_p95": p95}

    begun = {"copied": 0.7, "fresh": 0.3}
    specs = (tiny_spec(), winner(), tiny_spec(image_size=128), tiny_spec(image_size=96))
    kinds = (
        ("baseline", 2.0, 0.3),
        ("advised", 7.0, 0.6),
        (SCALED, 6.5, 0.4),
        ("explore", 12.0, 0.1),
    )
    for spec, (origin, p95, value) in zip(specs, kinds, strict=True):
        cost = type(COST)(**costing(p95))
        tried((3, value), cost=cost, origin=origin, spec=spec, inherited=0.6, begun=begun)
    for trial in runs.get_trials(deepcopy=False)[:3]:
        value, cost = trial.intermediate_values[3], type(COST)(**trial.user_attrs["cost"])
        for seed in range(seeds):
            name = f"run{trial.number}{seed}"
            run = tried((9, value + 0.3 + 0.02 * seed), cost=cost, final_of=trial.number, seed=seed,
                        spec=specs[trial.number], run=name, inherited=0.6, begun=begun)  # fmt: skip
            runs.tell(run, value + 0.3 + 0.02 * seed)
            write_run(folder / "trials" / name, truth, found)
    cv2.imwrite(str(folder / "detections.png"), np.full((40, 60, 3), 90, np.uint8))
    publish(runs, Standings(results(runs), BUDGET, Objective()), folder, ended=True)
    return folder


def write_run(folder: Path, truth, found) -> None:
    """What lies in the folder of a run that was trained to its end, but for its weights."""
    folder.mkdir(parents=True)
    diagnosis = diagnose(truth, found)
    reached = thresholds(diagnosis.case, match(diagnosis.case))
    matched = matched_by_size(truth, found)
    content = {
        "errors": diagnosis.to_dict(),
        "curves": curves(reached, matched).to_dict(),
        "mistakes": [one.to_dict() for one in mistakes(diagnosis, examples())],
    }
    for name, data in content.items():
        (folder / f"{name}.json").write_text(json.dumps(data))
