"""What lies in a study's folder beside the study: tables, pictures, and the best detector."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flaxyolo import report
from flaxyolo.charts import draw_detections, trial_scatter
from flaxyolo.checkpoint import load_detector, read_metadata, save_detector
from flaxyolo.config import Config, TrainConfig, write_config
from flaxyolo.cost import Budget
from flaxyolo.data.images import decode
from flaxyolo.data.rules import Advice
from flaxyolo.data.sources import Dataset, Example
from flaxyolo.data.stream import Keep, open_pixels
from flaxyolo.evaluate import run_detector
from flaxyolo.nn.detector import Found, TrainedDetector
from flaxyolo.search.advised import verdicts
from flaxyolo.search.results import TrialResult, best_result
from flaxyolo.search.space import Suggest

log = logging.getLogger(__name__)

DRAWN_IMAGES = 12
"""Validation images in `detections.png`."""
DRAWN_SCORE = 0.25
"""Least score of a box that is drawn."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Everything that stays the same from trial to trial."""

    suggest: Suggest
    budget: Budget
    data: Dataset
    source: str
    """The data as the user named it."""
    config: TrainConfig
    folder: Path
    advice: tuple[Advice, ...] = ()
    """What the data say a detector should be."""
    keep: Keep = "auto"
    """Where images wait to be trained on."""

    @property
    def runs(self) -> Path:
        """Folder of the training runs."""
        return self.folder / "trials"

    def report(self, found: list[TrialResult]) -> report.Report:
        """The results with what they are about."""
        told = tuple(verdict.line() for verdict in verdicts(found, self.advice))
        return report.Report(tuple(found), self.source, self.budget.describe(), told)


def outcome(result: TrialResult) -> str:
    """What became of a trial, with its figures, in a line."""
    parts = [report.note(result)]
    if result.scores is not None and result.objective is not None:
        parts += [
            f"mAP {result.scores['map'] or 0.0:.3f}",
            f"mAP50 {result.scores['map_50'] or 0.0:.3f}",
        ]
    if result.cost is not None:
        parts.append(f"{result.cost.latency_ms_p95:.2f} ms p95")
    return ", ".join(parts)


def update_outputs(found: list[TrialResult], sweep: Sweep) -> None:
    """Bring the tables, the pictures and the best detector in line with the study."""
    if any(result.cost for result in found):
        report.write(sweep.report(found), sweep.folder)
        trial_scatter(report.flat_rows(found), sweep.budget.latency_ms, sweep.folder / "trials.png")
    for result in found:
        if result.run and result.is_over and result.duplicate_of is None:
            # It only serves to go on with a training run.
            shutil.rmtree(sweep.runs / result.run / "state", ignore_errors=True)
    keep_best(found, sweep)


def keep_best(found: list[TrialResult], sweep: Sweep) -> None:
    """Make `best/`, `best.yaml` and `detections.png` those of the best trial of the study."""
    here = [r for r in found if r.run and (sweep.runs / r.run / "detector").is_dir()]
    best, missing = best_result(here), best_result(found)
    if missing is not None and missing is not best:
        log.warning(
            "trial %d is the best, but its weights are not under %s; it ran elsewhere",
            missing.number,
            sweep.runs,
        )
    if best is None or best.spec is None or best.run is None:
        return
    kept = sweep.folder / "best"
    if kept.is_dir() and read_metadata(kept)["facts"].get("trial") == best.number:
        return
    path = sweep.runs / best.run / "detector"
    detector = load_detector(path)
    line = f"Best of study {sweep.folder.name}: trial {best.number}, {outcome(best)}"
    write_config(sweep.folder / "best.yaml", Config(best.spec, sweep.config), line)
    draw_best(detector, sweep, f"Trial {best.number} of {sweep.folder.name}")
    # Last: it tells which trial the three belong to.
    save_detector(kept, detector, read_metadata(path)["facts"] | {"trial": best.number})


def draw_best(detector: TrainedDetector, sweep: Sweep, title: str) -> None:
    """Draw what a detector finds on a dozen validation images, from first to last."""
    pixels = open_pixels(sweep.data, "val", detector.spec.image_size, keep=sweep.keep)
    count = len(sweep.data.val)
    chosen = np.unique(np.linspace(0, count - 1, min(DRAWN_IMAGES, count)).round().astype(int))
    examples = [sweep.data.val[i] for i in chosen]
    some = pixels._replace(images=np.asarray(pixels.images[chosen]))
    found = [_confident(each) for each in run_detector(detector, examples, some)]
    images = [_picture(example) for example in examples]
    names = sweep.data.class_names
    draw_detections(images, found, examples, names, sweep.folder / "detections.png", title=title)


def _confident(found: Found) -> Found:
    keep = found.scores >= DRAWN_SCORE
    return Found(found.boxes[keep], found.scores[keep], found.labels[keep])


def _picture(example: Example) -> np.ndarray:
    return decode(example.image, oriented=example.oriented)
