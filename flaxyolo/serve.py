"""The command `serve`: a detector over HTTP, with a page to drop an image on."""

import logging
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.progress import track

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError

if TYPE_CHECKING:
    from flaxyolo.deploy.service import Service

log = logging.getLogger("flaxyolo.serve")

LIBRARIES = ("fastapi", "uvicorn", "python_multipart")
"""Of the extra `serve`."""
MOST_PORT = 65535


@dataclass(frozen=True)
class Flags:
    """Flags of `serve`."""

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a detector, or of a study or a run."""
    host: str = "127.0.0.1"
    """Address to listen on; any but the machine's own is open to everyone who reaches it."""
    port: int = 8000
    """0 takes any that is free."""
    max_mb: float = 20.0
    """Largest image file, in millions of bytes."""
    max_megapixels: float = 50.0
    """Largest image."""
    batch: int = 8
    """Most images that are detected in together."""
    wait_ms: float = 5.0
    """How long an image waits for others that are on their way."""
    min_score: float = 0.25
    """Least score of a detection, where a request names none."""
    device: cli.DeviceName = None
    """cpu, gpu, tpu, or one of several such as cuda:1, instead of JAX's choice."""


def check(flags: Flags) -> None:
    """InputError where a flag is out of its range."""
    cli.least_one(flags, "batch")
    if not 0 <= flags.port <= MOST_PORT:
        raise InputError(f"--port: expected a number from 0 to {MOST_PORT}, got {flags.port}")
    for name in ("max_mb", "max_megapixels"):
        if not 0 < getattr(flags, name) < float("inf"):
            told = f"--{name.replace('_', '-')}: expected a number above 0"
            raise InputError(f"{told}, got {getattr(flags, name):g}")
    if not 0 <= flags.wait_ms < float("inf"):
        raise InputError(f"--wait-ms: expected 0 or more, got {flags.wait_ms:g}")
    if not 0 <= flags.min_score <= 1:
        raise InputError(f"--min-score: expected a number from 0 to 1, got {flags.min_score:g}")


def model_name(folder: Path) -> str:
    """The last two parts of its path: clients need not know the rest."""
    return "/".join(folder.resolve().parts[-2:])


def check_libraries() -> None:
    """InputError with the extra that brings what is not here."""
    absent = [name for name in LIBRARIES if find_spec(name) is None]
    if absent:
        raise InputError(
            f'serving needs {", ".join(absent)}, which is not here: pip install "flaxyolo[serve]"'
        )


def _run(flags: Flags) -> None:
    check(flags)
    check_libraries()
    from flaxyolo.deploy.listening import bind, is_loopback, serve, url_of
    from flaxyolo.deploy.server import make_app
    from flaxyolo.deploy.service import Limits, Service
    from flaxyolo.machine.devices import use_device
    from flaxyolo.weights.checkpoint import detector_folder, load_detector

    use_device(flags.device)
    folder = detector_folder(flags.checkpoint)
    detector = load_detector(folder)
    limits = Limits(
        max_bytes=int(flags.max_mb * 1e6),
        max_pixels=int(flags.max_megapixels * 1e6),
        batch=flags.batch,
        wait=flags.wait_ms / 1000,
        min_score=flags.min_score,
    )
    service = Service(detector, model_name(folder), limits)
    with bind(flags.host, flags.port) as bound:
        if not is_loopback(bound):
            log.warning(
                "--host %s: everyone who reaches this machine can use the server: it asks for no "
                "password",
                flags.host,
            )
        compile_all(service)
        url = url_of(bound)
        serve(make_app(service), bound, f"{url} is ready; {url}/docs tells its API; Ctrl-C ends it")
    counts = service.counts
    told = [f"{value:,} {name}" for name, value in vars(counts).items() if value]
    print(f"ended; {', '.join(told) or 'no image came'}")


def compile_all(service: "Service") -> None:
    """Compile for every number of images, and say so."""
    began = time.monotonic()
    log.info("compiling for batches of %s", ", ".join(map(str, service.sizes)))
    steps = track(
        service.compile(),
        description="compiling",
        total=len(service.sizes),
        console=cli.CONSOLE,
        transient=True,
        disable=not cli.CONSOLE.is_terminal,
    )
    deque(steps, maxlen=0)
    log.info("compiled in %s", cli.duration(time.monotonic() - began))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    flags = cli.parse(
        Flags,
        argv,
        prog="python -m flaxyolo.serve",
        description="A detector over HTTP, with a page to drop an image on.",
    )
    return cli.run(partial(_run, flags))


if __name__ == "__main__":
    sys.exit(main())
