"""A sweep, or a worker of one, whose latencies are made up by formula; all else is as ever.

Measuring takes seconds for each network, whatever its size, and its answer is not what
`benchmarks.long_study` is about.

    python -m benchmarks.long_study_made_up sweep FLAGS
    python -m benchmarks.long_study_made_up work FOLDER INDEX
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from benchmarks.made_up_devices import TWO_CORES, latency, piece_ms
from flaxyolo import sweep
from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.table import table
from flaxyolo.cost.table.file import conditions
from flaxyolo.crew import phases
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import FINAL, Entry
from flaxyolo.crew.supervise import worker_command
from flaxyolo.crew.surroundings import PausedError, Surroundings
from flaxyolo.crew.worker import main as worker_main
from flaxyolo.nn.detector import TrainedDetector, initial_weights
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search import filling, ranges
from flaxyolo.search.setting import Sweep
from flaxyolo.spec import DetectorSpec
from flaxyolo.trials import confirm, run, work
from flaxyolo.trials.trial import drawn, keep_cost, run_name
from flaxyolo.weights.checkpoint import load_detector, save_detector

UNTRAINED = "FLAXYOLO_UNTRAINED"
"""Environment variable with which nothing is trained either."""


def made_cost(spec: DetectorSpec) -> Measurement:
    """The cost of a network on a device that is made up; what counts of it is right."""
    here, p50 = conditions(), latency(TWO_CORES, spec) * 1.1
    return Measurement(
        latency_ms_p50=p50,
        latency_ms_p95=1.2 * p50,
        network_ms_p50=0.9 * p50,
        fps=1000 / p50,
        vram_mib=10.0,
        train_vram_mib=None,
        params=count_params(spec),
        gflops=count_gflops(spec),
        device=here["device"],
        dtype=here["dtype"],
        image_size=spec.image_size,
        batch_size=1,
        train_batch_size=None,
        versions=here["versions"],
    )


def untrained(
    trial: optuna.Trial, *, sweep: Sweep, until: int, around: Surroundings, **named: Any
) -> float:
    """A trial in which nothing is trained: a score by formula at the rung, and the files of one."""
    entry = Entry(trial)
    spec = drawn(entry, sweep)
    if entry.record.cost is None:
        keep_cost(entry, replace(made_cost(spec), train_vram_mib=50.0, train_batch_size=16))
    final = entry.record.stage == FINAL
    config = sweep.full(entry.record.seed or 0) if final else sweep.short
    name = run_name(spec, config, sweep.fingerprint)
    entry.keep(run=name)
    with entry.timed("train"):
        detector = TrainedDetector(spec, initial_weights(spec, 0), sweep.data.class_names)
    epoch = config.epochs if final else until
    score = 0.1 + 0.02 * epoch + 1e-6 * count_params(spec) + 0.01 * (trial.number * 7 % 10)
    scores = Scores(**dict.fromkeys(KEYS, score), per_class=())
    value = sweep.objective.value(scores)
    entry.keep_score(CurvePoint(epoch, value, {"box": 1.0}, objective_se=0.01), scores)
    save_detector(sweep.runs / name / "state", detector, {})
    around.saved()
    if epoch < config.epochs:
        raise PausedError(epoch)
    save_detector(sweep.runs / name / "detector", detector, {})
    return value


def make_up() -> None:
    """Let nothing in this process be timed."""

    def measure_for(budget: Any, spec: DetectorSpec, *given: Any, **named: Any) -> Measurement:
        return made_cost(spec)

    def measured_again(engine: Any, folder: Path, *given: Any) -> Measurement:
        return made_cost(load_detector(folder).spec)

    for module in (phases, filling):
        module.measure_for = measure_for
        module.compile_programs = lambda *given: None
    confirm.measured_again = measured_again
    ranges.measure = lambda spec, **limits: made_cost(spec)
    table.time_pieces = lambda batch: [piece_ms(TWO_CORES, each) for each in batch]


def command_of(module: str, *given: Any) -> Any:
    """How each worker is started: by this module instead."""
    command = worker_command(module, *given)

    def ours(index: int) -> Any:
        (python, flag, _, *rest), environment = command(index)
        return [python, flag, "benchmarks.long_study_made_up", "work", *rest], environment

    return ours


def main() -> int | None:
    """Run the sweep or the worker."""
    part, *rest = sys.argv[1:]
    make_up()
    if part == "work":
        if os.environ.get(UNTRAINED):
            work.run_trial = untrained
        return worker_main(rest, work.run_worker)
    run.worker_command = command_of
    return sweep.main(rest)


if __name__ == "__main__":
    sys.exit(main())
