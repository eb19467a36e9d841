"""GPUs: wide dense layers, large kernels and attention late, growth by RegNet's rule.

A GPU multiplies tiles of matrices, so widths are multiples of 16 and dense convolutions are
nearly free up to the width that fills it; small networks wait for launches, not for products.
What costs is the number of layers and the traffic of early maps. So C2 begins wide, one number
gives the depth of the whole network, most of it in C4 as in the best RegNets (arXiv 2003.13678),
and large kernels and attention are tried where the maps are small.
"""

from collections.abc import Sequence

from optuna.trial import BaseTrial

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.search.growth import regnet_stages
from flaxyolo.search.space import FIRST_LATE_LEVEL, PLANS, SMALL_IMAGE_SIZES, choose, whole
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec

EARLY_BLOCKS = ("residual", "c2f", "c3k2", "repvgg")
LATE_BLOCKS = ("residual", "c2f", "c3k2", "convnext", "c2f_cib_lk")
WIDTHS = (16, 64, 16)
MOST_LAYERS = 16
"""What is tried where no sweep says otherwise."""


def suggest(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    widths: tuple[int, int, int] | None = None,
    max_depths: Sequence[int] | None = None,
) -> DetectorSpec:
    """Draw a detector of four stages whose widths double."""
    low, high, step = tiles(widths or WIDTHS)
    layers = max(8, sum(max_depths) // 4 * 4) if max_depths else MOST_LAYERS
    plan = PLANS[choose(trial, "plan", ("P3-P5", "P2-P5", "P3-P5 patchify"))]
    base = whole(trial, "width", low, high, step)
    growth = regnet_stages(whole(trial, "depth", 4, layers, 4), base, 2.0, len(plan.strides))
    early = choose(trial, "early.block", EARLY_BLOCKS)
    late = choose(trial, "late.block", LATE_BLOCKS)
    attention = choose(trial, "late.attention", tuple(ATTENTIONS))
    stages = tuple(
        StageSpec(
            block=early if level < FIRST_LATE_LEVEL else late,
            width=width,
            depth=depth,
            attention="none" if level < FIRST_LATE_LEVEL else attention,
            stride=stride,
        )
        for level, (width, depth, stride) in enumerate(zip(*growth, plan.strides, strict=True), 2)
    )
    return DetectorSpec(
        backbone=BackboneSpec(max(16, base // 2), stages, stem=plan.stem, context="sppf"),
        neck=NeckSpec(
            kind=choose(trial, "neck.kind", ("fpn", "pan")),
            levels=plan.levels,
            block=choose(trial, "neck.block", ("c2f_plain", "plain")),
            depth=whole(trial, "neck.depth", 1, 2),
        ),
        head=HeadSpec(depth=2, box_width=max(32, base), class_width=2 * base),
        image_size=choose(trial, "image_size", image_sizes or SMALL_IMAGE_SIZES),
    )


def tiles(widths: tuple[int, int, int]) -> tuple[int, int, int]:
    """The range in multiples of 16."""
    low, high, _ = widths
    return max(16, low // 16 * 16), max(16, -(-high // 16) * 16), 16
