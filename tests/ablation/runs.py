"""Made-up arms and runs of an ablation, with detections on disk."""

from dataclasses import replace

import numpy as np

from flaxyolo.ablation.results import Arm, Run, save_detections
from flaxyolo.scoring.average_precision import coco_scores
from tests.ablation.made import made_rows, made_truth
from tests.scoring.judged import judged

COST = {
    "latency_ms_p50": 10.0,
    "latency_ms_p95": 12.0,
    "network_ms_p50": 8.0,
    "fps": 100.0,
    "vram_mib": 20.5,
    "train_vram_mib": None,
    "params": 1_234_567,
    "gflops": 1.25,
    "device": "cpu",
    "dtype": "float32",
    "image_size": 160,
    "batch_size": 1,
    "train_batch_size": None,
    "versions": {},
}


def made_ablation(folder, skills, *, seeds=3, images=60, seed=0):
    """Arms, runs and ground truth: an arm finds objects with its skill."""
    random = np.random.default_rng(seed)
    truth = made_truth(random, images=images)
    arms, runs = [], []
    for name, skill in skills.items():
        changes = {} if not arms else {"backbone.stages.2.attention": name}
        arms.append(Arm(name, changes))
        for number in range(seeds):
            objects, found = judged(truth, made_rows(random, truth, skill=skill))
            place = folder / name / str(number)
            place.mkdir(parents=True)
            save_detections(place, found, objects)
            scores = coco_scores(objects, found).to_dict()
            train = {**scores, "map": scores["map"] + 0.1}
            cost = {**COST, "latency_ms_p50": 10.0 + number}
            runs.append(Run(name, number, scores, train, cost, place))
    return arms, runs, judged(truth, [])[0]


def stored_rows(folder):
    """The detections of a run as they lie on the disk."""
    with np.load(folder / "detections.npz") as file:
        return file["rows"]


def renamed(runs, name, **changes):
    """The runs with those of one arm changed."""
    return [replace(run, **changes) if run.arm == name else run for run in runs]
