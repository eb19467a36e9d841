"""Seconds to trace, lower and compile a training step, and the operations of its program.

YOLOv8n at 320 px, the baseline of the default space at 128 px and random draws of the space, batch
16, each in a process of its own without a cache of compiled programs, one after the other. Of the
"kernels", the fused loops, XLA compiles each different one.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import optuna

from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.cost.step_memory import nominal_step
from flaxyolo.machine.child import run_module
from flaxyolo.nn.compiling import compiler_options
from flaxyolo.nn.detector import compute_dtype, graph
from flaxyolo.search.space import reference_params, suggest_detector
from flaxyolo.spec import DetectorSpec
from flaxyolo.training.step import start, train_step

ROOT = Path(__file__).parents[1]
BATCH = 16


def yolov8n() -> DetectorSpec:
    """YOLOv8n at 320 px."""
    return replace(read_config(ROOT / "configs/yolov8n.yaml").detector, image_size=320)


def baseline() -> DetectorSpec:
    """The baseline of the default space at 128 px."""
    params = reference_params(suggest_detector) | {"image_size": 128}
    return suggest_detector(optuna.trial.FixedTrial(params))


def draw(number: int) -> DetectorSpec:
    """The random draw of this number."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest_detector(study.ask()) for _ in range(number + 1)][-1]


NETWORKS: dict[str, Callable[[], DetectorSpec]] = {"yolov8n": yolov8n, "baseline": baseline}


def network(name: str) -> DetectorSpec:
    """One of `NETWORKS`, or a draw by its number."""
    return NETWORKS[name]() if name in NETWORKS else draw(int(name))


def time_step(name: str) -> dict[str, Any]:
    """Seconds and counts of one network's step, in this process."""
    jax.config.update("jax_enable_compilation_cache", False)
    spec = network(name)
    plan, feed = nominal_step(spec, TrainConfig(batch_size=BATCH), compute_dtype())
    state = jax.eval_shape(lambda: start(plan))
    shape = jax.ShapeDtypeStruct
    batch = feed.shapes(BATCH), shape((BATCH,), "int32"), shape((), "int32")
    # What a process does once, or another part of a run has done before.
    graph(spec, train=True, dtype=plan.dtype)
    options = compiler_options()
    moments = [time.perf_counter()]
    traced = train_step.trace(plan, state, *batch)
    moments.append(time.perf_counter())
    lowered: Any = traced.lower()
    moments.append(time.perf_counter())
    processor = time.process_time()
    compiled: Any = lowered.compile(compiler_options=options)
    processor = time.process_time() - processor
    moments.append(time.perf_counter())
    trace, lower, xla = (b - a for a, b in pairwise(moments))
    text = lowered.as_text()
    return {
        "name": name,
        "image_size": spec.image_size,
        "trace_s": trace,
        "lower_s": lower,
        "xla_s": xla,
        "xla_processor_s": processor,
        "operations": len(re.findall(r"\bstablehlo\.\w+", text)),
        "cases": len(re.findall(r"\bstablehlo\.case\b", text)),
        "kernels": compiled.as_text().count(" fusion("),
    }


def main() -> None:
    """Time every network in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--only", help="one network in this process, as JSON: yolov8n, 0, ...")
    parser.add_argument("--json", type=Path, help="also write the result there; goes on with it")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.only:
        print(json.dumps(time_step(arguments.only)))
        return
    kept = arguments.json if arguments.json and arguments.json.exists() else None
    known = {row["name"]: row for row in json.loads(kept.read_text())["rows"]} if kept else {}
    rows = []
    print("| network | px | trace s | lower s | XLA s | in all s | operations | case | kernels |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in (*NETWORKS, *map(str, range(arguments.draws))):
        row = known.get(name) or json.loads(
            run_module(
                "benchmarks.compile_seconds",
                "--only",
                name,
                what=f"compiling {name}",
                timeout=600,
            )
        )
        rows.append(row)
        parts = [row["trace_s"], row["lower_s"], row["xla_s"]]
        seconds = " | ".join(f"{value:.1f}" for value in (*parts, sum(parts)))
        print(
            f"| {name} | {row['image_size']} | {seconds} | {row['operations']:,} "
            f"| {row['cases']} | {row['kernels']:,} |",
            flush=True,
        )
        if arguments.json:
            result = {
                "what": f"compiling a training step of batch {BATCH}, without a cache",
                "rows": rows,
                "device": device_name(),
                "versions": versions(),
                "date": time.strftime("%Y-%m-%d"),
            }
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
