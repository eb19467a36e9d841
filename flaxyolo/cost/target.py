"""Memory on a GPU or TPU that is not in this machine, from a compile for its description."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.gpu import ENVIRONMENT as GPU_ENVIRONMENT
from flaxyolo.cost.gpu import GPUS, MEMORY_FIELD, PLUGINS, describe
from flaxyolo.cost.measure import memory_mib
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import nominal_step
from flaxyolo.cost.tpu import OVERFULL, PACKAGE, QUICKLY, TPUS, UNITS_MIB
from flaxyolo.cost.tpu import environment as tpu_environment
from flaxyolo.machine.child import run_module
from flaxyolo.machine.memory import MIB
from flaxyolo.nn.detector import detect_batch, fused_graph
from flaxyolo.nn.platform import traced_for
from flaxyolo.spec import DetectorSpec, detector_from_dict, parse, to_dict
from flaxyolo.training.loop import start, train_step

COMPILE_SECONDS = 1800.0
NOT_COUNTED = {
    "cuda": "CUDA's context and work space chosen at run time come on top",
    "tpu": "what the TPU's runtime keeps for itself comes on top; an upper bound, as the compiler "
    "is asked to be quick",
}
DTYPE = jnp.bfloat16
"""What this package computes in on GPUs and TPUs."""


@dataclass(frozen=True)
class Target:
    """A GPU or TPU that a program can be compiled for."""

    name: str
    description: str
    """Of a GPU XLA's GpuTargetConfig as a text proto, of a TPU its key in the table."""
    platform: Literal["cuda", "tpu"] = "cuda"

    @property
    def memory_mib(self) -> float:
        """What the whole device has."""
        if self.platform == "tpu":
            return TPUS[self.description].memory_gb * 1e9 / MIB
        (size,) = re.findall(MEMORY_FIELD, self.description)[:1]
        return int(size) / MIB

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that compiles for it without a device."""
        special = GPU_ENVIRONMENT
        if self.platform == "tpu":
            special = tpu_environment(TPUS[self.description])
        return {"JAX_PLATFORMS": "cpu", **special}


class TargetMemory(NamedTuple):
    """Memory in MiB of detecting in one image, and of a training step without the data set."""

    inference_mib: float
    train_mib: float


def read_target(name: str) -> Target:
    """A card or chip of the tables by its key, or a file with XLA's description of a GPU."""
    if name in GPUS:
        return Target(GPUS[name].name, describe(GPUS[name]))
    if name in TPUS:
        return Target(TPUS[name].name, name, "tpu")
    path = Path(name)
    if not path.is_file():
        near = get_close_matches(name, [*GPUS, *TPUS], n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"--target {name}: expected one of {', '.join([*GPUS, *TPUS])}, or a file with XLA's "
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
    if target.platform == "tpu":
        if not find_spec(PACKAGE):
            raise InputError(
                f"compiling for {target.name} needs {PACKAGE} (no TPU); run "
                f"pip install 'jax[tpu]=={jax.__version__}'"
            )
    elif not any(map(find_spec, PLUGINS)):
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

    Where a TPU's compiler has no room for a program, its memory is what the compiler says it needs.
    InputError where the packages for it are missing, or XLA does not take the description.
    """
    require_packages(target)
    asked = {
        "spec": to_dict(spec),
        "config": to_dict(config),
        "platform": target.platform,
        "description": target.description,
    }
    printed = run_module(
        "flaxyolo.cost.target",
        what=f"compiling for {target.name}",
        given=json.dumps(asked),
        environment=target.environment,
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
    step, held = lowered_step(spec, config, device)
    detect = lowered_detect(spec, 1, device)
    inference, training = (needed_mib(partial(compiled, each, device)) for each in (detect, step))
    return TargetMemory(inference, training - held / MIB)


def compiled(lowered: jax.stages.Lowered, device: Any) -> jax.stages.Compiled:
    """A program for a device that need not be there; for a TPU `QUICKLY`."""
    return lowered.compile(compiler_options=QUICKLY if device.platform == "tpu" else None)


def needed_mib(compile_it: Callable[[], jax.stages.Compiled]) -> float:
    """Memory of a program, of which its device may have less."""
    try:
        return memory_mib(compile_it())
    except jax.errors.JaxRuntimeError as error:
        # A TPU's compiler refuses what has no room there; XLA for GPUs leaves that to the run.
        needed = re.search(OVERFULL, str(error))
        if needed is None:
            raise
        return float(needed[1]) * UNITS_MIB[needed[2]]


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


def described_device(platform: str, description: str) -> Any:
    """A device to compile for that need not be there; in a process with a target's environment."""
    from jax.experimental.topologies import get_topology_desc

    if platform == "tpu":
        return get_topology_desc(TPUS[description].topology, "tpu").devices[0]
    described = get_topology_desc("target", "cuda", target_config=description, topology="1x1x1")
    return described.devices[0]


def main() -> None:
    """Read what `target_memory` asks for, and print its answer; the device is not there."""
    asked = json.load(sys.stdin)
    spec = detector_from_dict(asked["spec"])
    config = parse(TrainConfig, asked["config"], "training")
    try:
        memory = compile_memory(
            spec, config, described_device(asked["platform"], asked["description"])
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        print(f"error: {str(error).splitlines()[0]:.500}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(memory._asdict()))


if __name__ == "__main__":
    main()
