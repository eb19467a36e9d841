"""On what a latency is measured: JAX, or the engine that a detector is meant to run on."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from flaxyolo.base.errors import InputError
from flaxyolo.cost.measurement import EngineName, device_name, processor_name, versions
from flaxyolo.nn.detector import compute_dtype

TIMEOUT_S = 300.0
"""For which a user's command may time one model."""


@dataclass(frozen=True)
class Engine:
    """What the latency of a budget is measured on."""

    name: EngineName = "jax"
    command: str = ""
    """Of the engine `command`: what is run with the path of a model, as it was typed."""
    timeout_s: float = TIMEOUT_S

    @property
    def words(self) -> list[str]:
        """The command without the model; no shell reads it."""
        return shlex.split(self.command)

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, so that what else runs here slows it."""
        return self.name != "command"

    def describe(self) -> str:
        """Such as `onnxruntime`, or `command ./phone.sh`."""
        return f"{self.name} {self.command}" if self.command else self.name


JAX_ENGINE = Engine()


class Timed(NamedTuple):
    """A detector as another engine than JAX runs it on this machine's processor."""

    engine: Engine
    detect: Callable[[UInt8[np.ndarray, "1 s s 3"]], Any]
    """From a letterboxed image to rows, NMS included."""


class Told(NamedTuple):
    """A detector that somebody else times, on another machine."""

    engine: Engine
    tell: Callable[[], tuple[float, float]]
    """Times it: p50 and p95 in ms. EngineError where that fails."""


class EngineError(InputError):
    """An engine has not run a detector: it fails its trial, and not the sweep."""


class Where(NamedTuple):
    """What a latency holds for, beside the detector."""

    device: str
    dtype: str
    versions: dict[str, str]


def where(engine: Engine) -> Where:
    """The device of an engine, as what numbers its models compute, and versions."""
    if engine.name == "jax":
        return Where(device_name(), jnp.dtype(compute_dtype()).name, versions())
    if not engine.here:
        return Where(f"the device of {engine.command}", "float32", versions())
    own = {engine.name: version(engine.name)}
    return Where(processor_name(), "float32", versions() | own)
