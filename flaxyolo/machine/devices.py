"""The accelerators of this machine, found without JAX, and which of them a worker may see."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = 0.9
"""Of a device's memory, for all workers that share it; JAX takes its share at the start."""
GOOGLE = "0x1ae0"
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
    for variable, count in (
        ("CUDA_VISIBLE_DEVICES", gpus),
        ("HIP_VISIBLE_DEVICES", amd),
        ("TPU_VISIBLE_CHIPS", tpus),
    ):
        if not count:
            continue
        chosen = environ.get(variable)
        listed = map(str, range(count)) if chosen is None else chosen.split(",")
        names = tuple(name.strip() for name in listed if name.strip() not in ("", "-1"))
        return Accelerators(variable, names)
    return Accelerators("", ())


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
