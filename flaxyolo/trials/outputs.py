"""What lies in a study's folder beside the study: tables, pictures, and the best detector."""

import json
import logging
import shutil

import numpy as np

from flaxyolo.base import cli
from flaxyolo.base.files import replace_file
from flaxyolo.config import Config, write_config
from flaxyolo.cost.measure import forget_programs
from flaxyolo.data.feeds import open_pixels
from flaxyolo.data.sources import absolute
from flaxyolo.machine.gate import Gate
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.scoring.detect import run_detector
from flaxyolo.scoring.pictures import draw_sample, sample
from flaxyolo.search.advised import verdicts
from flaxyolo.search.finalists import verdict
from flaxyolo.search.setting import Sweep
from flaxyolo.trials.account import front_line, funnel_line, inside_line, seconds_line
from flaxyolo.trials.pareto import draw_front
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import Report, outcome, write
from flaxyolo.trials.trial import CURVES_FILE, ERRORS_FILE, MISTAKES_FILE
from flaxyolo.weights.checkpoint import SOURCE, load_detector, read_metadata, save_detector

log = logging.getLogger(__name__)

PICTURE = "detections.png"
"""In a study's folder: what the best detector finds on a few validation images."""


def sweep_report(standings: Standings, sweep: Sweep) -> Report:
    """The standings with what they are about."""
    found = standings.records
    told = [funnel_line(found, sweep.spending)]
    if not standings.nothing_learnt:
        told += verdict(standings.finalists)
    told += [line for line in (front_line(standings),) if line]
    advised = verdicts(found, sweep.objective)
    told += [f"Advice: {one.line()}" for one in advised if one.held is not None]
    told += [line for line in (inside_line(found), seconds_line(found)) if line]
    return Report(standings, sweep.source, tuple(told))


def update_outputs(standings: Standings, sweep: Sweep, gate: Gate) -> None:
    """Bring the tables, the pictures and the best detector in line with the study."""
    if any(record.cost for record in standings.records):
        write(sweep_report(standings, sweep), sweep.folder)
        draw_front(standings, sweep.folder / "pareto.png")
    keep_best(standings, sweep, gate)


def remove_states(sweep: Sweep) -> None:
    """Remove what only serves to go on with a training run; of a sweep that is complete."""
    for path in sweep.runs.glob("*/state"):
        shutil.rmtree(path, ignore_errors=True)


def remove_done(standings: Standings, sweep: Sweep) -> None:
    """The same of the runs that are complete, while the sweep goes on: four times their weights
    each."""
    for record in standings.records:
        if record.state == "complete" and record.run is not None:
            shutil.rmtree(sweep.runs / record.run / "state", ignore_errors=True)


def keep_best(standings: Standings, sweep: Sweep, gate: Gate) -> None:
    """Make `best/`, `best.yaml` and `detections.png` those of the best run of the study."""
    here = [
        record
        for record in standings.records
        if record.run is None or (sweep.runs / record.run / "detector").is_dir()
    ]
    best, missing = standings.among(here).best, standings.best
    if missing is not None and missing is not best:
        log.warning(
            "trial %d is the best, but its weights are not under %s; it ran elsewhere",
            missing.trial,
            sweep.runs,
        )
    if best is None or best.spec is None or best.run is None:
        return
    kept = sweep.folder / "best"
    facts = {SOURCE: absolute(sweep.data.name), "trial": best.trial, "run": best.run}
    if kept.is_dir() and facts.items() <= read_metadata(kept)["facts"].items():
        return
    path = sweep.runs / best.run / "detector"
    detector = load_detector(path)
    rank = "First, though nothing has learnt," if standings.nothing_learnt else "Best"
    line = f"{rank} of study {sweep.folder.name}: trial {best.trial}, {outcome(best, sweep.budget)}"
    training = sweep.short if best.seed is None else sweep.full(best.seed)
    write_config(sweep.folder / "best.yaml", Config(best.spec, training), line)
    for name in (ERRORS_FILE, CURVES_FILE, MISTAKES_FILE):
        (sweep.folder / name).unlink(missing_ok=True)
        if (found := sweep.runs / best.run / name).exists():
            replace_file(sweep.folder / name, found.read_bytes())
    with gate.training():
        draw_best(detector, sweep, f"Trial {best.trial} of {sweep.folder.name}")
    # Last: it tells which trial the three belong to.
    save_detector(kept, detector, read_metadata(path)["facts"] | facts)


def error_line(sweep: Sweep) -> str | None:
    """What the best detector's errors cost, most first; None where they are not known."""
    path = sweep.folder / ERRORS_FILE
    if not path.exists():
        return None
    kinds = json.loads(path.read_text())["errors"]["kinds"]
    costs = {name: kind["cost"] for name, kind in kinds.items() if kind["cost"] is not None}
    order = sorted(costs, key=lambda name: -costs[name])
    told = ", ".join(f"{name} {100 * costs[name]:.1f}" for name in order) or "no object to find"
    best = sweep.folder / "best"
    more = cli.command_line("evaluate", best, "--data", sweep.source, "--errors")
    return f"Errors, and the points of AP50 that each kind costs: {told}; more: {more}"


def draw_best(detector: TrainedDetector, sweep: Sweep, title: str) -> None:
    """Draw what a detector finds on a dozen validation images, from first to last."""
    pixels = open_pixels(sweep.data, "val", detector.spec.image_size, keep=sweep.keep)
    chosen = sample(len(sweep.data.val))
    examples = [sweep.data.val[i] for i in chosen]
    some = pixels._replace(images=np.asarray(pixels.images[chosen]))
    found = run_detector(detector, examples, some)
    draw_sample(found, examples, sweep.data, sweep.folder / PICTURE, title)
    # Each best detector of a study leaves its own.
    forget_programs()
