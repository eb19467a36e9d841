"""Time of every kind of convolution, pooling and norm on a CPU, ours over PyTorch's.

Forward pass and both gradients, each measured alternately with PyTorch's in one run. PyTorch takes
the memory format that is faster for it, gradient by gradient; ours is compiled as training
compiles it. See benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from flaxyolo.nn.compiling import compile_ahead
from flaxyolo.nn.conv import conv2d
from flaxyolo.nn.conv_forms import padding
from flaxyolo.nn.norm import BatchNorm
from flaxyolo.nn.pooling import max_pool, upsample

BATCH = 16
TURN_S = 0.03
"""Seconds of one side's calls before the other side has its turn."""
PARTS = ("forward", "dx", "dw")
FORMATS = (torch.channels_last, torch.contiguous_format)
ATEN = torch.ops.aten
Call = Callable[[], Any]
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Case:
    """One operation at one shape, `ours` as a function of its input and its weights."""

    name: str
    shape: tuple[int, ...]
    weights: tuple[tuple[int, ...], ...]
    ours: Callable[..., jax.Array]
    theirs: Callable[..., dict[str, Call]]
    """Input, gradient of the output and weights as tensors to PyTorch's calls by part."""
    keeps: bool = False
    """Whether the forward pass keeps more than its input, so is timed as training runs it."""


def conv_case(
    kind: str,
    side: int,
    width: int,
    out: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Case:
    """A convolution of `side` x `side` x `width` to `out` channels."""
    pad = padding(kernel, stride, dilation)
    geometry = [stride] * 2, [pad] * 2, [dilation] * 2, False, [0, 0], groups

    def theirs(x: torch.Tensor, dy: torch.Tensor, weight: torch.Tensor) -> dict[str, Call]:
        def backward(*wanted: bool) -> Call:
            mask = [*wanted, False]
            return lambda: ATEN.convolution_backward(dy, x, weight, None, *geometry, mask)

        return {
            "forward": lambda: F.conv2d(x, weight, None, stride, pad, dilation, groups),
            "dx": backward(True, False),
            "dw": backward(False, True),
        }

    name = f"{kind} {kernel}x{kernel}" + f" s{stride}" * (stride > 1)
    name += f" groups {groups}" * (1 < groups < width) + f" dilation {dilation}" * (dilation > 1)
    return Case(
        f"{name}, {side}x{side}x{width} to {out}",
        (BATCH, side, side, width),
        ((kernel, kernel, width // groups, out),),
        lambda x, kernel: conv2d(x, kernel, stride, groups, dilation),
        theirs,
    )


def pool_case(side: int, width: int) -> Case:
    """The 5x5 maximum of SPPF."""

    def theirs(x: torch.Tensor, dy: torch.Tensor) -> dict[str, Call]:
        geometry = [5, 5], [1, 1], [2, 2], [1, 1], False
        _, indices = ATEN.max_pool2d_with_indices(x, *geometry)
        return {
            "forward": lambda: ATEN.max_pool2d_with_indices(x, *geometry),
            "dx": lambda: ATEN.max_pool2d_with_indices_backward(dy, x, *geometry, indices),
        }

    shape = (BATCH, side, side, width)
    name = f"max-pool 5x5, {side}x{side}x{width}"
    return Case(name, shape, (), lambda x: max_pool(x, 5), theirs, keeps=True)


def upsample_case(side: int, width: int) -> Case:
    """Nearest-neighbour up-sampling by two."""

    def theirs(x: torch.Tensor, dy: torch.Tensor) -> dict[str, Call]:
        sizes = list(dy.shape[2:]), list(x.shape), 2.0, 2.0
        return {
            "forward": lambda: F.interpolate(x, scale_factor=2.0, mode="nearest"),
            "dx": lambda: ATEN.upsample_nearest2d_backward(dy, *sizes),
        }

    shape = (BATCH, side, side, width)
    return Case(f"up-sample, {side}x{side}x{width}", shape, (), upsample, theirs)


def norm_case(side: int, width: int) -> Case:
    """Batch norm in training; its weights are scale and bias."""
    graph, params, stats = nnx.split(BatchNorm(width), nnx.Param, ...)
    params, stats = (jax.tree.map(jnp.asarray, nnx.as_pure(part)) for part in (params, stats))
    assert set(params) == {"bias", "scale"}

    def ours(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        norm = nnx.merge(graph, {"scale": scale, "bias": bias}, stats)
        return nnx.view(norm, use_running_average=False)(x)

    def theirs(x: torch.Tensor, dy: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> Any:
        mean, var = torch.zeros(width), torch.ones(width)
        _, *saved = ATEN.native_batch_norm(x, scale, bias, mean, var, True, 0.03, 1e-3)

        def backward(*wanted: bool) -> Call:
            return lambda: ATEN.native_batch_norm_backward(
                dy, x, scale, mean, var, *saved, True, 1e-3, list(wanted)
            )

        return {
            "forward": lambda: F.batch_norm(x, mean, var, scale, bias, True, 0.03, 1e-3),
            "dx": backward(True, False, False),
            "dw": backward(False, True, True),
        }

    shape = (BATCH, side, side, width)
    return Case(f"batch norm, {side}x{side}x{width}", shape, ((width,), (width,)), ours, theirs)


def silu_case(side: int, width: int) -> Case:
    """SiLU."""

    def theirs(x: torch.Tensor, dy: torch.Tensor) -> dict[str, Call]:
        return {"forward": lambda: F.silu(x), "dx": lambda: ATEN.silu_backward(dy, x)}

    return Case(f"SiLU, {side}x{side}x{width}", (BATCH, side, side, width), (), nnx.silu, theirs)


CASES = (
    conv_case("stem", 320, 3, 16, 3, 2),
    conv_case("stem", 320, 3, 16, 6, 2),
    conv_case("patchify", 320, 3, 16, 4, 4),
    conv_case("dense", 80, 32, 32, 1),
    conv_case("dense", 40, 64, 64, 1),
    conv_case("dense", 40, 128, 128, 1),
    conv_case("dense", 20, 256, 256, 1),
    conv_case("dense", 40, 64, 128, 1, 2),
    conv_case("dense", 80, 16, 16, 3),
    conv_case("dense", 80, 32, 32, 3),
    conv_case("dense", 40, 64, 64, 3),
    conv_case("dense", 20, 128, 128, 3),
    conv_case("dense", 10, 128, 128, 3),
    conv_case("dense", 160, 16, 32, 3, 2),
    conv_case("dense", 80, 32, 64, 3, 2),
    conv_case("dense", 40, 64, 128, 3, 2),
    conv_case("dense", 20, 128, 256, 3, 2),
    conv_case("dense", 40, 32, 32, 5),
    conv_case("dilated", 40, 64, 64, 3, dilation=2),
    conv_case("dilated", 20, 128, 128, 3, dilation=2),
    conv_case("dilated", 40, 64, 64, 3, dilation=3),
    conv_case("dilated", 40, 64, 64, 3, 2, dilation=2),
    *(
        conv_case("depthwise", side, width, width, kernel, stride, width)
        for side, width in ((80, 64), (40, 128))
        for kernel in (3, 5, 7)
        for stride in (1, 2)
    ),
    conv_case("depthwise", 20, 256, 256, 5, groups=256),
    conv_case("depthwise", 40, 128, 128, 3, groups=128, dilation=2),
    *(conv_case("grouped", 40, 128, 128, 3, groups=groups) for groups in (2, 4, 8, 16, 32)),
    *(conv_case("grouped", 40, 128, 128, 3, 2, groups=groups) for groups in (2, 4, 8, 16, 32)),
    conv_case("grouped", 80, 64, 64, 3, groups=8),
    conv_case("grouped", 20, 256, 256, 3, groups=32),
    pool_case(10, 128),
    pool_case(20, 128),
    upsample_case(10, 256),
    upsample_case(20, 128),
    norm_case(160, 16),
    norm_case(80, 32),
    norm_case(20, 256),
    silu_case(80, 32),
    silu_case(20, 256),
)


def our_calls(case: Case, x: np.ndarray, dy: np.ndarray, weights: Arrays) -> dict[str, Call]:
    """Our calls by part; a gradient starts, as PyTorch's, from what the forward pass has kept."""
    x, dy, weights = jax.tree.map(jnp.asarray, (x, dy, weights))
    forward = partial(jax.vjp, case.ours) if case.keeps else case.ours
    programs: dict[str, tuple[Any, ...]] = {"forward": (jax.jit(forward), x, *weights)}
    _, pull = jax.jit(lambda x, w: jax.vjp(lambda x: case.ours(x, *w), x))(x, weights)
    programs["dx"] = jax.jit(lambda pull, dy: pull(dy)), pull, dy
    if weights:
        _, pull = jax.jit(lambda x, w: jax.vjp(lambda w: case.ours(x, *w), w))(x, weights)
        programs["dw"] = jax.jit(lambda pull, dy: pull(dy)), pull, dy
    calls = {}
    for part, (function, *arguments) in programs.items():
        compiled = compile_ahead(function, *arguments)
        calls[part] = lambda f=compiled, a=arguments: jax.block_until_ready(f(*a))
    return calls


def their_calls(case: Case, x: np.ndarray, dy: np.ndarray, weights: Arrays) -> Any:
    """PyTorch's calls by part, one for each memory format."""

    def tensor(array: np.ndarray, memory_format: torch.memory_format) -> torch.Tensor:
        if array.ndim == 1:
            return torch.from_numpy(array)
        axes = (0, 3, 1, 2) if array.shape[0] == BATCH else (3, 2, 0, 1)
        return torch.from_numpy(array).permute(axes).contiguous(memory_format=memory_format)

    calls: dict[str, list[Call]] = {}
    for memory_format in FORMATS:
        tensors = [tensor(array, memory_format) for array in (x, dy, *weights)]
        for part, call in case.theirs(*tensors).items():
            calls.setdefault(part, []).append(call)
    return calls


def turn(call: Call, seconds: float = TURN_S) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """One row: milliseconds of both, and ours over PyTorch's, for each part."""
    rng = np.random.default_rng(0)
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    x, weights = draw(case.shape), [draw(shape) for shape in case.weights]
    dy = draw(jax.eval_shape(case.ours, x, *weights).shape)
    ours, theirs = our_calls(case, x, dy, weights), their_calls(case, x, dy, weights)
    row: dict[str, Any] = {"name": case.name}
    row |= {f"{part}_ratio": None for part in PARTS}
    for part in ours:
        rival = min(theirs[part], key=turn)
        times = [(turn(ours[part]), turn(rival)) for _ in range(rounds)]
        # The least disturbed turn of each.
        mine, other = (min(column) for column in zip(*times, strict=True))
        row[f"{part}_ratio"] = round(mine / other, 3)
        row[f"{part}_ms"] = [round(1000 * mine, 3), round(1000 * other, 3)]
    return row


def shown(row: dict[str, Any]) -> str:
    """A line of the table: for each part the ratio, and milliseconds of both."""
    cells = []
    for part in PARTS:
        ratio, pair = row[f"{part}_ratio"], row.get(f"{part}_ms")
        cells.append("" if pair is None else f"{ratio:5.2f} ({pair[0]:6.2f} / {pair[1]:6.2f})")
    return f"{row['name']:46}" + "".join(f"{cell:25}" for cell in cells).rstrip()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="rows as JSON, printed or in a file"
    )
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in case.name]
    if not cases:
        parser.error(f"no row has {arguments.only!r} in its name")
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "torch")}
    print(
        f"# {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"float32, batch {BATCH}, {versions}, {time.strftime('%Y-%m-%d')}",
        file=sys.stderr,
    )
    table = sys.stderr if arguments.json == "-" else sys.stdout
    print(f"{'ours / PyTorch (ms / ms)':46}{'forward':25}{'dx':25}dw", file=table)
    rows = []
    with torch.inference_mode():
        for case in cases:
            rows.append(measure(case, 3 if arguments.quick else arguments.rounds))
            print(shown(rows[-1]), file=table, flush=True)
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    if arguments.json == "-":
        print(text, end="")
    elif arguments.json:
        Path(arguments.json).write_text(text)


if __name__ == "__main__":
    main()
