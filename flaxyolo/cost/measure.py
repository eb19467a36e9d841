"""What a detector costs: latency, memory, parameters, GFLOPs; and the budget it must keep."""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from math import isfinite, prod
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo import __version__
from flaxyolo.base.boxes import letterbox_image
from flaxyolo.base.errors import InputError
from flaxyolo.cost.flops import multiply_adds
from flaxyolo.machine.clock import device_lock, quietest, time_calls
from flaxyolo.machine.memory import MIB
from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.detector import (
    Weights,
    abstract_weights,
    compiled_detect,
    compute_dtype,
    fuse,
    fused_graph,
    initial_weights,
    run_network,
)
from flaxyolo.spec import DetectorSpec, parse

PACED_GAP_S = 0.2
"""Pause before each call of the paced mode, in which the device falls out of its fast state."""
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


@dataclass(frozen=True)
class Budget:
    """Limits of a `Measurement`; None is no limit."""

    latency_ms: float | None = None
    """Of the statistic `latency_stat`."""
    vram_mib: float | None = None
    train_vram_mib: float | None = None
    """Of a training step at the batch size of the training, without the data set."""
    params: float | None = None
    gflops: float | None = None
    latency_stat: Literal["p95", "p50"] = "p95"

    def __post_init__(self):
        for name, limit in self.limits.items():
            if not (isfinite(limit) and limit > 0):
                raise InputError(f"budget {name}: expected a number above 0, got {limit}")
        if self.latency_stat not in ("p95", "p50"):
            raise InputError(f"budget latency_stat: expected p95 or p50, got {self.latency_stat!r}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by what they limit."""
        limits = {name: getattr(self, name) for name in LIMITS}
        return {name: float(limit) for name, limit in limits.items() if limit is not None}

    def latency_of(self, cost: Measurement) -> float:
        """The latency that is limited, in ms."""
        return cost.latency_ms_p50 if self.latency_stat == "p50" else cost.latency_ms_p95

    def known(self, cost: Measurement) -> dict[str, float]:
        """What is limited and known: the memory of training only once its step is compiled."""
        values = cost.to_dict() | {"latency_ms": self.latency_of(cost)}
        return {name: float(values[name]) for name in self.limits if values[name] is not None}

    def excess(self, cost: Measurement) -> dict[str, float]:
        """How far each limit is overstepped, as a share of it; zero or less is inside.

        A limit of what is not known of the cost is left out.
        """
        return self.shares(self.known(cost))

    def shares(self, values: Mapping[str, float]) -> dict[str, float]:
        """`excess` of bare values, by the name of their limit."""
        limits = self.limits
        return {
            name: (value - limits[name]) / limits[name]
            for name, value in values.items()
            if name in limits
        }

    def allows(self, cost: Measurement) -> bool:
        """Whether every limit of what is known is kept."""
        return all(share <= 0 for share in self.excess(cost).values())

    def describe(self) -> str:
        """The limits in words, such as `at most 8 ms (p95), 500 MiB`."""
        told = []
        for name, limit in self.limits.items():
            size, unit, _ = LIMITS[name]
            stat = f" ({self.latency_stat})" if name == "latency_ms" else ""
            told.append(f"{limit / size:g} {unit}{stat}")
        return f"at most {', '.join(told)}" if told else "no limit"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: latency and memory of inference always, the rest where it is set."""
        stat = {} if self.latency_stat == "p95" else {"latency_stat": self.latency_stat}
        return {"latency_ms": self.latency_ms, "vram_mib": self.vram_mib} | self.limits | stat

    @classmethod
    def from_dict(cls, data: object, where: str = "budget") -> "Budget":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


def measure(
    spec: DetectorSpec,
    *,
    weights: Weights | None = None,
    images: np.ndarray | None = None,
    train_step: jax.stages.Compiled | None = None,
    train_batch_size: int | None = None,
    data_bytes: int = 0,
    min_calls: int = 200,
    min_seconds: float = 4.0,
    max_seconds: float = 10.0,
    paced: bool = False,
) -> Measurement:
    """Measure a detector on the default device, alone among the measurements on this machine.

    `images` are letterboxed uint8 (n, s, s, 3), shown in turn; None takes photographs. Without
    `weights` they are fresh ones. `train_step` adds the memory of training, less `data_bytes` of
    the data set among its arguments. A latency takes at least `min_calls` calls and `min_seconds`,
    but ends after `max_seconds`; the quietest hundred calls in a row count.
    """
    weights = initial_weights(spec, 0) if weights is None else weights
    images = photographs(spec.image_size) if images is None else images
    shape = (spec.image_size, spec.image_size, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(f"expected uint8 images (n, *{shape}), got {images.dtype} {images.shape}")
    fused = jax.device_put(fuse(spec, weights))
    shown = [jax.device_put(image[None]) for image in images]
    detect, network = compiled_detect(spec, 1, images.dtype), compiled_network(spec)
    limits = {"min_calls": min_calls, "max_seconds": max_seconds}
    seconds = min(min_seconds, max_seconds)
    with device_lock():
        whole = time_calls(
            lambda i: detect(fused, shown[i % len(shown)]), min_seconds=seconds, **limits
        )
        alone = time_calls(
            lambda i: network(fused, shown[i % len(shown)]),
            min_calls=max(1, min_calls // 4),
            max_seconds=max_seconds / 4,
        )
        slow = (
            time_calls(lambda i: detect(fused, shown[i % len(shown)]), gap=PACED_GAP_S, **limits)
            if paced
            else None
        )
    p50, p95 = np.percentile(quietest(whole), [50, 95]).tolist()
    paced_p50, paced_p95 = (None, None) if slow is None else np.percentile(slow, [50, 95]).tolist()
    return Measurement(
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        network_ms_p50=float(np.percentile(quietest(alone), 50)),
        fps=1000 / p50,
        vram_mib=memory_mib(detect),
        train_vram_mib=None if train_step is None else memory_mib(train_step) - data_bytes / MIB,
        params=count_params(spec),
        gflops=count_gflops(spec),
        device=device_name(),
        dtype=jnp.dtype(compute_dtype()).name,
        image_size=spec.image_size,
        batch_size=1,
        train_batch_size=train_batch_size,
        versions=versions(),
        latency_paced_ms_p50=paced_p50,
        latency_paced_ms_p95=paced_p95,
    )


@lru_cache(maxsize=64)
def compiled_network(spec: DetectorSpec) -> jax.stages.Compiled:
    """The network with decoding and without NMS, for one uint8 image: `f(fused, images)`."""
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, 3), jnp.uint8)
    dtype = compute_dtype()
    return compile_ahead(run_network, spec, fused_graph(spec, dtype)[1], image, dtype)


def memory_mib(compiled: jax.stages.Compiled) -> float:
    """Memory that a compiled program needs: arguments, results, work space and its own code."""
    usage = compiled.memory_analysis()
    if usage is None:
        raise RuntimeError(f"XLA does not tell the memory of a program on {device_name()}")
    needed = (
        usage.temp_size_in_bytes
        + usage.argument_size_in_bytes
        + usage.output_size_in_bytes
        - usage.alias_size_in_bytes
        + usage.generated_code_size_in_bytes
    )
    return needed / MIB


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, or of what their shapes stand for."""
    return sum(prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def count_params(spec: DetectorSpec) -> int:
    """Trainable parameters; running statistics are none."""
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(abstract_weights(spec).params))


def count_gflops(spec: DetectorSpec) -> float:
    """Twice the multiply-adds of the network for one image, in 1e9: convolutions and products.

    Counted on the folded network, and the architecture's whichever form a convolution takes here.
    """
    size = spec.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    program = jax.make_jaxpr(lambda fused, image: run_network(spec, fused, image, jnp.float32))
    return 2 * multiply_adds(program(fused_graph(spec, jnp.float32)[1], image).jaxpr) / 1e9


def photographs(size: int) -> np.ndarray:
    """Letterboxed uint8 images (4, size, size, 3): scikit-learn's two photographs, and mirrored."""
    from sklearn.datasets import load_sample_images

    pictures = [np.asarray(picture) for picture in load_sample_images().images]
    pictures += [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
    return np.stack([letterbox_image(picture, size) for picture in pictures])


@lru_cache(maxsize=1)
def device_name() -> str:
    """The default device as a person would name it, such as `NVIDIA H100 80GB HBM3`."""
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


LIMITS = {
    "latency_ms": (1, "ms", 2),
    "vram_mib": (1, "MiB", 1),
    "train_vram_mib": (1, "MiB in training", 1),
    "params": (1e6, "M parameters", 2),
    "gflops": (1, "GFLOPs", 2),
}
"""What a budget may limit: the size of its unit, the unit, and decimals of an overrun."""
