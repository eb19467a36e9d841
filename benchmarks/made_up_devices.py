"""Devices that nobody has here, by formula: how long a network would take on them.

A roofline (Williams, Waterman and Patterson 2009) with launches: every convolution takes what its
products take at the device's peak, or what its maps and weights take at the bandwidth of its
memory, whichever is longer, and its launches. A result too small to fill the device takes as long
as one that fills it. Blocks count by their family, so that a thousand networks take a second; good
for the order of networks and for orders of magnitude, no more.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from flaxyolo.cost.table.pieces import Piece, pieces
from flaxyolo.nn.head import branch_layers
from flaxyolo.search.features import family
from flaxyolo.spec import DetectorSpec, StageSpec, stem_stride

NMS_LAUNCHES = 12


class Device(NamedTuple):
    """What a roofline needs to know."""

    name: str
    gflops: float
    """At most in a second, as convolutions reach them."""
    gbytes: float
    """Read and written in a second."""
    launch_us: float
    """Before each convolution."""
    bytes_each: int
    """Of one number."""
    filled_by: int
    """Numbers of a result that keep all of the device busy."""


H100 = Device("H100", 400_000, 3000, 4, 2, 132 * 128 * 128)
ORIN_NANO = Device("Jetson Orin Nano", 5000, 60, 10, 2, 8 * 128 * 64)
TWO_CORES = Device("two CPU cores", 100, 15, 20, 4, 1)
DEVICES = (TWO_CORES, H100, ORIN_NANO)


class Conv(NamedTuple):
    """One convolution, by the side of its result."""

    side: int
    before: int
    after: int
    kernel: int = 3
    groups: int = 1
    stride: int = 1


def latency(device: Device, spec: DetectorSpec) -> float:
    """Milliseconds of a network: of its pieces, one after the other."""
    return sum(piece_ms(device, piece) for piece in pieces(spec))


def latencies(device: Device) -> Callable[[Sequence[DetectorSpec]], Float64[np.ndarray, " n"]]:
    """Milliseconds of many networks."""
    return lambda specs: np.array([latency(device, spec) for spec in specs])


@lru_cache(maxsize=100_000)
def piece_ms(device: Device, piece: Piece) -> float:
    """Milliseconds of a piece of a network."""
    if piece.kind == "nms":
        return NMS_LAUNCHES * device.launch_us / 1e3
    return sum(conv_ms(device, conv) for conv in convolutions(piece))


def conv_ms(device: Device, conv: Conv) -> float:
    """Milliseconds of a convolution, its launch included."""
    weights = conv.before * conv.after * conv.kernel**2 / conv.groups
    maps = conv.side**2 * (conv.before * conv.stride**2 + conv.after)
    busy = min(1.0, conv.side**2 * conv.after / device.filled_by)
    products_ms = 2 * conv.side**2 * weights / device.gflops / busy / 1e6
    traffic_ms = device.bytes_each * (maps + weights) / device.gbytes / 1e6
    return max(products_ms, traffic_ms) + device.launch_us / 1e3


def convolutions(piece: Piece) -> Iterator[Conv]:
    """The convolutions of a piece, about as it has them."""
    spec = piece.spec
    if piece.kind == "stem":
        stride = stem_stride(spec.backbone.stem)
        yield Conv(spec.image_size // stride, 3, spec.backbone.stem_width, stride=stride)
    elif piece.kind == "stage":
        ((side, before),) = piece.shapes
        yield from stage(spec.backbone.stages[piece.number], side, before)
    elif piece.kind == "neck":
        yield from neck(spec, [side for side, _ in piece.shapes])
    else:
        for side, width in piece.shapes:
            yield from head(spec, side, width)


def stage(spec: StageSpec, side: int, before: int) -> Iterator[Conv]:
    """A transition and a block."""
    side //= spec.stride
    if spec.stride > 1 or before != spec.width:
        yield Conv(side, before, spec.width, stride=spec.stride)
    yield from block(spec.block, side, spec.width, spec.width, spec.depth)


def block(name: str, side: int, before: int, width: int, depth: int) -> Iterator[Conv]:
    """So many layers of a block; of a family that is not known, those of a residual one."""
    kind = family(name)
    if kind == "csp":
        half = width // 2
        yield Conv(side, before, width, 1)
        for _ in range(depth):
            yield from (Conv(side, half, half), Conv(side, half, half))
        yield Conv(side, (2 + depth) * half, width, 1)
        return
    for number in range(depth):
        taken = width if number else before
        if kind == "depthwise":
            yield from (Conv(side, taken, taken, groups=taken), Conv(side, taken, width, 1))
        else:
            yield Conv(side, taken, width)
            if kind != "plain":
                yield Conv(side, width, width)


def neck(spec: DetectorSpec, sides: Sequence[int]) -> Iterator[Conv]:
    """A path from coarse to fine, and one back unless it is an FPN."""
    name, depth, widths = spec.neck.blocks[0], spec.neck.depth, spec.neck_widths
    for level in reversed(range(len(sides) - 1)):
        yield from block(
            name, sides[level], widths[level] + widths[level + 1], widths[level], depth
        )
    if spec.neck.kind == "fpn":
        return
    for level in range(1, len(sides)):
        yield Conv(sides[level], widths[level - 1], widths[level - 1], stride=2)
        yield from block(
            name, sides[level], widths[level - 1] + widths[level], widths[level], depth
        )


def head(spec: DetectorSpec, side: int, width: int) -> Iterator[Conv]:
    """Both branches of one level."""
    made = spec.head
    for wide, form, outputs in (
        (spec.box_width, made.box_conv, 4 * made.bins),
        (spec.class_width, made.class_conv, spec.num_classes),
    ):
        for before, after, kernel, groups in branch_layers(width, wide, made.depth, form):
            yield Conv(side, before, after, kernel, groups)
        yield Conv(side, wide, outputs, 1)
