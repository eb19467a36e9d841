"""What a surrogate sees of a candidate: named numbers from its spec, its cost and its scores.

A name with `=` is one of several choices: its number is 1, or the share of the layers for which
the choice holds, and 0 where the choice is absent. Any other number that is absent is unknown.
Nothing here is traced or compiled, so thousands of candidates cost nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float

from flaxyolo.nn.blocks import BLOCKS, Repeat
from flaxyolo.search.growth import Number
from flaxyolo.spec import BackboneSpec, DetectorSpec

FAMILIES = {
    "Plain": "plain",
    "RepConv": "plain",
    "Bottleneck": "residual",
    "Narrowing": "residual",
    "DepthwisePointwise": "depthwise",
    "InvertedResidual": "depthwise",
    "ConvNeXt": "depthwise",
    "C3": "csp",
    "C2f": "csp",
}
"""Family of a block by the layer it repeats; a layer that is not here is a family of its own."""

EARLY_STRIDE = 8
"""The last stride whose stages are early ones, as in the default space."""


def features(
    spec: DetectorSpec,
    *,
    latency_ms: Number,
    params: Number,
    gflops: Number,
    zero_cost: Mapping[str, Number] | None = None,
) -> dict[str, float]:
    """A candidate in numbers, sizes as logarithms to base 2.

    Some 15 vary in a space: they are for the 8 to 60 runs of one study. From ten results a ridge
    or a Gaussian process learns three or four directions and shrinks the others, but every idle
    column dilutes the distances between candidates and adds chance: of 80 columns, one for each
    choice at each level, some fit any ten results by accident. So sizes, depths and widths are
    summed up over the network, and blocks counted by family over the backbone.
    """
    values = _sizes(spec, latency_ms, params, gflops) | _shape(spec) | _choices(spec)
    values |= dict(zero_cost or {})
    return {name: float(value) for name, value in values.items()}


def feature_names(rows: Iterable[Mapping[str, Number]]) -> tuple[str, ...]:
    """Features that tell these rows apart, in alphabetical order.

    Left out is what has one value in all rows that have it, and of features that say the same
    (copies, or the two answers of one question) all but the first.
    """
    rows = list(rows)
    names = _names(rows)
    return tuple(names[place] for place in _telling(_columns(rows, names)))


def matrix(
    rows: Sequence[Mapping[str, Number]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Float[np.ndarray, "n f"]]:
    """Rows of different candidates as one matrix: its columns' names, and NaN where unknown.

    Trained and proposed candidates belong in one call, so that a column is one feature in both;
    or give the `names` of an earlier one.
    """
    if names is not None:
        return tuple(names), _columns(rows, names)
    known = _names(rows)
    values = _columns(rows, known)
    kept = _telling(values)
    return tuple(known[place] for place in kept), values[:, kept]


@cache
def family(block: str) -> str:
    """The kind of layer that a block repeats, such as `csp`; an unknown block is its own."""
    made: Any = BLOCKS.get(block)
    if isinstance(made, partial) and made.func is Repeat:
        made = made.args[0]
    while isinstance(made, partial):
        made = made.func
    name = getattr(made, "__name__", block)
    return FAMILIES.get(name, name)


def _sizes(
    spec: DetectorSpec, latency_ms: Number, params: Number, gflops: Number
) -> dict[str, Number]:
    given = {"latency_ms": latency_ms, "params": params, "gflops": gflops}
    wrong = [f"{name} {value}" for name, value in given.items() if not value > 0]
    if wrong:
        raise ValueError(f"expected numbers above 0, got {', '.join(wrong)}")
    sizes = {f"log_{name}": math.log2(value) for name, value in given.items()}
    return {"log_image_size": math.log2(spec.image_size)} | sizes


def _shape(spec: DetectorSpec) -> dict[str, Number]:
    """Depth, width and levels of the whole network."""
    stages = spec.backbone.stages
    widths = [math.log2(stage.width) for stage in stages]
    return {
        "early_share": early_share(spec.backbone),
        "log_depth": math.log2(sum(stage.depth for stage in stages)),
        "log_width": sum(widths) / len(widths),
        "finest_level": spec.neck.levels[0],
        "coarsest_level": spec.neck.levels[-1],
    }


def early_share(backbone: BackboneSpec) -> float:
    """Share of the stages' products up to stride 8, every layer counted as a dense one."""
    products = [
        stage.depth * (stage.width / stride) ** 2
        for stage, stride in zip(backbone.stages, backbone.strides, strict=True)
    ]
    strides = zip(products, backbone.strides, strict=True)
    return sum(count for count, stride in strides if stride <= EARLY_STRIDE) / sum(products)


def _choices(spec: DetectorSpec) -> dict[str, Number]:
    """Choices that are made once; attention and families as shares of the backbone's layers."""
    stages, neck = spec.backbone.stages, spec.neck
    layers = [(family(stage.block), stage.depth) for stage in stages]
    depth = sum(stage.depth for stage in stages)
    attended = sum(stage.depth for stage in stages if stage.attention != "none")
    neck_blocks = [(family(block), 1) for block in neck.blocks]
    return (
        {"attention": attended / depth}
        | _shares("family", layers)
        | _shares("neck.family", neck_blocks)
        | _one("neck.kind", neck.kind)
        | _one("activation", spec.activation)
        | _one("norm", spec.norm)
    )


def _one(question: str, choice: str) -> dict[str, Number]:
    return {f"{question}={choice}": 1.0}


def _shares(question: str, choices: Sequence[tuple[str, int]]) -> dict[str, Number]:
    """Share of each choice, by weight."""
    total = sum(weight for _, weight in choices)
    shares: dict[str, Number] = {}
    for choice, weight in choices:
        name = f"{question}={choice}"
        shares[name] = shares.get(name, 0.0) + weight / total
    return shares


def _names(rows: Sequence[Mapping[str, Number]]) -> list[str]:
    """All features that any row has, in alphabetical order."""
    return sorted({name for row in rows for name in row})


def _columns(
    rows: Sequence[Mapping[str, Number]], names: Sequence[str]
) -> Float[np.ndarray, "n f"]:
    """The features of the rows; NaN where unknown, 0 for a choice that was not made."""
    absent = [0.0 if "=" in name else math.nan for name in names]
    pairs = list(zip(names, absent, strict=True))
    values = np.array([[row.get(name, none) for name, none in pairs] for row in rows], np.float64)
    values = values.reshape(len(rows), len(names))
    return np.where(np.isfinite(values), values, math.nan)


def _telling(values: Float[np.ndarray, "n f"]) -> list[int]:
    """Columns that tell rows apart, of those that say the same the first."""
    found: dict[tuple[float, ...], int] = {}
    for place, column in enumerate(values.T):
        known = column[np.isfinite(column)]
        if len(known) and np.ptp(known) > 0:
            found.setdefault(_pattern(column), place)
    return list(found.values())


def _pattern(column: Float[np.ndarray, " n"]) -> tuple[float, ...]:
    """The same for columns that differ by a constant, a factor or the sign."""
    low, high = np.nanmin(column), np.nanmax(column)
    scaled = (column - low) / (high - low)
    ways = (np.round(way, 9) for way in (scaled, 1 - scaled))
    return min(tuple(np.nan_to_num(way, nan=-1.0).tolist()) for way in ways)
