"""The command `preflight`: is everything sound before the first epoch?"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.checks.check import Check
from flaxyolo.checks.run import log_check, preflight, require
from flaxyolo.config import Config, fitted, read_config
from flaxyolo.data.feeds import open_feed
from flaxyolo.data.sources import Dataset, read_dataset
from flaxyolo.machine.devices import use_device
from flaxyolo.nn.detector import abstract_weights
from flaxyolo.spec import describe

log = logging.getLogger("flaxyolo.preflight")


@dataclass(frozen=True)
class Flags:
    """Flags of `preflight`."""

    config: Annotated[Path, tyro.conf.Positional]
    """A file of configs/, or the best.yaml of a sweep."""
    data: str = "digits"
    """As for `train`, such as digits, scenes or coco:DIR."""
    image_size: int | None = None
    """Side of the square input, in pixels, instead of the config's."""
    batch_size: int | None = None
    """Instead of the config's."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""
    json: bool = False
    """Print the checks as JSON."""
    max_pixels: cli.MaxPixels = None
    """Most pixels of an image that is decoded."""
    allow_outside: cli.AllowOutside = False
    """Read what leads out of the data set."""


def configure(flags: Flags, dataset: Dataset) -> Config:
    """The config of the flags, with the data's classes; InputError where no network fits it."""
    config = read_config(flags.config)
    try:
        config = fitted(
            config,
            num_classes=len(dataset.class_names),
            mirror=dataset.mirror,
            image_size=flags.image_size,
            batch_size=flags.batch_size,
        )
        abstract_weights(config.detector)
    except ValueError as error:
        raise InputError(f"{flags.config}: {describe(error)}") from None
    return config


@cli.within_limits
def run_preflight(flags: Flags) -> None:
    """Run all checks and print each as it ends."""
    began = time.perf_counter()
    use_device(flags.device)
    dataset = read_dataset(flags.data)
    config = configure(flags, dataset)
    feed = open_feed(dataset, "train", config.detector.image_size)
    log.info("%s: %d training images", dataset.name, len(feed.pixels.images))

    def show(check: Check) -> None:
        if flags.json:
            log_check(check)
        else:
            print(check.line(), flush=True)

    done = preflight(
        config.detector,
        feed,
        dataset.train,
        dataset.class_names,
        config.training,
        report=show,
        fingerprint=dataset.fingerprint,
    )
    seconds = time.perf_counter() - began
    if flags.json:
        facts: dict[str, Any] = {
            "passed": all(check.passed for check in done),
            "seconds": round(seconds, 1),
            "checks": [asdict(check) for check in done],
        }
        print(json.dumps(facts, indent=1))
    require(done)
    if not flags.json:
        print(f"cleared: {len(done)} checks in {seconds:.0f} s")


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.preflight",
        description="Check data, transforms, network, loss and memory before a run.",
    )
    return cli.run(partial(run_preflight, flags))


if __name__ == "__main__":
    sys.exit(main())
