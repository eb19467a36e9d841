"""YOLOv8 scaled into a budget: what anyone would take who does not search."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec

DEPTHS = (1 / 3, 2 / 3, 1.0)
"""Shares of the full depths: n and s have the first, m the second, l and x all of it."""
FULL_DEPTHS = (3, 6, 6, 3)
WIDTHS = range(8, 97, 8)
"""Of the stem: n has 16, s 32, m 48, l 64 and x 80."""
SIZE_STEP = 32
"""Input sizes are multiples of the stride of P5."""
SMALLEST = 64


def scaled(width: int, depth: float, image_size: int, classes: int) -> DetectorSpec:
    """YOLOv8 with a stem of `width` channels, 16 of which make an n, and a share of the depths."""
    stages = tuple(
        StageSpec(block="c2f", width=2 ** (place + 1) * width, depth=max(1, round(depth * full)))
        for place, full in enumerate(FULL_DEPTHS)
    )
    return DetectorSpec(
        backbone=BackboneSpec(stem_width=width, stages=stages, context="sppf"),
        neck=NeckSpec(
            kind="pan", levels=(3, 4, 5), block="c2f_plain", depth=max(1, round(3 * depth))
        ),
        head=HeadSpec(depth=2, reg_max=16),
        num_classes=classes,
        image_size=image_size,
    )


def widest(
    image_size: int, classes: int, fits: Callable[[DetectorSpec], bool]
) -> list[DetectorSpec]:
    """The widest member that fits, of each depth that has any; what fits does so when narrower."""
    found = []
    for depth in DEPTHS:
        family = [scaled(width, depth, image_size, classes) for width in WIDTHS]
        count = bisect_left(family, True, key=lambda spec: not fits(spec))
        found += family[count - 1 : count] if count else []
    return found


def sizes_down(image_size: int) -> Iterator[int]:
    """The input size nearest to this one that the family has, and then the smaller ones."""
    nearest = max(SMALLEST, round(image_size / SIZE_STEP) * SIZE_STEP)
    yield from range(nearest, SMALLEST - 1, -SIZE_STEP)


def as_wished(spec: DetectorSpec) -> dict[str, Any]:
    """A member by the names that spaces ask for, as far as those can say it."""
    stages, block = spec.backbone.stages, spec.backbone.stages[0].block
    wished: dict[str, Any] = {
        "image_size": spec.image_size,
        "plan": "P3-P5",
        "width": stages[0].width,
        "ratio": 2.0,
        "early.block": block,
        "late.block": block,
        "neck.kind": spec.neck.kind,
        "neck.block": spec.neck.block,
        "stem.width": spec.backbone.stem_width,
        "head.depth": spec.head.depth,
    }
    for level, stage in enumerate(stages, 2):
        wished |= {
            f"c{level}.block": block,
            f"c{level}.width": stage.width,
            f"c{level}.depth": stage.depth,
        }
    return wished
