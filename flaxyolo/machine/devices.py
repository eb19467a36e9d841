"""The accelerators of this machine, found without JAX, and which of them a process may see."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from flaxyolo.base.errors import InputError

SHARED_MEMORY = 0.9
"""Of a device's memory, for all workers that share it; JAX takes its share at the start."""
GOOGLE = "0x1ae0"
VARIABLES = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "rocm": "HIP_VISIBLE_DEVICES",
    "tpu": "TPU_VISIBLE_CHIPS",
}
"""What chooses among the accelerators of each of JAX's platforms."""
JAX_NAMES = {"cpu": "cpu", "cuda": "gpu", "rocm": "gpu", "tpu": "tpu"}
"""How JAX calls the backend of each platform."""
ONE_TPU = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


class Accelerators(NamedTuple):
    """The names of the devices, and the variable of the environment that chooses among them."""

    variable: str
    names: tuple[str, ...]


def accelerators(environ: Mapping[str, str], root: Path = Path("/")) -> Accelerators:
    """What a process with this environment sees; no names where it computes on the CPU."""
    if environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return Accelerators("", ())
    gpus = len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    amd = sum(
        path.read_text().strip() not in ("", "0")
        for path in (root / "sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    )
    tpus = sum(
        path.read_text().strip() == GOOGLE
        for path in (root / "sys/bus/pci/devices").glob("*/vendor")
    )
    for variable, count in zip(VARIABLES.values(), (gpus, amd, tpus), strict=True):
        if not count:
            continue
        chosen = environ.get(variable)
        listed = map(str, range(count)) if chosen is None else chosen.split(",")
        names = tuple(name.strip() for name in listed if name.strip() not in ("", "-1"))
        return Accelerators(variable, names)
    return Accelerators("", ())


def use_device(name: str | None) -> None:
    """Compute on the device of this name, in this process and in those that it starts.

    A name is cpu, gpu, tpu or one of several, such as cuda:1; None leaves the choice to JAX and its
    variables. InputError where there is no such device. For a process that has computed nothing.
    """
    choose_device(name)
    require_device(name)


def choose_device(name: str | None) -> None:
    """The first half of `use_device`, before processes that compute together have met."""
    if name is None:
        return
    os.environ.update(variables_of(name))
    import jax

    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def require_device(name: str | None) -> None:
    """The second half of `use_device`: InputError where JAX does not find what was chosen."""
    import jax

    wanted = os.environ.get("JAX_PLATFORMS", "")
    told = f"--device {name}" if name is not None else f"JAX_PLATFORMS={wanted}"
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where CUDA sees no GPU
        reason = (str(error).splitlines() or ["JAX finds none"])[0]
        reason = reason.partition(" (")[0]  # JAX's own advice
        raise InputError(f"{told}: {_expected()} ({reason:.200}){_unset(name)}") from None
    if name is not None and found != JAX_NAMES[wanted.partition(",")[0]]:
        raise InputError(f"{told}: {_expected()}")


def variables_of(
    name: str, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> dict[str, str]:
    """The variables of the environment with which JAX computes on a device of this name."""
    kind, _, number = name.lower().partition(":")
    here = accelerators({**environ, "JAX_PLATFORMS": ""}, root)
    if kind == "gpu":
        kind = "rocm" if here.variable == VARIABLES["rocm"] else "cuda"
    if kind not in JAX_NAMES or (number and not number.isdecimal()):
        raise InputError(f"--device {name}: {_expected(environ, root)}")
    if kind == "cpu":
        if number not in ("", "0"):
            raise InputError(f"--device {name}: {_expected(environ, root)}")
        return {"JAX_PLATFORMS": "cpu"}
    # The host is a device of JAX's beside any other.
    chosen = {"JAX_PLATFORMS": f"{kind},cpu"}
    if not number:
        return chosen
    names = here.names if here.variable == VARIABLES[kind] else ()
    if int(number) >= len(names):
        raise InputError(f"--device {name}: {_expected(environ, root)}")
    chosen[VARIABLES[kind]] = names[int(number)]
    return chosen | (ONE_TPU if kind == "tpu" else {})


def _expected(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str:
    variable, names = accelerators({**environ, "JAX_PLATFORMS": ""}, root)
    kind = next((kind for kind, other in VARIABLES.items() if other == variable), "")
    here = ["cpu", *(f"{kind}:{index}" for index in range(len(names)))]
    return f"expected a device that is here: {', '.join(here)}"


def _unset(name: str | None) -> str:
    return "; unset the variable or name another" if name is None else ""


def default_workers(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """One for each accelerator; one on a CPU, where a single training uses all cores."""
    return max(1, len(accelerators(environ, root).names))


def pinned(
    index: int, count: int, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> dict[str, str]:
    """The environment of worker `index` of `count`: it sees its own accelerator and no other.

    More workers than accelerators share them in turn, and divide the memory. CPU cores are shared,
    not divided: a latency is measured with all cores, as the user's program will have them, and
    a core that one worker leaves idle is another's.
    """
    variable, names = accelerators(environ, root)
    own = dict(environ)
    if not names:
        return own
    own[variable] = names[index % len(names)]
    if variable == "TPU_VISIBLE_CHIPS":
        own |= ONE_TPU
    sharers = len(range(index % len(names), count, len(names)))
    if sharers > 1:
        own.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{SHARED_MEMORY / sharers:.2f}")
    return own


def device_key(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> str:
    """Name of what this process computes on, for the gate between training and measuring."""
    variable, names = accelerators(environ, root)
    return f"{variable.split('_')[0].lower()}-{','.join(names)}" if names else "cpu"
