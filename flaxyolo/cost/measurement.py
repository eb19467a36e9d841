"""What a detector costs, with the conditions that it was measured under."""

import os
import platform
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from flaxyolo import __version__
from flaxyolo.base.words import many
from flaxyolo.spec import STRICT, parse

VERSIONS_OF = ("jax", "jaxlib", "flax")

EngineName = Literal["jax", "onnxruntime", "openvino", "command"]
"""What a latency is of: JAX, another engine on this machine, or what a user's command told."""

BUSY_LOAD = 0.48
"""Share of the processor used by others from which a latency is marked. On two cores a job on one
of them took up to 0.43, and what decides stayed within 8 % of the calm machine; jobs on both took
0.54 and more, and it was up to 1.9 times as high."""
BUSY_SLOWDOWN = 1.75
"""How much slower than its best the reference may be. Beside a job on one of two cores it was up
to 1.53; more is a neighbour that this machine's own load does not show."""


Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@pydantic_dataclass(frozen=True, config=STRICT)
class Reference:
    """Milliseconds of one call of the reference."""

    p05_ms: Milliseconds
    p50_ms: Milliseconds
    p95_ms: Milliseconds

    def of_blocks(self, calls: int) -> "Reference":
        """The same of the mean of so many calls in a row, which varies less than one call."""
        narrow = 1 / sqrt(calls)
        return Reference(
            self.p50_ms + (self.p05_ms - self.p50_ms) * narrow,
            self.p50_ms,
            self.p50_ms + (self.p95_ms - self.p50_ms) * narrow,
        )

    def lowest(self, other: "Reference | None") -> "Reference":
        """The lower of both, figure by figure: whatever else runs on a machine only adds."""
        if other is None:
            return self
        return Reference(
            min(self.p05_ms, other.p05_ms),
            min(self.p50_ms, other.p50_ms),
            min(self.p95_ms, other.p95_ms),
        )


@dataclass(frozen=True)
class Measurement:
    """What a detector costs, and under which conditions.

    Latency is that of `detect`, one image on the device in, boxes on the device out, on a device
    as calm as it was ever seen: what was timed, by the reference's times now and at its best.
    Another engine than JAX takes a letterboxed uint8 image and gives rows. Memory is that of JAX's
    programs; of training it leaves out the data set, and is None where no step was compiled.
    Of records of old the latencies are as measured, and what belongs to the reference is None.
    """

    latency_ms_p50: float
    latency_ms_p95: float
    network_ms_p50: float | None
    """Without NMS; None on another engine than JAX, which runs it with its NMS only."""
    fps: float
    """Images per second at the median latency."""
    vram_mib: float
    train_vram_mib: float | None
    params: int
    gflops: float
    device: str
    dtype: str
    image_size: int
    batch_size: int
    """Images per call of the latencies, FPS, GFLOPs and `vram_mib`: 1."""
    train_batch_size: int | None
    versions: dict[str, str]
    latency_paced_ms_p50: float | None = None
    """With a pause of 200 ms before every call, as a camera at 5 images per second has it."""
    latency_paced_ms_p95: float | None = None
    memory_device: str | None = None
    """What the memory is for, where that is not the device of the latencies."""
    measured_ms_p50: float | None = None
    """The latency as it was measured, of the quietest hundred calls."""
    measured_ms_p95: float | None = None
    reference_ms: float | None = None
    """5th percentile of the reference meanwhile, in blocks as long as a call."""
    reference_calls: int | None = None
    """In a block."""
    reference_best: Reference | None = None
    """The reference at its best on this device, as far as it was known."""
    slowdown: float | None = None
    """How many times its best the reference took."""
    load: float | None = None
    """Share of the processor (0..1) that others used; None on an accelerator."""
    floor_ms: float | None = None
    """What the latency is at least, however busy the machine was."""
    engine: EngineName = "jax"
    """What the latency is of."""

    @property
    def busy(self) -> bool:
        """Whether the machine was too busy for the latencies to be more than an upper bound."""
        return (self.load or 0.0) >= BUSY_LOAD or (self.slowdown or 1.0) >= BUSY_SLOWDOWN

    def busyness(self) -> str:
        """What is known of others on the machine, such as `others use 55 % of it, ...`."""
        told = []
        if self.load is not None:
            told.append(f"others use {100 * self.load:.0f} % of it")
        if self.slowdown is not None:
            told.append(f"the reference takes {self.slowdown:.1f} times its best")
        return ", ".join(told)

    def rescaled(self, best: Reference | None) -> "Measurement":
        """The same by another best of the reference on this device.

        A measurement before which the device was never seen calm is too high until it was.
        """
        if (
            best is None
            or self.reference_best is None
            or self.reference_calls is None
            or self.reference_ms is None
            or self.floor_ms is None
        ):
            return self
        then = self.reference_best.of_blocks(self.reference_calls)
        calm = best.of_blocks(self.reference_calls)
        factor = calm.p50_ms / then.p50_ms
        return replace(
            self,
            latency_ms_p50=self.latency_ms_p50 * factor,
            latency_ms_p95=self.latency_ms_p95 * calm.p95_ms / then.p95_ms,
            network_ms_p50=None if self.network_ms_p50 is None else self.network_ms_p50 * factor,
            fps=self.fps / factor,
            reference_best=best,
            slowdown=slowdown(self.reference_ms, calm),
            floor_ms=self.floor_ms * calm.p05_ms / then.p05_ms,
        )

    def conditions(self) -> str:
        """One line that belongs under every figure."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        size = f"{self.image_size}x{self.image_size}"
        where = f"{self.device}, {self.engine}, {self.dtype}"
        return f"{where}, {size}, batch {self.batch_size}, {versions}{self.elsewhere()}"

    def elsewhere(self) -> str:
        """Whose the memory is, where that is another device's; to be appended."""
        return f"; memory for {self.memory_device}" if self.memory_device else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object, where: str = "measurement") -> "Measurement":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


def slowdown(reference_ms: float, calm: Reference) -> float:
    """How many times its best the reference took, both in blocks of as many calls."""
    return max(1.0, reference_ms / calm.p05_ms)


@lru_cache(maxsize=1)
def device_name() -> str:
    """The default device as a person would name it, such as `NVIDIA H100 80GB HBM3`."""
    # Here, because a measurement is read where no device is needed.
    import jax

    device = jax.devices()[0]
    return processor_name() if device.platform == "cpu" else device.device_kind


@lru_cache(maxsize=1)
def processor_name() -> str:
    """This machine's processor, with the cores that this process may use."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {many(cores or 1, 'core')}"


def versions() -> dict[str, str]:
    """Versions of what decides a latency, this package's first."""
    return {"flaxyolo": __version__} | {name: version(name) for name in VERSIONS_OF}
