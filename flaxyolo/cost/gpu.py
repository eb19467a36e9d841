"""Memory on a GPU that is not in this machine, from a compile for its description."""

import json
import re
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.measure import memory_mib
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import nominal_step
from flaxyolo.machine.child import run_module
from flaxyolo.machine.memory import MIB
from flaxyolo.nn.detector import detect_batch, fused_graph
from flaxyolo.nn.platform import traced_for
from flaxyolo.spec import DetectorSpec, detector_from_dict, parse, to_dict
from flaxyolo.training.loop import start, train_step

PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""JAX's packages that compile for CUDA; none of them needs a GPU for it."""
COMPILE_SECONDS = 1800.0
NO_DEVICE = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
"""The environment of a process that compiles: the plugin looks for a driver and a GPU at its start,
unless it is told not to."""
NOT_COUNTED = "CUDA's context and work space chosen at run time come on top"
DTYPE = jnp.bfloat16
"""What this package computes in on a GPU."""


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
class Target:
    """A GPU by XLA's description of it, a GpuTargetConfig as a text proto."""

    name: str
    description: str

    @property
    def memory_mib(self) -> float:
        """What the whole device has."""
        (size,) = re.findall(MEMORY_FIELD, self.description)[:1]
        return int(size) / MIB


class TargetMemory(NamedTuple):
    """Memory in MiB of detecting in one image, and of a training step without the data set."""

    inference_mib: float
    train_mib: float


def read_target(name: str) -> Target:
    """A card of the table by its key, or a file with XLA's description of one."""
    if name in GPUS:
        return Target(GPUS[name].name, describe(GPUS[name]))
    path = Path(name)
    if not path.is_file():
        near = get_close_matches(name, GPUS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"--target {name}: expected one of {', '.join(GPUS)}, or a file with XLA's "
            f"GpuTargetConfig of a GPU{hint}"
        )
    try:
        text = read_file(path).decode()
    except OSError as error:
        raise InputError(f"--target {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--target {path}: expected a text proto, found other bytes") from None
    for field in ("gpu_device_info", "cuda_compute_capability"):
        if field not in text:
            raise InputError(f"--target {path}: expected XLA's GpuTargetConfig, found no {field}")
    if not re.search(MEMORY_FIELD, text):
        raise InputError(f"--target {path}: expected a device_memory_size in bytes, found none")
    named = re.search(r'device_description_str:\s*"([^"]+)"', text)
    return Target(named[1] if named else path.stem, text)


def require_packages(target: Target) -> None:
    """InputError with what to install where nothing can compile for the target."""
    if not any(map(find_spec, PLUGINS)):
        raise InputError(
            f"compiling for {target.name} needs JAX's CUDA packages (no GPU); run "
            f"pip install jax-cuda13-plugin=={jax.__version__} "
            f"jax-cuda13-pjrt=={jax.__version__} nvidia-cuda-nvcc nvidia-nvvm"
        )


def target_memory(
    spec: DetectorSpec,
    config: TrainConfig,
    target: Target,
    *,
    timeout: float = COMPILE_SECONDS,
) -> TargetMemory:
    """Compile `detect` and a training step for the target, in a process of its own.

    InputError where the packages for it are missing, or XLA does not take the description.
    """
    require_packages(target)
    asked = {
        "spec": to_dict(spec),
        "config": to_dict(config),
        "description": target.description,
    }
    printed = run_module(
        "flaxyolo.cost.gpu",
        what=f"compiling for {target.name}",
        given=json.dumps(asked),
        environment=NO_DEVICE,
        timeout=timeout,
    )
    return TargetMemory(**json.loads(printed))


def on_target(
    cost: Measurement, spec: DetectorSpec, config: TrainConfig, target: Target
) -> Measurement:
    """The cost with both memories those of the target; the latencies stay this device's."""
    memory = target_memory(spec, config, target)
    return replace(
        cost,
        vram_mib=memory.inference_mib,
        train_vram_mib=memory.train_mib,
        train_batch_size=config.batch_size,
        memory_device=target.name,
    )


def compile_memory(spec: DetectorSpec, config: TrainConfig, device: Any) -> TargetMemory:
    """The memory of both programs on a device, which need not be there, in its dtype."""
    detect = lowered_detect(spec, 1, device).compile()
    step, held = lowered_step(spec, config, device)
    return TargetMemory(memory_mib(detect), memory_mib(step.compile()) - held / MIB)


def lowered_detect(spec: DetectorSpec, batch: int, device: Any) -> jax.stages.Lowered:
    """`detect` for a device, which need not be there, in its dtype."""
    image = jax.ShapeDtypeStruct((batch, spec.image_size, spec.image_size, 3), jnp.uint8)
    with traced_for(device.platform):
        fused = fused_graph(spec, DTYPE)[1]
        return detect_batch.lower(spec, placed(fused, device), placed(image, device), DTYPE)


def lowered_step(
    spec: DetectorSpec, config: TrainConfig, device: Any
) -> tuple[jax.stages.Lowered, int]:
    """A training step for a device, which need not be there, and the bytes of its data set."""
    with traced_for(device.platform):
        plan, feed = nominal_step(spec, config, DTYPE)
        indices = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
        seed = jax.ShapeDtypeStruct((), jnp.int32)
        state = jax.eval_shape(lambda: start(plan))
        arguments = state, feed.shapes(config.batch_size), indices, seed
        return train_step.lower(plan, *placed(arguments, device)), feed.device_bytes


def placed(tree: Any, device: Any) -> Any:
    """The shapes of arrays that would lie on a device."""
    where = jax.sharding.SingleDeviceSharding(device)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


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


def described_device(description: str) -> Any:
    """A device to compile for that need not be there; in a process with `NO_DEVICE`."""
    from jax.experimental.topologies import get_topology_desc

    described = get_topology_desc("target", "cuda", target_config=description, topology="1x1x1")
    return described.devices[0]


def main() -> None:
    """Read what `target_memory` asks for, and print its answer; the device is not there."""
    asked = json.load(sys.stdin)
    spec = detector_from_dict(asked["spec"])
    config = parse(TrainConfig, asked["config"], "training")
    try:
        memory = compile_memory(spec, config, described_device(asked["description"]))
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        print(f"error: {str(error).splitlines()[0]:.500}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(memory._asdict()))


MEMORY_FIELD = r"device_memory_size:\s*(\d+)"

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


if __name__ == "__main__":
    main()
