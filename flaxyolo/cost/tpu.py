"""Google's chips in libtpu's words, to compile for one that is not in this machine."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, NamedTuple

import jax

from flaxyolo.base.errors import InputError
from flaxyolo.machine.memory import MIB

PACKAGE = "libtpu"
"""It compiles for TPUs, and needs none for it."""
OVERFULL = r"(?:Used |\()([\d.]+)([KMGT])(?: of [\d.]+[KMGT] hbm|\) exceeds available HBM)"
"""In the words with which its compiler refuses a program that has no room: all that it needs, or
its work space where that alone is too much."""
UNITS_MIB = {"K": 2.0**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}


QUICKLY: dict[str, Any] = {"exec_time_optimization_effort": -1.0}
"""Options of its compiler with which it does not try what to fetch into the chip's own memory and
when. Otherwise the gradients of YOLOv8n at 320 px take it 293 s of a core instead of 56, and its
forward pass 63 s instead of 17; the program then needs 653 MiB instead of 727."""


class Tpu(NamedTuple):
    """A chip as Google's documentation of Cloud TPU has it; one chip is one device of JAX."""

    name: str
    topology: str
    """The smallest slice that libtpu describes, of which one chip is compiled for."""
    slice: str
    """The same as Cloud TPU's accelerator type."""
    memory_gb: float
    """In 1e9 bytes; a program that needs more is refused."""


@dataclass(frozen=True)
class TpuTarget:
    """A TPU that a program can be compiled for; it need not be there."""

    name: str
    key: str
    """In `TPUS`."""
    platform: Literal["tpu"] = "tpu"
    not_counted: ClassVar[str] = (
        "what the TPU's runtime keeps for itself comes on top; an upper bound, as the compiler is "
        "asked to be quick"
    )
    options: ClassVar[dict[str, Any] | None] = QUICKLY
    """Of the compiler."""

    @property
    def memory_mib(self) -> float:
        """What one chip has."""
        return TPUS[self.key].memory_gb * 1e9 / MIB

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that compiles: otherwise libtpu asks the cloud which TPU this machine has,
        and only one process at a time may load it."""
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": TPUS[self.key].slice,
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
        }

    def require_packages(self) -> None:
        """InputError with what to install where nothing can compile for it."""
        if not find_spec(PACKAGE):
            raise InputError(
                f"compiling for {self.name} needs {PACKAGE} (no TPU); run "
                f"pip install 'jax[tpu]=={jax.__version__}'"
            )

    def device(self) -> Any:
        """A chip to compile for; in a process with this environment."""
        from jax.experimental.topologies import get_topology_desc

        return get_topology_desc(TPUS[self.key].topology, "tpu").devices[0]

    @staticmethod
    def refused_mib(said: str) -> float | None:
        """What a program needs for which the compiler says it has no room; None if it says
        something else."""
        needed = re.search(OVERFULL, said)
        return None if needed is None else float(needed[1]) * UNITS_MIB[needed[2]]


TPUS = {
    "v5e": Tpu("TPU v5e", "v5e:2x2", "v5litepod-4", 16),
    "v5p": Tpu("TPU v5p", "v5p:2x2x1", "v5p-8", 95),
    "v6e": Tpu("TPU v6e", "v6e:2x2", "v6e-4", 32),
}
