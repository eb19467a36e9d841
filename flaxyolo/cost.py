"""What a detector costs: latency, memory, parameters, GFLOPs; and the budget it must keep."""

import fcntl
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from math import isfinite, prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Float64

from flaxyolo import __version__
from flaxyolo.boxes import letterbox_image
from flaxyolo.errors import InputError
from flaxyolo.memory import MIB
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

WARM_UP_CALLS = 10
BLOCK_CALLS = 100
"""Calls that make a 95th percentile."""
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

    def conditions(self) -> str:
        """One line that belongs under every figure."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        size = f"{self.image_size}x{self.image_size}"
        return f"{self.device}, {self.dtype}, {size}, batch {self.batch_size}, {versions}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object, where: str = "measurement") -> "Measurement":
        """The inverse of `to_dict`."""
        return parse(cls, data, where)


@dataclass(frozen=True)
class Budget:
    """Limits of a `Measurement`; None is no limit. The latency limit is for the 95th percentile."""

    latency_ms: float | None = None
    vram_mib: float | None = None

    def __post_init__(self):
        for name, limit in (("latency_ms", self.latency_ms), ("vram_mib", self.vram_mib)):
            if limit is not None and not (isfinite(limit) and limit > 0):
                raise InputError(f"budget {name}: expected a number above 0, got {limit}")

    def excess(self, cost: Measurement) -> dict[str, float]:
        """How far each limit is overstepped, as a share of it; zero or less is inside."""
        pairs = {
            "latency_ms": (cost.latency_ms_p95, self.latency_ms),
            "vram_mib": (cost.vram_mib, self.vram_mib),
        }
        return {
            name: (value - limit) / limit
            for name, (value, limit) in pairs.items()
            if limit is not None
        }

    def allows(self, cost: Measurement) -> bool:
        """Whether every limit is kept."""
        return all(share <= 0 for share in self.excess(cost).values())

    def describe(self) -> str:
        """The limits in words, such as `at most 8 ms (p95), 500 MiB`."""
        limits = []
        if self.latency_ms is not None:
            limits.append(f"{self.latency_ms:g} ms (p95)")
        if self.vram_mib is not None:
            limits.append(f"{self.vram_mib:g} MiB")
        return f"at most {', '.join(limits)}" if limits else "no limit"


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


def quietest(times: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " m"]:
    """Of all blocks of a hundred calls in a row the one with the lowest 95th percentile.

    What else runs on a machine can only add to a latency, and comes in bursts of seconds.
    """
    blocks = np.array_split(times, max(1, len(times) // BLOCK_CALLS))
    return min(blocks, key=lambda block: float(np.percentile(block, 95)))


def time_calls(
    call: Callable[[int], Any],
    *,
    min_calls: int,
    min_seconds: float = 0.0,
    max_seconds: float,
    gap: float = 0.0,
) -> Float64[np.ndarray, " n"]:
    """Milliseconds of each call, until both least numbers are reached or `max_seconds` are over."""
    for i in range(min(WARM_UP_CALLS, min_calls)):
        jax.block_until_ready(call(i))
    times = []
    start = time.perf_counter()
    while True:
        spent = time.perf_counter() - start
        enough = len(times) >= min_calls and spent >= min_seconds
        if times and (enough or spent >= max_seconds):
            return np.array(times) * 1000
        if gap:
            time.sleep(gap)
        began = time.perf_counter()
        jax.block_until_ready(call(len(times)))
        times.append(time.perf_counter() - began)


@contextmanager
def device_lock() -> Iterator[None]:
    """Held by one process at a time on this machine, so that measurements do not disturb another.

    The operating system lets go of it when the process ends, however it ends.
    """
    path = Path(tempfile.gettempdir()) / "flaxyolo-measure.lock"
    try:
        # Read-only suffices to lock, also where another user made the file.
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


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


def multiply_adds(jaxpr: Jaxpr) -> int:
    """Multiply-adds of the convolutions and matrix products in a program and those it calls."""
    total = 0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        inner = [multiply_adds(body) for value in params.values() for body in _bodies(value)]
        if kind == "while" and sum(inner):
            raise ValueError("the products inside a while loop cannot be counted")
        if kind == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            kernel = _shape(equation.invars[1])
            outputs = prod(_shape(equation.outvars[0]))
            # The kernel's input axis already holds the channels of one group only.
            total += outputs * prod(kernel) // kernel[numbers.rhs_spec[0]]
        elif kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = _shape(equation.invars[0])
            total += prod(_shape(equation.outvars[0])) * prod(left[axis] for axis in contracted)
        elif kind == "cond":
            # Of the forms of one convolution by platform, the default is the plain one; others
            # hold fewer products (sums of shifted slices) or more (with zeros between groups).
            platforms = params.get("branches_platforms")
            total += max(inner) if platforms is None else inner[platforms.index(None)]
        else:
            total += sum(inner) * (params["length"] if kind == "scan" else 1)
    return total


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _bodies(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, tuple | list):
        return [body for part in value for body in _bodies(part)]
    return []


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
