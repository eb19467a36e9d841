"""What a sweep decides between two trainings, over the length of its study, in CPU seconds.

Makes studies of so many trials with the functions that a worker stores them by: networks drawn from
the default space, with the latencies of a device made up by formula and scores of a smooth law and
noise; a third of them went to the end of the short schedule, the others wait at a rung. Then a
worker's turn is timed, one process for each study: reading the study, deciding on the next job,
proposing a candidate. The first turn of a process and the next ones are told apart. So is what the
parent does whenever a trial has ended: who leads, the published study, tables and picture.

    python -m benchmarks.proposing --trials 50 200 800 1000 --name after --out runs/proposing.json

The same command with another `--name` adds to the file; rows of the name are taken anew.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, TrialState, create_trial

from benchmarks.made_up_devices import TWO_CORES, latency, piece_ms
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measurement import Measurement, device_name, versions
from flaxyolo.cost.table import table as tables
from flaxyolo.cost.table.file import conditions
from flaxyolo.crew.curve import CurvePoint
from flaxyolo.crew.record import Record, attributes
from flaxyolo.crew.storage import open_runs
from flaxyolo.data.sources import Dataset
from flaxyolo.machine.gate import Gate
from flaxyolo.scoring.average_precision import KEYS, Scores
from flaxyolo.search.features import features
from flaxyolo.search.propose import Proposer
from flaxyolo.search.results import results
from flaxyolo.search.schedule import next_job
from flaxyolo.search.screen import Drawn, draw
from flaxyolo.search.setting import Sweep
from flaxyolo.search.space import Ranges, suggest_detector, with_ranges
from flaxyolo.search.spending import Spending
from flaxyolo.trials.expected import affordable, finals_seconds
from flaxyolo.trials.outputs import sweep_report
from flaxyolo.trials.pareto import draw_front
from flaxyolo.trials.published import publish
from flaxyolo.trials.standings import Standings
from flaxyolo.trials.table import write
from flaxyolo.trials.work import add

BUDGET_MS = 8.0
CLASSES = 10
TURNS = 3
"""Turns of a worker after its first."""
RANGES = Ranges((96, 128, 160, 192), (16, 32, 8), 6, (2, 4, 4, 2))
SPENDING = Spending(trials=10**6, short_epochs=9, epochs=24, finalists=2, seeds=(0, 1, 2))
FINISHED = 3
"""One trial in so many went to the end of the short schedule."""
OVER = 10
"""One in so many is over the budget."""


def made_sweep(folder: Path) -> Sweep:
    """A sweep of no data: nothing is trained here."""
    names = tuple(str(number) for number in range(CLASSES))
    data = Dataset("made up", (), (), names, tuple(range(CLASSES)), "made-up")
    suggest = with_ranges(suggest_detector, RANGES)
    budget = Budget(latency_ms=BUDGET_MS)
    return Sweep(suggest, budget, data, "made up", folder / "study", SPENDING)


def made_cost(spec: Any, rng: np.random.Generator) -> Measurement:
    """The cost of a network on the device that is made up."""
    here, p50 = conditions(), latency(TWO_CORES, spec) * math.exp(rng.normal(0, 0.05))
    return Measurement(
        latency_ms_p50=p50,
        latency_ms_p95=1.2 * p50,
        network_ms_p50=0.9 * p50,
        fps=1000 / p50,
        vram_mib=30.0,
        train_vram_mib=300.0,
        params=int(1e5 * p50),
        gflops=0.2 * p50,
        device=here["device"],
        dtype=here["dtype"],
        image_size=spec.image_size,
        batch_size=1,
        train_batch_size=16,
        versions=here["versions"],
    )


def made_record(number: int, drawn: Drawn, rng: np.random.Generator) -> Record:
    """A trial: most wait at the first rung, some are whole, some over the budget."""
    cost = made_cost(drawn.spec, rng)
    seen = features(drawn.spec, latency_ms=cost.latency_ms_p50, params=cost.params,
                    gflops=cost.gflops)  # fmt: skip
    score = 0.3 + 0.1 * math.sin(seen["log_width"]) + 0.05 * seen["early_share"]
    score += 0.02 * seen["log_latency_ms"] + rng.normal(0, 0.02)
    known = Record(number, "waiting", drawn.params, origin="surrogate", screened=600,
                   spec=drawn.spec, cost=cost, features=seen)  # fmt: skip
    if number % OVER == OVER - 1:
        return replace(known, state="pruned", reason="over budget",
                       constraints={"latency_ms": 0.2})  # fmt: skip
    rungs = SPENDING.rungs
    reached = rungs if number % FINISHED == 0 else rungs[:1]
    points = tuple(
        CurvePoint(epoch, score * (0.6 + 0.4 * epoch / rungs[-1]), {"box": 2.0 - score},
                   objective_se=0.01)
        for epoch in reached
    )  # fmt: skip
    shares = dict.fromkeys(KEYS, score)
    known = replace(known, history=points, scores=Scores(**shares, per_class=()),
                    seconds={"train": 60.0, "measure": 8.0})  # fmt: skip
    if number % FINISHED == 0:
        return replace(known, state="complete")
    return replace(known, paused=rungs[0])


def store(study: optuna.Study, record: Record, sweep: Sweep) -> None:
    """Add a trial as its worker would have left it."""
    asked = FixedTrial(dict(record.params))
    sweep.suggest(asked)
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED,
              "waiting": TrialState.WAITING}  # fmt: skip
    study.add_trial(
        create_trial(
            state=states[record.state],
            value=record.objective if record.state == "complete" else None,
            params=asked.params,
            distributions=asked.distributions,
            user_attrs=attributes(record),
            intermediate_values={
                point.epoch: point.objective
                for point in record.history
                if point.objective is not None
            },
            constraints=dict(record.constraints),
        )
    )


def turn(study: optuna.Study, sweep: Sweep, proposer: Proposer) -> dict[str, float]:
    """CPU seconds of the steps of a worker's turn; the candidate is added to the study."""
    spent: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        began = time.process_time()
        made = step()
        spent[name] = time.process_time() - began
        return made

    found = timed("read", lambda: results(study))

    def decide() -> None:
        finals_seconds(found, sweep.spending)
        next_job(found, sweep.spending,
                 affordable=affordable(found, sweep.spending, math.inf))  # fmt: skip

    timed("decide", decide)
    proposal = timed("propose", lambda: proposer.propose(found))
    spent["all"] = sum(spent.values())
    add(study, proposal)
    return spent


def parent_turn(study: optuna.Study, sweep: Sweep) -> dict[str, float]:
    """CPU seconds of what the parent does when a trial has ended."""
    spent: dict[str, float] = {}
    began = time.process_time()
    standings = Standings(results(study), sweep.budget, sweep.objective)
    steps: dict[str, Callable[[], object]] = {
        "publish": lambda: publish(study, standings, sweep.folder, ended=False),
        "tables": lambda: write(sweep_report(standings, sweep), sweep.folder),
        "picture": lambda: draw_front(standings, sweep.folder / "pareto.png"),
    }
    spent["read"] = time.process_time() - began
    for name, step in steps.items():
        began = time.process_time()
        step()
        spent[name] = time.process_time() - began
    return spent | {"all": sum(spent.values())}


def measured(trials: int, parent: bool) -> dict[str, Any]:
    """The figures of a study of so many trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # Pieces of networks are not timed: their times are made up too.
    tables.time_pieces = lambda batch: [piece_ms(TWO_CORES, piece) for piece in batch]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FLAXYOLO_CACHE"] = f"{scratch}/cache"
        sweep, rng = made_sweep(Path(scratch)), np.random.default_rng(0)
        study = open_runs(sweep.folder)
        study.set_user_attr("facts", {"source": "made up"})
        pool = draw(sweep.suggest, trials, 0,
                    finish=lambda spec: replace(spec, num_classes=CLASSES)).drawn  # fmt: skip
        for number, drawn in enumerate(pool):
            store(study, made_record(number, drawn, rng), sweep)
        del study
        proposer = Proposer(sweep, Gate("made up", Path(scratch)))
        # What a process knows from before: counts of pieces, which are the same in every study.
        proposer.table.count([each.spec for each in pool])
        opened = time.process_time()
        study = open_runs(sweep.folder)
        opened = time.process_time() - opened
        turns = [turn(study, sweep, proposer) for _ in range(1 + TURNS)]
        names = turns[0]
        row: dict[str, Any] = {
            "trials": trials,
            "open": round(opened, 3),
            "first": {name: round(turns[0][name], 3) for name in names},
            "next": {name: round(float(np.median([one[name] for one in turns[1:]])), 3)
                     for name in names},
        }  # fmt: skip
        if parent:
            parts = [parent_turn(study, sweep) for _ in range(2)]
            row["parent"] = {name: round(value, 3) for name, value in parts[-1].items()}
        return row


def main() -> None:
    """Measure each length in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--trials", nargs="+", type=int, default=[50, 200, 800, 1000])
    parser.add_argument("--name", default="after", help="of these figures in the file")
    parser.add_argument("--no-parent", action="store_true", help="a worker's turn alone")
    parser.add_argument("--out", type=Path, default=Path("runs/proposing.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measured(arguments.one, not arguments.no_parent)))
        return
    told = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows = []
    for trials in arguments.trials:
        command = [sys.executable, "-m", "benchmarks.proposing", "--one", str(trials)]
        command += ["--no-parent"] * arguments.no_parent
        # One thread: CPU seconds are then those that the work takes.
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, env=os.environ | alone, stdout=subprocess.PIPE, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        first, following = rows[-1]["first"]["all"], rows[-1]["next"]["all"]
        told |= {"what": "CPU seconds between two trainings, by the trials of a study",
                 "device": device_name(), "versions": versions(),
                 "date": time.strftime("%Y-%m-%d")}  # fmt: skip
        told[arguments.name] = rows
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=1) + "\n")
        parent = rows[-1].get("parent", {}).get("all", math.nan)
        print(f"{trials} trials: a turn {following:.2f} s, the first of a process {first:.2f} s, "
              f"the parent's {parent:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
