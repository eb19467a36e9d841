"""Loops, kernels and bytes of programs compiled for a GPU or TPU that is not there.

A training step, `detect` of one image and NMS in bfloat16, in two forms: `loops`, in which the
program for a CPU goes through the images and the blocks of NMS, and `whole`, which accelerators
get. Each is compiled in a process of its own; it goes on where it stopped.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.hlo import count, untiled
from flaxyolo.base.files import replace_file
from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost.measure import memory_mib
from flaxyolo.cost.measurement import versions
from flaxyolo.cost.target import lowered_detect, lowered_step, placed, read_target
from flaxyolo.machine.child import run_module
from flaxyolo.nn.platform import traced_for
from flaxyolo.search.screen import draw
from flaxyolo.search.space import suggest_detector
from flaxyolo.spec import DetectorSpec

ROOT = Path(__file__).parents[1]
FORMS = ("loops", "whole")
PROGRAMS = ("step", "detect", "nms")
COMPILE_SECONDS = 3600.0
DRAW, DRAW_SEED = "draw-", 0
KEYS = ("target", "program", "network", "image_size", "batch", "form")


def take_loops() -> None:
    """From now on this process traces for accelerators as for a CPU, but for the convolutions."""
    from flaxyolo.data import augment
    from flaxyolo.nn import nms
    from flaxyolo.training import assign

    augment.of_each = jax.lax.map
    assign.in_chunks = assign.one_by_one
    nms.all_at_once = nms.by_blocks


def lowered(asked: dict[str, Any], device: Any) -> jax.stages.Lowered:
    """The program that a row is about."""
    spec, training = network(asked["network"])
    spec, batch = replace(spec, image_size=asked["image_size"]), asked["batch"]
    if asked["program"] == "step":
        return lowered_step(spec, replace(training, batch_size=batch), device)[0]
    if asked["program"] == "detect":
        return lowered_detect(spec, batch, device)
    from flaxyolo.nn.nms import batched_nms

    anchors = sum((spec.image_size // stride) ** 2 for stride in spec.strides)
    shapes = (batch, anchors, spec.num_classes), (batch, anchors, 4)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with traced_for(device.platform):
        return jax.jit(batched_nms).lower(*placed(arrays, device))


def network(name: str) -> tuple[DetectorSpec, TrainConfig]:
    """That of a file of configs/, or `draw-K`, the draw number K of the default space."""
    if not name.startswith(DRAW):
        config = read_config(ROOT / "configs" / f"{name}.yaml")
        return config.detector, config.training
    number = int(name.removeprefix(DRAW))
    return draw(suggest_detector, number + 1, DRAW_SEED).drawn[number].spec, TrainConfig()


def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """One row: what was asked, and what its program holds."""
    if asked["form"] == "loops":
        take_loops()
    target = read_target(asked["target"])
    device = target.device()
    began = time.perf_counter()
    program = lowered(asked, device).compile(compiler_options=target.options)
    seconds = time.perf_counter() - began
    text = program.as_text()
    counts, bare = count(text), count(untiled(text))
    kernels = counts.kernels
    return asked | {
        "loops": len(counts.loops),
        "loops_without_known_end": sum(loop.trips is None for loop in counts.loops),
        "trips": [loop.trips for loop in counts.loops],
        "kernels": kernels.total(),
        "fusions": kernels["fusion"],
        "library_calls": kernels["custom-call"],
        "copies": kernels["copy"] + kernels["copy-start"],
        "others": {kind: times for kind, times in sorted(kernels.items())
                   if kind not in ("fusion", "custom-call", "copy", "copy-start")},
        "bytes": counts.bytes,
        "bytes_without_padding": bare.bytes,
        "memory_mib": memory_mib(program),
        "compile_s": seconds,
    }  # fmt: skip


def rows_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What is asked for, the smaller first; a draw has its own size."""

    def size_for(name: str) -> int:
        return network(name)[0].image_size if name.startswith(DRAW) else arguments.size

    rows = [
        (program, name, batch)
        for program in PROGRAMS
        for batch in ([1] if program == "detect" else arguments.batches)
        for name in arguments.networks
        # Networks of configs/ have the same anchors and classes.
        if program != "nms" or name == arguments.networks[0]
    ]
    rows.sort(key=lambda row: (row[2], PROGRAMS.index(row[0])))
    return [
        dict(zip(KEYS, (arguments.target, program, name, size_for(name), batch, form), strict=True))
        for program, name, batch in rows
        if program in arguments.programs
        for form in ([arguments.form] if arguments.form else FORMS)
    ]


def same(row: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Whether a kept row answers what is asked."""
    return all(row[key] == asked[key] for key in KEYS)


def main() -> None:
    """Compile what is not known yet, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="h100", help="a card or a file, as of `measure`")
    parser.add_argument("--networks", nargs="+", default=["yolov8n", "yolov8s"],
                        help="of configs/, or draw-0 and so on of the default space")  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--form", choices=FORMS, help="only this one")
    parser.add_argument("--size", type=int, default=640, help="of the networks of configs/")
    parser.add_argument("--json", type=Path, help="also write the result there; goes on with it")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(json.load(sys.stdin))))
        return
    target = read_target(arguments.target)
    target.require_packages()
    kept = arguments.json if arguments.json and arguments.json.exists() else None
    known = json.loads(kept.read_text())["rows"] if kept else []
    print("| program | network | batch | form | loops | without known end | kernels | GB "
          "| without padding | MiB | compiled in s |")  # fmt: skip
    print("|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for asked in rows_of(arguments):
        row = next((row for row in known if same(row, asked)), None)
        if row is None:
            row = json.loads(
                run_module(
                    "benchmarks.accelerator_program",
                    "--one",
                    what=f"compiling {asked['program']} of {asked['network']} for {target.name}",
                    given=json.dumps(asked),
                    environment=target.environment,
                    timeout=COMPILE_SECONDS,
                )
            )
            known.append(row)
        told = [row[key] for key in ("program", "network", "batch", "form", "loops")]
        told += [row["loops_without_known_end"], row["kernels"]]
        bare = row.get("bytes_without_padding", row["bytes"])
        told += [f"{row['bytes'] / 1e9:.3f}", f"{bare / 1e9:.3f}"]
        told += [f"{row['memory_mib']:.0f}", f"{row['compile_s']:.0f}"]
        print("| " + " | ".join(map(str, told)) + " |", flush=True)
        if arguments.json:
            result = {
                "what": "programs in bfloat16, compiled for a device that is not there: per run "
                "the loops, the kernels (those in a loop as often as it runs; of a loop without "
                "known end one pass and one question) and the bytes they read and write, on a TPU "
                "with and without what fills its tiles",
                "compiled_for": target.name,
                "rows": known,
                "versions": versions(),
                "date": time.strftime("%Y-%m-%d"),
            }
            replace_file(arguments.json, json.dumps(result, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
