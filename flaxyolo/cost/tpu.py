"""Google's chips in libtpu's words, to compile for one that is not in this machine."""

from typing import Any, NamedTuple

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


def environment(tpu: Tpu) -> dict[str, str]:
    """Of a process that compiles: otherwise libtpu asks the cloud which TPU this machine has, and
    only one process at a time may load it."""
    return {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": tpu.slice,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }


TPUS = {
    "v5e": Tpu("TPU v5e", "v5e:2x2", "v5litepod-4", 16),
    "v5p": Tpu("TPU v5p", "v5p:2x2x1", "v5p-8", 95),
    "v6e": Tpu("TPU v6e", "v6e:2x2", "v6e-4", 32),
}
