"""How width and depth grow from stage to stage, by rules of few numbers. Imports nothing.

A search over every stage's own width and depth has many dimensions; a rule has two or three.
"""

from collections import Counter
from itertools import pairwise
from math import log
from typing import NamedTuple

Number = int | float


class Growth(NamedTuple):
    """Width and depth of each stage, first stage first."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]


def multiple(width: Number, of: int = 8) -> int:
    """The multiple of `of` nearest to a width, at least `of`; halfway goes to the even one."""
    return max(1, round(width / of)) * of


def constant_ratio(
    base: Number, ratio: Number, stages: int, *, cap: Number | None = None
) -> tuple[int, ...]:
    """Widths that grow by one ratio from stage to stage, at most `cap`, in multiples of 8.

    A ratio of 2 is YOLO's; a cap is what YOLOv8m and YOLO11 have on their last stage, where width
    costs most parameters.
    """
    if base <= 0 or ratio < 1 or stages < 1:
        raise ValueError(
            "expected a base above 0, a ratio of at least 1 and at least one stage, "
            f"got {base}, {ratio} and {stages}"
        )
    wide = [base * ratio**i for i in range(stages)]
    return tuple(multiple(width if cap is None else min(width, cap)) for width in wide)


def regnet(depth: int, w_0: Number, w_a: Number, w_m: Number, *, group_width: int = 8) -> Growth:
    """RegNet's quantised linear rule (arXiv 2003.13678, section 3.3); it decides the stages too.

    Layer `j` of `depth` has the width `u_j = w_0 + w_a * j`, taken to the nearest `w_0 * w_m**s`
    with whole `s`; layers of one `s` are a stage. Widths are multiples of 8, then of the group
    width, where they are not below it.
    """
    if depth < 1 or w_0 <= 0 or w_a < 0 or w_m <= 1:
        raise ValueError(
            "expected a depth of at least 1, w_0 above 0, w_a of at least 0 and w_m above 1, "
            f"got {depth}, {w_0}, {w_a} and {w_m}"
        )
    layers = Counter(_step(w_0 + w_a * j, w_0, w_m) for j in range(depth))
    steps = sorted(layers)
    eights = [multiple(w_0 * w_m**step) for step in steps]
    widths = tuple(multiple(width, min(group_width, width)) for width in eights)
    return _merged(Growth(widths, tuple(layers[step] for step in steps)))


def regnet_stages(depth: int, base: Number, w_m: Number, stages: int) -> Growth:
    """RegNet's linear rule for a network that must have so many stages.

    `w_a` is such that layer 0 has the width `base` and the last layer `base * w_m**(stages - 1)`.
    A stage that the rule skips, as few layers or a large `w_m` can make it do, has one layer, so
    the depths may add up to more than `depth`.
    """
    if depth < 1 or stages < 1 or base <= 0 or w_m <= 1:
        raise ValueError(
            "expected a depth and stages of at least 1, a base above 0 and w_m above 1, "
            f"got {depth}, {stages}, {base} and {w_m}"
        )
    w_a = base * (w_m ** (stages - 1) - 1) / max(depth - 1, 1)
    layers = Counter(_step(base + w_a * j, base, w_m) for j in range(depth))
    widths = constant_ratio(base, w_m, stages)
    return Growth(widths, tuple(max(1, layers[step]) for step in range(stages)))


def _step(width: Number, w_0: Number, w_m: Number) -> int:
    return round(log(width / w_0) / log(w_m))


def _merged(growth: Growth) -> Growth:
    """The same with neighbouring stages of one width as one, as rounding can make them."""
    ends = [i + 1 for i, (a, b) in enumerate(pairwise(growth.widths)) if a != b]
    starts, ends = [0, *ends], [*ends, len(growth.widths)]
    return Growth(
        tuple(growth.widths[start] for start in starts),
        tuple(sum(growth.depths[a:b]) for a, b in zip(starts, ends, strict=True)),
    )
