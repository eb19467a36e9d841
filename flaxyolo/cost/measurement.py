"""What a detector costs, with the conditions that it was measured under."""

import os
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flaxyolo import __version__
from flaxyolo.spec import parse

VERSIONS_OF = ("jax", "jaxlib", "flax")


@dataclass(frozen=True)
class Measurement:
    """What a detector costs, and under which conditions.

    Latency is that of `detect`, one image on the device in, boxes on the device out; the memory
    of training leaves out the data set, and is None where no training step was compiled.
    """

    latency_ms_p50: float
    latency_ms_p95: float
    network_ms_p50: float
    """Without NMS."""
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

    def conditions(self) -> str:
        """One line that belongs under every figure."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        size = f"{self.image_size}x{self.image_size}"
        beside = f"; memory for {self.memory_device}" if self.memory_device else ""
        return f"{self.device}, {self.dtype}, {size}, batch {self.batch_size}, {versions}{beside}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object, where: str = "measurement") -> "Measurement":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


@lru_cache(maxsize=1)
def device_name() -> str:
    """The default device as a person would name it, such as `NVIDIA H100 80GB HBM3`."""
    # Here, because a measurement is read where no device is needed.
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


def versions() -> dict[str, str]:
    """Versions of what decides a latency, this package's first."""
    return {"flaxyolo": __version__} | {name: version(name) for name in VERSIONS_OF}
