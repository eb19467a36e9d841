"""Detectors on the engine that they are meant to run on, to be measured there: NMS inside."""

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.cost.again import measure_for, measure_in_fresh_process
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.engine import (
    JAX_ENGINE,
    TIMEOUT_S,
    Engine,
    EngineError,
    EngineName,
    Timed,
    Told,
)
from flaxyolo.cost.measure import measure
from flaxyolo.cost.measurement import Measurement
from flaxyolo.deploy.onnx import OnnxForm, needs, write_onnx
from flaxyolo.deploy.runners import RUNNERS
from flaxyolo.machine.locks import held
from flaxyolo.nn.detector import TrainedDetector, Weights, initial_weights
from flaxyolo.spec import DetectorSpec, parse
from flaxyolo.weights.checkpoint import load_detector

log = logging.getLogger(__name__)

EXPECTED = "expected milliseconds on the last line of its output, a number or two (p50 p95)"
MODEL = "detector.onnx"
TIDY_S = 2.0
"""Between telling a command to end and killing it."""
TOLD = 200
"""Characters of a line of somebody else's that are told."""


def read_engine(
    name: EngineName, command: str | None = None, timeout_s: float | None = None
) -> Engine:
    """The engine of the flags; InputError where it cannot be used here, or they do not agree."""
    if name != "command":
        given = {"command": command, "timeout": timeout_s}
        extra = [flag for flag, value in given.items() if value is not None]
        if extra:
            raise InputError(f"--engine-{extra[0]} is for --engine command, got --engine {name}")
        if name == "jax":
            return JAX_ENGINE
        needs("onnx", name)
        return Engine(name)
    needs("onnx")
    if command is None:
        raise InputError('--engine command: expected --engine-command "./phone.sh" beside it, the '
                         "program that times a model")  # fmt: skip
    seconds = TIMEOUT_S if timeout_s is None else timeout_s
    if not 0 < seconds < math.inf:
        raise InputError(f"--engine-timeout: expected a number above 0, got {seconds:g}")
    engine = Engine(name, command, seconds)
    try:
        words = engine.words
    except ValueError as error:
        raise InputError(
            f"--engine-command {command}: not the words of a command: {error}"
        ) from None
    if not words or shutil.which(words[0]) is None:
        raise InputError(f"--engine-command {command}: expected a program that can be run, found "
                         f"none of the name {words[0] if words else ''!r}")  # fmt: skip
    return engine


def program(
    engine: Engine, spec: DetectorSpec, weights: Weights | None = None
) -> Timed | Told | None:
    """The detector on an engine, to be handed to `measure`; None for JAX, which needs no other.

    Without weights they are fresh ones. EngineError where the engine does not take it.
    """
    if engine.name == "jax":
        return None
    weights = initial_weights(spec, 0) if weights is None else weights
    detector = TrainedDetector(spec, weights, tuple(map(str, range(spec.num_classes))))
    if engine.name == "command":
        return Told(engine, partial(told, engine, detector))
    with tempfile.TemporaryDirectory(prefix="flaxyolo-") as folder:
        try:
            path = write_onnx(detector, Path(folder) / MODEL, OnnxForm(nms=True))
            return Timed(engine, RUNNERS[engine.name](path))
        except InputError as error:
            raise EngineError(f"--engine {engine.name}: {error}") from None


def told(engine: Engine, detector: TrainedDetector) -> tuple[float, float]:
    """Milliseconds (p50, p95) that the user's command tells of a detector.

    One command at a time runs on this machine. EngineError where it fails.
    """
    lock = Path(tempfile.gettempdir()) / "flaxyolo-command.lock"
    with tempfile.TemporaryDirectory(prefix="flaxyolo-") as folder:
        try:
            path = write_onnx(detector, Path(folder) / MODEL, OnnxForm(nms=True))
        except InputError as error:
            raise EngineError(f"--engine {engine.name}: {error}") from None
        with held(lock, what="another engine's command to end"):
            log.info("running %s with an ONNX model of %.1f MB, for %g s at most",
                     engine.command, path.stat().st_size / 1e6, engine.timeout_s)  # fmt: skip
            return milliseconds(engine, run_command(engine, path))


def run_command(engine: Engine, model: Path) -> str:
    """What the command prints, given the path of a model; EngineError in a line where it fails.

    It leads a session of its own, without a terminal to ask for passwords in. Whatever interrupts
    it, its children end with it.
    """
    what = f"--engine-command {engine.command}"
    try:
        process = subprocess.Popen(
            [*engine.words, str(model.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(f"{what}: cannot be run: {error.strerror}") from None
    with process:
        try:
            out, said = process.communicate(timeout=engine.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            raise EngineError(f"{what}: took more than {engine.timeout_s:g} s, which "
                              f"--engine-timeout allows; {EXPECTED}") from None  # fmt: skip
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        code = process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        raise EngineError(f"{what}: {how}: {last_line(said) or 'it said nothing'}; {EXPECTED}")
    return out


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process and all of its group, which may tidy up for a moment."""
    if process.returncode is not None:
        return
    try:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TIDY_S)
    finally:  # also at a second Ctrl-C
        _signal(process, signal.SIGKILL)


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def milliseconds(engine: Engine, printed: str) -> tuple[float, float]:
    """p50 and p95 from the last line that was printed; one number is both."""
    line = last_line(printed)
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    fine = all(0 < number < math.inf for number in numbers) and numbers == sorted(numbers)
    if len(numbers) not in (1, 2) or not fine:
        got = repr(line) if line else "nothing"
        raise EngineError(f"--engine-command {engine.command}: {EXPECTED}, got {got}")
    return numbers[0], numbers[-1]


def last_line(text: str) -> str:
    """The last line that is not empty, cut where it is long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:TOLD] if lines else ""


def measured_again(
    engine: Engine,
    folder: Path,
    images: UInt8[np.ndarray, "n s s 3"],
    budget: Budget,
) -> Measurement:
    """What a trained detector's folder costs on an engine, in a fresh process.

    A user's command is one already. InputError where it fails.
    """
    if engine.name == "jax":
        return measure_in_fresh_process(folder, images, budget)
    if engine.here:
        more = [json.dumps(asdict(engine))]
        return measure_in_fresh_process(
            folder, images, budget, module="flaxyolo.deploy.engines", more=more
        )
    detector = load_detector(folder)
    on_engine = program(engine, detector.spec, detector.weights)
    return measure_for(
        budget, detector.spec, images, detector.weights, trained=True, program=on_engine
    )


def main(argv: Sequence[str]) -> int:
    """Print as JSON what a detector's folder costs on the images of a .npy file, on an engine."""
    folder, images, given = argv

    def command() -> None:
        engine = parse(Engine, json.loads(given), "engine")
        detector = load_detector(Path(folder))
        on_engine = program(engine, detector.spec, detector.weights)
        cost = measure(detector.spec, weights=detector.weights, images=np.load(images),
                       program=on_engine)  # fmt: skip
        print(json.dumps(cost.to_dict()))

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
