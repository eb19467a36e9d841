"""Measuring what a detector costs: latency, memory, parameters, GFLOPs."""

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, UInt8

from flaxyolo.base import cli
from flaxyolo.base.boxes import letterbox_image
from flaxyolo.cost.engine import JAX_ENGINE, Engine, Timed, Told, where
from flaxyolo.cost.flops import multiply_adds
from flaxyolo.cost.measurement import Measurement, Reference, device_name, slowdown
from flaxyolo.cost.reference import LOW, block_low, calm_ms, reference_call, reference_of
from flaxyolo.cost.table.file import best_reference
from flaxyolo.machine.clock import (
    Turns,
    device_lock,
    least_seconds,
    quietest,
    time_calls,
    time_in_turn,
    warm_up,
)
from flaxyolo.machine.load import share_of_others, usage
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
from flaxyolo.spec import DetectorSpec
from flaxyolo.weights.checkpoint import load_detector

PACED_GAP_S = 0.2
"""Pause before each call of the paced mode, in which the device falls out of its fast state."""
CALLS_AN_IMAGE = 25
"""Calls that an image's low quantile takes; of a slow network fewer images are shown."""
LEAST_AN_IMAGE = 5
"""Calls for each image below which they are not told apart."""

TakeTurns = Callable[..., Turns]
"""How two programs are timed in turn: `time_in_turn`, or another clock."""


def measure(
    spec: DetectorSpec,
    *,
    weights: Weights | None = None,
    images: np.ndarray | None = None,
    program: Timed | Told | None = None,
    train_step: jax.stages.Compiled | None = None,
    train_batch_size: int | None = None,
    data_bytes: int = 0,
    min_calls: int = 100,
    min_seconds: float | None = None,
    max_seconds: float = 10.0,
    paced: bool = False,
    take_turns: TakeTurns = time_in_turn,
) -> Measurement:
    """Measure a detector on the default device, alone among the measurements on this machine.

    `images` are letterboxed uint8 (n, s, s, 3), shown in turn; None takes photographs. Without
    `weights` they are fresh ones. `program` is the same detector on another engine, whose latency
    counts then. `train_step` adds the memory of training, less `data_bytes` of the data set among
    its arguments. A latency takes at least `min_calls` calls and `min_seconds` (None: those of
    `least_seconds`), but ends after `max_seconds`, the reference's calls in turn included.
    """
    images = photographs(spec.image_size) if images is None else images
    shape = (spec.image_size, spec.image_size, 3)
    if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
        raise ValueError(f"expected uint8 images (n, *{shape}), got {images.dtype} {images.shape}")
    engine = JAX_ENGINE if program is None else program.engine
    detect = compiled_detect(spec, 1, images.dtype)
    if isinstance(program, Told):
        figures = told_figures(*program.tell())
    else:
        seconds = least_seconds() if min_seconds is None else min_seconds
        limits = Limits(min_calls, min(seconds, max_seconds), max_seconds)
        if program is None:
            weights = initial_weights(spec, 0) if weights is None else weights
            fused = jax.device_put(fuse(spec, weights))
            network = partial(compiled_network(spec), fused)
            runs = Programs(partial(detect, fused), network, jax.device_put)
        else:
            runs = Programs(program.detect)
        figures = timed_figures(runs, images, limits, take_turns, paced=paced)
    place = where(engine)
    return Measurement(
        **figures,
        vram_mib=memory_mib(detect),
        train_vram_mib=None if train_step is None else memory_mib(train_step) - data_bytes / MIB,
        params=count_params(spec),
        gflops=count_gflops(spec),
        device=place.device,
        dtype=place.dtype,
        image_size=spec.image_size,
        batch_size=1,
        train_batch_size=train_batch_size,
        versions=place.versions,
        memory_device=None if place.device == device_name() else device_name(),
        engine=engine.name,
    )


class Limits(NamedTuple):
    """How long a program is timed."""

    calls: int
    """At least."""
    seconds: float
    """At least."""
    most_seconds: float

    def part(self, share: int) -> dict[str, Any]:
        """One of so many parts of it, as the clock takes it."""
        return {
            "min_calls": max(1, self.calls // share),
            "min_seconds": self.seconds / share,
            "max_seconds": self.most_seconds / share,
        }


class Programs(NamedTuple):
    """What is timed, each called with what `placed` makes of an image."""

    detect: Callable[[Any], Any]
    network: Callable[[Any], Any] | None = None
    """Without NMS, where that can be run for itself."""
    placed: Callable[[UInt8[np.ndarray, "1 s s 3"]], Any] = np.ascontiguousarray


def timed_figures(
    runs: Programs, images: np.ndarray, limits: Limits, take_turns: TakeTurns, *, paced: bool
) -> dict[str, Any]:
    """The figures of a `Measurement` that are timed on this machine.

    What runs on the processor beside an accelerator is timed without the reference, which would
    tell of the accelerator: the quietest of its calls are what counts.
    """
    on_processor = jax.default_backend() == "cpu"
    reference = reference_call() if on_processor or runs.network is not None else None
    slow = alone = None
    with device_lock():
        placed = shown_images(runs, images, limits)
        detect = each(runs.detect, placed)
        before = usage()
        if reference is None:
            whole = time_calls(detect, **limits.part(1))
        else:
            whole = take_turns(detect, reference, **limits.part(1))
        after = usage()
        if runs.network is not None:
            alone = take_turns(each(runs.network, placed), reference, **limits.part(4))
        if paced:
            slow = time_calls(
                detect,
                gap=PACED_GAP_S,
                min_calls=limits.calls,
                max_seconds=limits.most_seconds,
            )
    # An accelerator's neighbours are not seen in the processor's time.
    load = share_of_others(before, after) if on_processor or reference is None else None
    p50, p95 = (None, None) if slow is None else np.percentile(slow, [50, 95]).tolist()
    told = {"latency_paced_ms_p50": p50, "latency_paced_ms_p95": p95}
    if not isinstance(whole, Turns):
        return quiet_figures(whole, load) | told
    best = best_reference(reference_of(whole.reference.ravel()))
    network_ms = None if alone is None else calm_ms(alone, best)
    return calm_figures(whole, len(placed), best, load) | told | {"network_ms_p50": network_ms}


def shown_images(runs: Programs, images: np.ndarray, limits: Limits) -> list[Any]:
    """As many of the images as the time is enough for, as the programs take them."""
    first = runs.placed(images[:1])
    call_s = float(np.median(warm_up(lambda _: runs.detect(first), min(3, limits.calls))))
    # A turn is a call, and about as long a block of the reference.
    turn_s = 2 * call_s
    calls = min(max(limits.calls, limits.seconds / turn_s), limits.most_seconds / turn_s)
    some = spread(images, max(1, int(calls / CALLS_AN_IMAGE)))
    return [runs.placed(image[None]) for image in some]


def each(program: Callable[[Any], Any], shown: Sequence[Any]) -> Callable[[int], Any]:
    """The program on the images in turn, by the number of the call."""
    return lambda number: program(shown[number % len(shown)])


def quiet_figures(times: Float64[np.ndarray, " n"], load: float | None) -> dict[str, Any]:
    """The figures of a `Measurement` of the quietest hundred calls in a row, as measured."""
    p50, p95 = np.percentile(quietest(times), [50, 95]).tolist()
    return told_figures(p50, p95) | {"measured_ms_p50": p50, "measured_ms_p95": p95, "load": load}


def told_figures(p50_ms: float, p95_ms: float) -> dict[str, Any]:
    """The figures of a `Measurement` where no reference tells of the device."""
    return {
        "latency_ms_p50": p50_ms,
        "latency_ms_p95": p95_ms,
        "network_ms_p50": None,
        "fps": 1000 / p50_ms,
    }


def calm_figures(turns: Turns, images: int, best: Reference, load: float | None) -> dict[str, Any]:
    """The figures of a `Measurement` that follow from its turns, with the images shown in turn.

    An image's time is the low quantile of its calls, so p95 is that of images which take longer,
    as those with more boxes do, and not of the machine's worst moments.
    """
    calls, quiet = turns.calls, quietest(turns.calls)
    apart = images if len(calls) >= LEAST_AN_IMAGE * images else 1
    lows = [np.percentile(calls[image::apart], LOW) for image in range(apart)]
    calm, now = best.of_blocks(turns.reference.shape[1]), block_low(turns)
    p50 = float(np.percentile(lows, 50)) / now * calm.p50_ms
    median = float(np.median(turns.reference.mean(1)))
    # Jobs on all cores slow a program that uses all of them more than the reference, by up to 1.5
    # at a load of 0.77; with the share that they leave it stays below what a calm machine takes.
    least = float(np.percentile(calls, LOW)) / median * calm.p05_ms * (1 - (load or 0.0))
    return {
        "latency_ms_p50": p50,
        "latency_ms_p95": float(np.percentile(lows, 95)) / now * calm.p95_ms,
        "fps": 1000 / p50,
        "measured_ms_p50": float(np.percentile(quiet, 50)),
        "measured_ms_p95": float(np.percentile(quiet, 95)),
        "reference_ms": now,
        "reference_calls": turns.reference.shape[1],
        "reference_best": best,
        "slowdown": slowdown(now, calm),
        "floor_ms": least,
        "load": load,
    }


def spread(images: np.ndarray, number: int) -> np.ndarray:
    """So many of the images, evenly spaced; all where there are no more."""
    number = min(number, len(images))
    return images[np.arange(number) * len(images) // number]


@lru_cache(maxsize=64)
def compiled_network(spec: DetectorSpec) -> jax.stages.Compiled:
    """The network with decoding and without NMS, for one uint8 image: `f(fused, images)`."""
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, 3), jnp.uint8)
    dtype = compute_dtype()
    return compile_ahead(run_network, spec, fused_graph(spec, dtype)[1], image, dtype)


def compile_programs(spec: DetectorSpec, engine: Engine = JAX_ENGINE) -> None:
    """Compile what `measure` runs of uint8 images: the device need not be left alone for that."""
    compiled_detect(spec, 1, np.dtype(np.uint8))
    if engine == JAX_ENGINE:
        compiled_network(spec)
    if engine.here:
        reference_call()


def forget_programs() -> None:
    """Let go of all compiled programs, and give their memory back to the system.

    Each network that is trained leaves some 100 MiB of them, which no other needs: a program that
    is asked for again is made again, or read from where JAX keeps them.
    """
    compiled_detect.cache_clear()
    compiled_network.cache_clear()
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # of another C library than GNU's
            ctypes.CDLL(None).malloc_trim(0)


def memory_mib(compiled: jax.stages.Compiled) -> float:
    """Memory that a compiled program needs: arguments, results, work space and its own code."""
    needs = compiled.memory_analysis()
    if needs is None:
        raise RuntimeError(f"XLA does not tell the memory of a program on {device_name()}")
    needed = (
        needs.temp_size_in_bytes
        + needs.argument_size_in_bytes
        + needs.output_size_in_bytes
        - needs.alias_size_in_bytes
        + needs.generated_code_size_in_bytes
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
    fused = fused_graph(spec, jnp.float32)[1]
    network = partial(run_network, spec, dtype=jnp.float32)
    return 2 * multiply_adds(network, fused, image) / 1e9


def photographs(size: int) -> np.ndarray:
    """Letterboxed uint8 images (4, size, size, 3): scikit-learn's two photographs, and mirrored."""
    from sklearn.datasets import load_sample_images

    pictures = [np.asarray(picture) for picture in load_sample_images().images]
    pictures += [np.ascontiguousarray(picture[:, ::-1]) for picture in pictures]
    return np.stack([letterbox_image(picture, size) for picture in pictures])


def main(argv: Sequence[str]) -> int:
    """Print as JSON what a detector's folder costs on the images of a .npy file."""
    folder, images = map(Path, argv)

    def command() -> None:
        detector = load_detector(folder)
        cost = measure(detector.spec, weights=detector.weights, images=np.load(images))
        print(json.dumps(cost.to_dict()))

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
