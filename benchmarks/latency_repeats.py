"""How far a latency moves from process to process: idle, beside one busy core, beside all of them.

Three networks are measured in fresh processes, each load in turn, so that what wanders on the
machine meets all of them. A load is so many processes of this one that do nothing but count; they
are ended with each measurement, and end by themselves where this one does not come to it. The JSON
file keeps every measurement; the same command goes on where it stopped. All processes share one
cache folder, whose best of the reference the first ones find: figures are by the best of the end,
`as taken` by that of their moment.

Run on a machine with nothing else to do.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FixedTrial

from flaxyolo.base.files import replace_file
from flaxyolo.config import read_config
from flaxyolo.cost.measurement import Measurement, Reference
from flaxyolo.machine.child import run_module
from flaxyolo.search.space import reference_params, suggest_detector
from flaxyolo.spec import DetectorSpec

CONFIGS = Path(__file__).parents[1] / "configs"
CLASSES = 10
PROCESS_SECONDS = 900.0
BUSY_LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))
"""


def network(name: str) -> DetectorSpec:
    """The baseline at 128 px, one of the band of 4 ms, or YOLOv8n at 320 px."""
    if name == "yolov8n":
        spec = replace(read_config(CONFIGS / "yolov8n.yaml").detector, image_size=320)
    elif name == "middle":
        wanted = {"plan": "P2-P5", "image_size": 192, "width": 24, "late.block": "c2f"}
        spec = suggest_detector(FixedTrial(reference_params(suggest_detector, wanted)))
    else:
        spec = suggest_detector(FixedTrial(reference_params(suggest_detector)))
    return replace(spec, num_classes=CLASSES)


NETWORKS = ("baseline", "middle", "yolov8n")


@contextlib.contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """So many processes that only compute, until the end."""
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            loops.append(subprocess.Popen([sys.executable, "-c", BUSY_LOOP]))
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure_once(name: str, cache: Path) -> dict[str, Any]:
    """What a fresh process measures."""
    printed = run_module(
        "benchmarks.latency_repeats",
        "--one",
        name,
        what=f"measuring {name}",
        environment={"FLAXYOLO_CACHE": str(cache)},
        timeout=PROCESS_SECONDS,
    )
    return json.loads(printed)


def spread(values: list[float]) -> str:
    """Largest over smallest, and the coefficient of variation."""
    return f"{max(values) / min(values):.2f} ({100 * np.std(values) / np.mean(values):.0f} %)"


def report(rows: list[dict[str, Any]]) -> list[str]:
    """A table: of each network and set of loads, how far each figure moves."""
    costs = [(row["network"], row["load"], Measurement.from_dict(row["cost"])) for row in rows]
    best: Reference | None = None
    for _, _, cost in costs:
        if cost.reference_best is not None:
            best = cost.reference_best.lowest(best)
    loads = sorted({load for _, load, _ in costs})
    lines = [
        "largest / smallest (coefficient of variation)",
        f"{'network':<10}{'busy':<8}{'n':>3}  {'measured p95':<15}{'measured p50':<15}"
        f"{'decides p95':<15}{'decides p50':<15}{'p95 as taken':<15}{'marked':>7}  p95 ms",
    ]
    for name in dict.fromkeys(name for name, _, _ in costs):
        for group in ([load] for load in loads), ([0, *loads[1:2]],):
            for chosen in group:
                mine = [cost for own, load, cost in costs if own == name and load in chosen]
                if not mine:
                    continue
                now = [cost.rescaled(best) for cost in mine]
                figures = [
                    [cost.measured_ms_p95 or cost.latency_ms_p95 for cost in mine],
                    [cost.measured_ms_p50 or cost.latency_ms_p50 for cost in mine],
                    [cost.latency_ms_p95 for cost in now],
                    [cost.latency_ms_p50 for cost in now],
                    [cost.latency_ms_p95 for cost in mine],
                ]
                cores = "+".join(map(str, chosen))
                marked = sum(cost.busy for cost in now)
                p95 = [cost.latency_ms_p95 for cost in now]
                lines.append(
                    f"{name:<10}{cores:<8}{len(mine):>3}  "
                    + "".join(f"{spread(values):<15}" for values in figures)
                    + f"{marked:>4}/{len(mine)}  {min(p95):.2f} - {max(p95):.2f}"
                )
    return lines


def main() -> None:
    """Measure what is not measured yet, and print the spreads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/latency_repeats"))
    parser.add_argument("--one", choices=NETWORKS, help="measure one here, and print it as JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        # Here, because the parent needs no device.
        from flaxyolo.cost.measure import measure
        from flaxyolo.nn.compiling import keep_compiled

        keep_compiled()
        print(json.dumps(measure(network(arguments.one)).to_dict()))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    path, cache = arguments.out / "repeats.json", arguments.out.resolve() / "cache"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    done = {(row["network"], row["load"], row["repeat"]) for row in rows}
    if not rows:
        for name in NETWORKS:  # so that no load meets a compiler
            measure_once(name, cache)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for repeat in range(arguments.repeats):
        for load in dict.fromkeys((0, 1, cores or 1)):
            wanted = [name for name in NETWORKS if (name, load, repeat) not in done]
            for name in wanted:
                with busy_cores(load):
                    cost = measure_once(name, cache)
                rows.append({"network": name, "load": load, "repeat": repeat, "cost": cost})
                replace_file(path, json.dumps(rows, indent=1))
                decides = f"{cost['latency_ms_p50']:.2f} / {cost['latency_ms_p95']:.2f} ms"
                raw = f"{cost['measured_ms_p50']:.2f} / {cost['measured_ms_p95']:.2f} ms"
                print(f"{name}, {load} busy, {repeat}: {decides}, as measured {raw}", flush=True)
    print("\n".join(report(rows)))


if __name__ == "__main__":
    main()
