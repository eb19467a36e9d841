"""The command `measure`: latency, memory, parameters and GFLOPs of a config or checkpoint."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import UInt8
from rich import box
from rich.table import Table

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.functions import as_function
from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost.engine import JAX_ENGINE, Engine
from flaxyolo.cost.measure import count_gflops, count_params, measure
from flaxyolo.cost.measurement import EngineName, Measurement, versions
from flaxyolo.cost.step_memory import compile_nominal_step
from flaxyolo.cost.target import DTYPE, Target, read_target, target_memory
from flaxyolo.deploy.engines import program, read_engine
from flaxyolo.machine.devices import use_device
from flaxyolo.nn.detector import Weights, abstract_weights
from flaxyolo.spec import DetectorSpec, describe
from flaxyolo.weights.checkpoint import load_detector

log = logging.getLogger("flaxyolo.measure")

BUSY = "The machine was busy ({}): the latencies may be too high; measure again when it is calm"
PIPED = 80
"""Columns of the table in a file or pipe."""


@dataclass(frozen=True)
class Flags:
    """Flags of `measure`."""

    detector: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG|CHECKPOINT")]
    """A file such as configs/yolov8n.yaml, or a folder such as runs/<study>/best."""
    image_size: int | None = None
    """Input size in pixels, instead of the detector's own."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Letterboxed uint8 images (n, size, size, 3) of a .npy file, instead of photographs."""
    engine: EngineName = "jax"
    """What the latency is measured on: JAX, another engine with NMS inside on this processor, or a
    command of yours that times the ONNX model elsewhere."""
    engine_command: Annotated[str | None, tyro.conf.arg(metavar="COMMAND")] = None
    """Of --engine command: a program that is given the path of an ONNX model, and prints
    milliseconds on its last line, one number or two (p50 p95)."""
    engine_timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """How long that may take (300)."""
    paced: bool = False
    """Also measure with a pause of 200 ms before every call."""
    no_training: bool = False
    """Leave out compiling a training step for its memory."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    target: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """Only the memory on a GPU or TPU that is not here: h100, l4, v5e, ..., or a GPU's file."""
    json: bool = False
    """Print the numbers as JSON."""


def measure_detector(
    spec: DetectorSpec,
    config: TrainConfig,
    *,
    weights: Weights | None = None,
    images: UInt8[np.ndarray, "n s s 3"] | None = None,
    paced: bool = False,
    training: bool = True,
    engine: Engine = JAX_ENGINE,
) -> Measurement:
    """Measure a detector and, unless not `training`, compile one training step for its memory.

    That memory is of weights, optimizer, EMA, activations and one batch. The data set on the
    device comes on top: 3 bytes per pixel of every image.
    """
    step, data_bytes = None, 0
    if training:
        log.info("compiling a training step of %d images for its memory", config.batch_size)
        step, data_bytes = compile_nominal_step(spec, config)
    on_engine = program(engine, spec, weights)
    log.info("measuring")
    return measure(
        spec,
        weights=weights,
        images=images,
        program=on_engine,
        train_step=step,
        train_batch_size=config.batch_size if training else None,
        data_bytes=data_bytes,
        paced=paced,
    )


def read_images(path: Path, size: int) -> UInt8[np.ndarray, "n s s 3"]:
    """The images of a .npy file, of the size that the detector takes."""
    expected = f"expected uint8 images (n, {size}, {size}, 3) as numpy.save writes them"
    try:
        images = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--images {path}: {expected}: {error}".splitlines()[0]) from None
    if not isinstance(images, np.ndarray):
        raise InputError(f"--images {path}: {expected}, got an archive of arrays")
    if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3) or not len(images):
        raise InputError(f"--images {path}: {expected}, got {images.dtype} {images.shape}")
    return images


def read_detector(path: Path) -> tuple[DetectorSpec, TrainConfig, Weights | None]:
    """Spec, training settings and weights of a config file or a checkpoint folder.

    A config has no weights, and a checkpoint is given the default training settings.
    """
    if path.is_dir():
        detector = load_detector(path)
        return detector.spec, TrainConfig(), detector.weights
    if not path.exists():
        raise InputError(
            f"{path}: expected a config file or a checkpoint folder, found nothing there"
        )
    config = read_config(path)
    return config.detector, config.training, None


def resized(spec: DetectorSpec, image_size: int) -> DetectorSpec:
    """The same detector for another input size."""
    try:
        return replace(spec, image_size=image_size)
    except ValueError as error:
        raise InputError(f"--image-size: {describe(error)}") from None


def memory_on(target: Target, spec: DetectorSpec, config: TrainConfig) -> dict[str, Any]:
    """What can be told of a detector on a device that is not in this machine, as plain data."""
    target.require_packages()
    log.info(
        "compiling detect and a training step of %d images for %s", config.batch_size, target.name
    )
    memory = target_memory(spec, config, target)
    return {
        "target": target.name,
        "vram_mib": memory.inference_mib,
        "train_vram_mib": memory.train_mib,
        "params": count_params(spec),
        "gflops": count_gflops(spec),
        "dtype": jnp.dtype(DTYPE).name,
        "image_size": spec.image_size,
        "batch_size": 1,
        "train_batch_size": config.batch_size,
        "versions": versions(),
    }


def target_conditions(found: dict[str, Any], target: Target) -> str:
    """One line that belongs under a target's figures."""
    size = found["image_size"]
    total = f"{target.memory_mib:.0f} MiB"
    fits = "" if found["train_vram_mib"] <= target.memory_mib else "; training does not fit"
    numbers = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{target.name} ({total}), not in this machine, {found['dtype']}, {size}x{size}, "
        f"{numbers}; {target.not_counted}{fits}"
    )


def table(cost: Measurement) -> Table:
    """The figures, one a line."""
    rows = [
        ("engine", cost.engine, "image in, boxes out, NMS included"),
        ("latency p50", f"{cost.latency_ms_p50:.2f} ms", "network, decoding and NMS"),
        ("latency p95", f"{cost.latency_ms_p95:.2f} ms", "what a budget limits"),
        *machine_rows(cost),
    ]
    if cost.latency_paced_ms_p50 is not None and cost.latency_paced_ms_p95 is not None:
        rows += [
            ("paced p50", f"{cost.latency_paced_ms_p50:.2f} ms", "200 ms before every call"),
            ("paced p95", f"{cost.latency_paced_ms_p95:.2f} ms", ""),
        ]
    if cost.network_ms_p50 is not None:
        rows.append(("network p50", f"{cost.network_ms_p50:.2f} ms", "without NMS"))
    rows.append(("FPS", f"{cost.fps:.1f}", "one image after another"))
    return lines(rows + size_rows(cost.to_dict()))


def machine_rows(cost: Measurement) -> list[tuple[str, str, str]]:
    """The latency as measured, and what is known of the machine meanwhile."""
    best = cost.reference_best
    if best is None or cost.reference_ms is None or cost.slowdown is None:
        return []
    rows = [
        ("measured p50", f"{cost.measured_ms_p50:.2f} ms", "the quietest hundred calls in a row"),
        ("measured p95", f"{cost.measured_ms_p95:.2f} ms", ""),
        ("at least", f"{cost.floor_ms:.2f} ms", "however busy the machine was"),
        ("reference", f"{cost.reference_ms:.2f} ms", "a small network in turn, 5th percentile"),
        (
            "its best",
            f"{best.p05_ms:.2f} ms",
            f"on this device; now {cost.slowdown:.2f} times that",
        ),
    ]
    if cost.load is not None:
        rows.append(("load", f"{100 * cost.load:.0f} %", "of the processor, by others"))
    return rows


def size_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Memory, parameters and GFLOPs, by the names of a `Measurement`."""
    whose = "" if found.get("engine", "jax") == "jax" else ", of JAX's program"
    rows = [("memory", f"{found['vram_mib']:.1f} MiB", f"inference{whose}")]
    if found["train_vram_mib"] is not None:
        batch = f"training, batch {found['train_batch_size']}, without the data set"
        rows.append(("memory", f"{found['train_vram_mib']:.1f} MiB", batch))
    return [
        *rows,
        ("parameters", f"{found['params']:,}", "trainable"),
        ("GFLOPs", f"{found['gflops']:.2f}", "a multiply-add is two"),
    ]


def lines(rows: list[tuple[str, str, str]]) -> Table:
    """Name, figure and remark of each row."""
    shown = Table(box=box.SIMPLE, show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_column(style="dim")
    for row in rows:
        shown.add_row(*row)
    return shown


def _run(flags: Flags) -> Measurement | dict[str, Any]:
    """Measure, and print the figures."""
    if flags.target is not None:
        extra = [name for name in ("images", "paced") if getattr(flags, name)]
        extra += ["no-training"] if flags.no_training else []
        extra += ["engine"] if flags.engine != "jax" else []
        if extra:
            raise InputError(f"--target only compiles: expected no --{extra[0]} beside it")
    engine = read_engine(flags.engine, flags.engine_command, flags.engine_timeout)
    extra = [name for name in ("images", "paced") if getattr(flags, name) and not engine.here]
    if extra:
        raise InputError(f"--engine command times by itself: expected no --{extra[0]} beside it")
    target = None if flags.target is None else read_target(flags.target)
    # What only compiles needs no device, and JAX's packages for a target look for one.
    use_device("cpu" if target is not None and flags.device is None else flags.device)
    spec, config, weights = read_detector(flags.detector)
    if flags.image_size is not None:
        spec = resized(spec, flags.image_size)
    images = None if flags.images is None else read_images(flags.images, spec.image_size)
    try:
        abstract_weights(spec)
    except ValueError as error:
        # A block, attention or neck that no table has.
        raise InputError(f"{flags.detector}: {error}") from None
    cost = None
    if target is None:
        cost = measure_detector(
            spec,
            config,
            weights=weights,
            images=images,
            paced=flags.paced,
            training=not flags.no_training,
            engine=engine,
        )
        found, figures, under = cost.to_dict(), table(cost), cost.conditions()
    else:
        found = memory_on(target, spec, config)
        figures, under = lines(size_rows(found)), target_conditions(found, target)
    measured = found if cost is None else cost
    if flags.json:
        print(json.dumps(found, indent=1))
        return measured
    console = cli.tables_console(PIPED)
    console.print(str(flags.detector), soft_wrap=True)
    console.print(figures)
    if cost is not None and cost.busy:
        console.print(BUSY.format(cost.busyness()), soft_wrap=True)
    console.print(under, soft_wrap=True)
    return measured


run_measure = as_function(
    Flags, _run, "measure", "the Measurement, or with `target` a dict of the memory there"
)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.measure",
        description="Latency, memory, parameters and GFLOPs of a detector on this device.",
    )
    return cli.run(partial(_run, flags))


if __name__ == "__main__":
    sys.exit(main())
