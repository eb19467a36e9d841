"""Memory on a GPU or TPU that is not in this machine, from a compile for its description."""

import json
import re
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_file
from flaxyolo.config import TrainConfig
from flaxyolo.cost.gpu import GPUS, MEMORY_FIELD, GpuTarget, describe
from flaxyolo.cost.measure import memory_mib
from flaxyolo.cost.measurement import Measurement
from flaxyolo.cost.step_memory import nominal_step
from flaxyolo.cost.tpu import TPUS, TpuTarget
from flaxyolo.machine.child import run_module
from flaxyolo.machine.memory import MIB
from flaxyolo.nn.detector import detect_batch, fused_graph
from flaxyolo.nn.platform import traced_for
from flaxyolo.spec import DetectorSpec, parse, to_dict
from flaxyolo.training.step import start, train_step

COMPILE_SECONDS = 1800.0
DTYPE = jnp.bfloat16
"""What this package computes in on GPUs and TPUs."""


Target = GpuTarget | TpuTarget
"""What a program can be compiled for without it: both have the same questions answered."""


@dataclass(frozen=True)
class Asked:
    """What the process that compiles is given."""

    spec: DetectorSpec
    config: TrainConfig
    target: Target


class TargetMemory(NamedTuple):
    """Memory in MiB of detecting in one image, and of a training step without the data set."""

    inference_mib: float
    train_mib: float


def read_target(name: str) -> Target:
    """A card or chip of the tables by its key, or a file with XLA's description of a GPU."""
    if name in GPUS:
        return GpuTarget(GPUS[name].name, describe(GPUS[name]))
    if name in TPUS:
        return TpuTarget(TPUS[name].name, name)
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
    return GpuTarget(named[1] if named else path.stem, text)


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
    target.require_packages()
    printed = run_module(
        "flaxyolo.cost.target",
        what=f"compiling for {target.name}",
        given=json.dumps(to_dict(Asked(spec, config, target))),
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


def compile_memory(spec: DetectorSpec, config: TrainConfig, target: Target) -> TargetMemory:
    """The memory of both programs; in a process with the target's environment."""
    device = target.device()
    step, held = lowered_step(spec, config, device)
    detect = lowered_detect(spec, 1, device)
    inference, training = (needed_mib(each, target) for each in (detect, step))
    return TargetMemory(inference, training - held / MIB)


def needed_mib(lowered: jax.stages.Lowered, target: Target) -> float:
    """Memory of a program, of which its device may have less."""
    try:
        return memory_mib(lowered.compile(compiler_options=target.options))
    except jax.errors.JaxRuntimeError as error:
        needed = target.refused_mib(str(error))
        if needed is None:
            raise
        return needed


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


def main() -> None:
    """Read what `target_memory` asks for, and print its answer; the device is not there."""
    asked = parse(Asked, json.load(sys.stdin), "what is compiled")
    try:
        memory = compile_memory(asked.spec, asked.config, asked.target)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        print(f"error: {str(error).splitlines()[0]:.500}", file=sys.stderr)
        sys.exit(1)
    print(json.dumps(memory._asdict()))


if __name__ == "__main__":
    main()
