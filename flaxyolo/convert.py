"""The command that turns a PyTorch state dict into a checkpoint."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import LABELS, read_lines
from flaxyolo.config import read_config
from flaxyolo.machine.devices import use_device
from flaxyolo.nn.detector import TrainedDetector
from flaxyolo.weights.checkpoint import read_metadata, save_detector
from flaxyolo.weights.conversion import convert
from flaxyolo.weights.families import FAMILIES
from flaxyolo.weights.state_dicts import read_arrays

log = logging.getLogger("flaxyolo.convert")


@dataclass(frozen=True)
class Flags:
    """Flags of `convert`."""

    weights: Annotated[Path, tyro.conf.Positional]
    """State dict: .safetensors, or .pt / .pth where torch is installed."""
    config: Path
    """The same network as a file of configs/."""
    out: Path
    """Folder of the checkpoint."""
    family: Literal["yolov5", "yolov8", "yolov10", "yolo11", "yolox", "rtmdet"] | None = None
    """Whose names the weights have; without it, the one that most of them fit."""
    class_names: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Names of the classes, one a line, instead of numbers; their count is the head's."""


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line."""
    names = tuple(line for line in read_lines(path, "the class names", LABELS) if line)
    if not names:
        raise InputError(f"{path}: expected class names, one a line, found none")
    return names


def run_conversion(flags: Flags) -> None:
    """Read, convert, save; print what was done."""
    use_device(None)
    spec = read_config(flags.config).detector
    names = tuple(map(str, range(spec.num_classes)))
    if flags.class_names is not None:
        names = read_class_names(flags.class_names)
        spec = replace(spec, num_classes=len(names))
    if flags.out.exists():
        read_metadata(flags.out)  # Nothing but an older checkpoint is replaced.
    arrays = read_arrays(flags.weights)
    try:
        done = convert(arrays, spec, flags.family)
    except InputError as error:
        raise InputError(f"{flags.weights}, {flags.config}: {error}") from None
    facts = {"converted_from": flags.weights.name, "family": done.family}
    save_detector(flags.out, TrainedDetector(spec, done.weights, names), facts)
    if any(FAMILIES[done.family.partition("/")[0]].images.mean):
        log.info(
            "the mean of the images is folded into the first layer, which is exact but at the "
            "images' border"
        )
    params = sum(leaf.size for leaf in jax.tree.leaves(done.weights.params))
    print(
        f"{flags.weights}: {done.family}, {done.read} arrays with {params:,} parameters, "
        f"{done.unused} that hold no weights left out; the checkpoint is {flags.out}"
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.convert",
        description="Turn a PyTorch state dict of a known network into a checkpoint.",
    )
    return cli.run(partial(run_conversion, flags), output=flags.out)


if __name__ == "__main__":
    sys.exit(main())
