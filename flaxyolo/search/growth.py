"""How width and depth grow from stage to stage, by rules of few numbers. Imports nothing.

A search over every stage's own width and depth has many dimensions; a rule has two or three.
"""

from collections import Counter
from math import log
from typing import NamedTuple

Number = int | float


class Growth(NamedTuple):
    """Width and depth of each stage, first stage first."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]


def multiple(width: Number) -> int:
    """The multiple of 8 nearest to a width, at least 8; halfway goes to the even one."""
    return max(1, round(width / 8)) * 8


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


def regnet_stages(depth: int, base: Number, w_m: Number, stages: int) -> Growth:
    """RegNet's linear rule (arXiv 2003.13678, section 3.3), with so many stages.

    Layer `j` has the width `base + w_a * j`, taken to the nearest `base * w_m**s` with whole `s`;
    layers of one `s` are a stage. `w_a` is such that the last layer has `base * w_m**(stages - 1)`.
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


def _step(width: Number, base: Number, w_m: Number) -> int:
    return round(log(width / base) / log(w_m))
