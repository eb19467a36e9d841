"""The command `measure`: latency, memory, parameters and GFLOPs of a config or checkpoint."""

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from flaxyolo import cli
from flaxyolo.checkpoint import load_detector
from flaxyolo.config import TrainConfig, read_config
from flaxyolo.cost import Measurement, measure, tree_bytes
from flaxyolo.data.batches import DevicePixels
from flaxyolo.errors import InputError
from flaxyolo.nn.detector import Weights, abstract_weights, compute_dtype
from flaxyolo.plan import Plan
from flaxyolo.spec import DetectorSpec, describe
from flaxyolo.training import compile_step, start

log = logging.getLogger("flaxyolo.measure")

NOMINAL_BOXES = 16
"""Boxes per image that the memory of training is taken for; four times as many with mosaic."""


@dataclass(frozen=True)
class Flags:
    """Flags of `measure`."""

    detector: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG|CHECKPOINT")]
    """A file such as configs/yolov8n.yaml, or a folder such as runs/<study>/best."""
    image_size: int | None = None
    """Input size in pixels, instead of the detector's own."""
    paced: bool = False
    """Also measure with a pause of 200 ms before every call."""
    json: bool = False
    """Print the numbers as JSON."""


def measure_detector(
    spec: DetectorSpec, config: TrainConfig, *, weights: Weights | None = None, paced: bool = False
) -> Measurement:
    """Measure a detector and compile one training step for its memory.

    That memory is of weights, optimizer, EMA, activations and one batch. The data set on the
    device comes on top: 3 bytes per pixel of every image.
    """
    log.info("compiling a training step of %d images for its memory", config.batch_size)
    step, data_bytes = compile_nominal_step(spec, config)
    log.info("measuring")
    return measure(
        spec,
        weights=weights,
        train_step=step,
        train_batch_size=config.batch_size,
        data_bytes=data_bytes,
        paced=paced,
    )


def compile_nominal_step(
    spec: DetectorSpec, config: TrainConfig
) -> tuple[jax.stages.Compiled, int]:
    """The training step for a made-up data set of one batch, and the bytes of that data set."""
    count, size = config.batch_size, spec.image_size
    slots = NOMINAL_BOXES * (4 if config.augmentation.mosaic > 0 else 1)
    plan = Plan(spec, config, steps_per_epoch=100, slots=slots, dtype=compute_dtype())
    pixels = jax.eval_shape(
        lambda: DevicePixels(
            images=jnp.zeros((count, size, size, 3), jnp.uint8),
            boxes=jnp.zeros((count, NOMINAL_BOXES, 4)),
            labels=jnp.zeros((count, NOMINAL_BOXES), jnp.int32),
            valid=jnp.zeros((count, NOMINAL_BOXES), bool),
            content=jnp.zeros((count, 4)),
        )
    )
    state = jax.eval_shape(lambda: start(plan))
    return compile_step(plan, state, pixels), tree_bytes(pixels)


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


def table(cost: Measurement) -> Table:
    """The figures, one a line."""
    rows = [
        ("latency p50", f"{cost.latency_ms_p50:.2f} ms", "network, decoding and NMS"),
        ("latency p95", f"{cost.latency_ms_p95:.2f} ms", "what a budget limits"),
    ]
    if cost.latency_paced_ms_p50 is not None and cost.latency_paced_ms_p95 is not None:
        rows += [
            ("paced p50", f"{cost.latency_paced_ms_p50:.2f} ms", "200 ms before every call"),
            ("paced p95", f"{cost.latency_paced_ms_p95:.2f} ms", ""),
        ]
    rows += [
        ("network p50", f"{cost.network_ms_p50:.2f} ms", "without NMS"),
        ("FPS", f"{cost.fps:.1f}", "one image after another"),
        ("memory", f"{cost.vram_mib:.1f} MiB", "inference"),
    ]
    if cost.train_vram_mib is not None:
        batch = f"training, batch {cost.train_batch_size}, without the data set"
        rows.append(("memory", f"{cost.train_vram_mib:.1f} MiB", batch))
    rows += [
        ("parameters", f"{cost.params:,}", "trainable"),
        ("GFLOPs", f"{cost.gflops:.2f}", "a multiply-add is two"),
    ]
    lines = Table(box=box.SIMPLE, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_column(style="dim")
    for row in rows:
        lines.add_row(*row)
    return lines


def _run(flags: Flags) -> None:
    spec, config, weights = read_detector(flags.detector)
    if flags.image_size is not None:
        spec = resized(spec, flags.image_size)
    try:
        abstract_weights(spec)
    except ValueError as error:
        # A block, attention or neck that no table has.
        raise InputError(f"{flags.detector}: {error}") from None
    cost = measure_detector(spec, config, weights=weights, paced=flags.paced)
    if flags.json:
        print(json.dumps(cost.to_dict(), indent=1))
        return
    console = Console(highlight=False, markup=False)
    console.print(str(flags.detector), soft_wrap=True)
    console.print(table(cost))
    console.print(cost.conditions(), soft_wrap=True)


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
