"""NVIDIA's cards in XLA's words, to compile for one that is not in this machine."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, NamedTuple

import jax

from flaxyolo.base.errors import InputError
from flaxyolo.machine.memory import MIB

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""JAX's packages that compile for CUDA; none of them needs a GPU for it."""
MEMORY_FIELD = r"device_memory_size:\s*(\d+)"
"""In a description, the bytes of the whole device."""
ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
"""The plugin looks for a driver and a GPU at its start, unless it is told not to."""


class Capability(NamedTuple):
    """Limits of a compute capability: NVIDIA, CUDA C++ Programming Guide, technical
    specifications per compute capability."""

    shared_kib: int
    """Per multiprocessor; a block has 1 KiB less, but all of it before 8.0."""
    threads: int
    """Per multiprocessor."""
    lanes: int
    """Units for float32 per multiprocessor."""


class Gpu(NamedTuple):
    """A card as NVIDIA's data sheet has it."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory_gb: float
    """In 1e9 bytes; where it is short, XLA computes again instead of keeping."""
    bandwidth_gbs: float
    l2_mib: int
    clock_ghz: float


@dataclass(frozen=True)
class GpuTarget:
    """A GPU that a program can be compiled for; it need not be there."""

    name: str
    description: str
    """XLA's GpuTargetConfig as a text proto."""
    platform: Literal["cuda"] = "cuda"
    not_counted: ClassVar[str] = "CUDA's context and work space chosen at run time come on top"
    options: ClassVar[dict[str, Any] | None] = None
    """Of the compiler."""

    @property
    def memory_mib(self) -> float:
        """What the whole device has."""
        (size,) = re.findall(MEMORY_FIELD, self.description)[:1]
        return int(size) / MIB

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that compiles for it without a device."""
        return {"JAX_PLATFORMS": "cpu", **ENVIRONMENT}

    def require_packages(self) -> None:
        """InputError with what to install where nothing can compile for it."""
        if not any(map(find_spec, PLUGINS)):
            raise InputError(
                f"compiling for {self.name} needs JAX's CUDA packages (no GPU); run "
                f"pip install jax-cuda13-plugin=={jax.__version__} "
                f"jax-cuda13-pjrt=={jax.__version__} nvidia-cuda-nvcc nvidia-nvvm"
            )

    def device(self) -> Any:
        """A device to compile for; in a process with this environment."""
        from jax.experimental.topologies import get_topology_desc

        described = get_topology_desc(
            "target", "cuda", target_config=self.description, topology="1x1x1"
        )
        return described.devices[0]

    @staticmethod
    def refused_mib(said: str) -> float | None:
        """What a program needs for which the compiler has no room: None, XLA for GPUs leaves that
        to the run."""
        return None


def describe(gpu: Gpu) -> str:
    """XLA's description of a card, a GpuTargetConfig as a text proto."""
    major, minor = gpu.capability
    limits = CAPABILITIES[gpu.capability]
    block_kib = limits.shared_kib - (1 if major >= 8 else 0)
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {limits.shared_kib * 1024}
  threads_per_core_limit: {limits.threads}
  core_count: {gpu.multiprocessors}
  fpus_per_core: {limits.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth_gbs * 1e9:.0f}
  l2_cache_size: {gpu.l2_mib * MIB}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory_gb * 1e9:.0f}
  shared_memory_per_block_optin: {block_kib * 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{gpu.name}"
"""


CAPABILITIES = {
    (7, 5): Capability(64, 1024, 64),
    (8, 0): Capability(164, 2048, 64),
    (8, 6): Capability(100, 1536, 128),
    (8, 7): Capability(164, 1536, 128),
    (8, 9): Capability(100, 1536, 128),
    (9, 0): Capability(228, 2048, 128),
}

GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 80, 3352, 50, 1.98),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 141, 4800, 50, 1.98),
    "a100": Gpu("NVIDIA A100-SXM4-40GB", (8, 0), 108, 40, 1555, 40, 1.41),
    "a100-80gb": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 80, 2039, 40, 1.41),
    "a10": Gpu("NVIDIA A10", (8, 6), 72, 24, 600, 6, 1.695),
    "l4": Gpu("NVIDIA L4", (8, 9), 58, 24, 300, 48, 2.04),
    "rtx4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 24, 1008, 72, 2.52),
    "t4": Gpu("Tesla T4", (7, 5), 40, 16, 320, 4, 1.59),
    "jetson-agx-orin": Gpu("NVIDIA Jetson AGX Orin 64GB", (8, 7), 16, 64, 205, 4, 1.3),
}
