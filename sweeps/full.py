"""Everything: every entry of every table and every field of the spec, stage by stage.

A question is asked only where its answer matters: bins only for `dfl`, `reduce` only for pyramids
that concatenate, self-attention only from stride 16. Some hundred decisions need some hundred
trials; begin with the default space, and open here what it shows to matter.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from optuna.trial import BaseTrial

from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.context import CONTEXTS
from flaxyolo.nn.downsample import DOWNSAMPLES
from flaxyolo.nn.neck import NECKS
from flaxyolo.nn.norm import NORMS
from flaxyolo.nn.stem import STEMS
from flaxyolo.search.growth import multiple
from flaxyolo.search.space import SMALL_IMAGE_SIZES, choose, whole, whole_cells
from flaxyolo.spec import (
    LEVEL_STRIDES,
    SELF_ATTENTIONS,
    SELF_STRIDE,
    BackboneSpec,
    DetectorSpec,
    HeadSpec,
    NeckSpec,
    StageSpec,
    stem_stride,
)

RUNS = {
    "P3-P5": (3, 4, 5),
    "P2-P5": (2, 3, 4, 5),
    "P3-P4": (3, 4),
    "P2-P4": (2, 3, 4),
    "P3-P6": (3, 4, 5, 6),
}
MOST_STAGES = 6
MOST_LAYERS = 3
"""Of a stage, where no sweep says otherwise."""
WIDTHS = {2: (8, 48, 8), 3: (16, 96, 16), 4: (32, 192, 32), 5: (32, 256, 32), 6: (32, 256, 32)}
"""Lowest, highest and step at each level, where no sweep says otherwise."""
STEM_WIDTHS = (8, 32, 8)
NECK_WIDTHS = (16, 128, 16)
HEAD_WIDTHS = (16, 96, 16)

ON_SEVERAL_DEVICES = ("sync_batch",)
"""A norm that differs from another only there; `choose_norm` says when it is needed."""


def suggest(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    widths: tuple[int, int, int] | None = None,
    max_depths: Sequence[int] | None = None,
) -> DetectorSpec:
    """Draw a detector, every part of it; all widths grow with C2's highest."""
    growth = widths[1] / WIDTHS[2][1] if widths else 1.0
    layers = max(max_depths) if max_depths else MOST_LAYERS
    size = choose(trial, "image_size", image_sizes or SMALL_IMAGE_SIZES)
    levels = RUNS[choose(trial, "levels", tuple(RUNS))]
    backbone = suggest_backbone(trial, levels[-1], growth, layers)
    neck = suggest_neck(trial, levels, growth)
    norms = [name for name in NORMS if name not in ON_SEVERAL_DEVICES]
    return DetectorSpec(
        backbone,
        neck,
        suggest_head(trial, backbone, neck, growth),
        norm=choose(trial, "norm", norms),
        activation=choose(trial, "activation", allowed(DetectorSpec, "activation")),
        image_size=whole_cells(size, levels[-1]),
    )


def grown(widths: tuple[int, int, int], growth: float) -> tuple[int, int, int]:
    """A range times a factor, in multiples of 8."""
    low, high, step = widths
    step = multiple(step * growth)
    low = step * max(1, round(low * growth / step))
    return low, max(low, int(high * growth) // step * step), step


def suggest_backbone(
    trial: BaseTrial, last: int, growth: float = 1.0, layers: int = MOST_LAYERS
) -> BackboneSpec:
    """Draw stem, stages up to C`last` of at most so many layers, context and drop rates."""
    stem = choose(trial, "stem", tuple(STEMS))
    stages, spare = [], MOST_STAGES - (last - 1)
    for level in range(2, last + 1):
        stride = LEVEL_STRIDES[2] // stem_stride(stem) if level == 2 else 2
        stages.append(suggest_stage(trial, f"c{level}", level, stride, growth, layers))
        if spare and choose(trial, f"c{level}.longer", (False, True)):
            stages.append(suggest_stage(trial, f"c{level}b", level, 1, growth, layers))
            spare -= 1
    context = choose(trial, "context", tuple(CONTEXTS))
    place: dict[str, Any] = {}
    if context != "none":
        places = allowed(BackboneSpec, "context_place")
        place["context_place"] = choose(trial, "context_place", places)
    return BackboneSpec(
        whole(trial, "stem.width", *grown(STEM_WIDTHS, growth)),
        tuple(stages),
        stem=stem,
        context=context,
        drop_path=trial.suggest_float("drop_path", 0.0, 0.2, step=0.1),
        drop_block=trial.suggest_float("drop_block", 0.0, 0.2, step=0.1),
        spatial_dropout=trial.suggest_float("spatial_dropout", 0.0, 0.2, step=0.1),
        **place,
    )


def suggest_stage(
    trial: BaseTrial, name: str, level: int, stride: Any, growth: float, layers: int
) -> StageSpec:
    """Draw one stage; `name` is its output, such as "c4", or "c4b" for a second of that stride."""
    width = whole(trial, f"{name}.width", *grown(WIDTHS[level], growth))
    # YOLO11 widens in the block: the transition before it has half the width.
    narrow = choose(trial, f"{name}.narrow_down", (False, True))
    return StageSpec(
        block=choose(trial, f"{name}.block", tuple(BLOCKS)),
        width=width,
        depth=whole(trial, f"{name}.depth", 1, layers),
        attention=choose(trial, f"{name}.attention", attentions_at(level)),
        stride=stride,
        downsample=choose(trial, f"{name}.downsample", tuple(DOWNSAMPLES)),
        down_width=multiple(width / 2) if narrow else None,
    )


def suggest_neck(trial: BaseTrial, levels: tuple[int, ...], growth: float = 1.0) -> NeckSpec:
    """Draw the neck: one block, attention and transition, or each level's own."""
    kind = choose(trial, "neck.kind", tuple(NECKS))
    repeated = kind == "bifpn"
    # A weighted sum needs one width; concatenation takes any.
    widths = "one" if repeated else choose(trial, "neck.widths", ("backbone", "one", "each"))
    own = choose(trial, "neck.own", (False, True))
    out = choose(trial, "neck.out", (False, True))
    return NeckSpec(
        kind=kind,
        levels=levels,
        block=names(trial, "neck", "block", levels, own, lambda level: tuple(BLOCKS)),
        depth=whole(trial, "neck.depth", 1, 2),
        widths=(
            whole(trial, "neck.width", *grown(NECK_WIDTHS, growth))
            if widths == "one"
            else tuple(
                whole(trial, f"neck.p{level}.width", *grown(WIDTHS[level], growth))
                for level in levels
            )
            if widths == "each"
            else None
        ),
        attention=names(trial, "neck", "attention", levels, own, attentions_at),
        downsample=names(trial, "neck", "downsample", levels, own, lambda _: tuple(DOWNSAMPLES)),
        upsample=choose(trial, "neck.upsample", allowed(NeckSpec, "upsample")),
        reduce=False if repeated else choose(trial, "neck.reduce", (False, True)),
        out_width=whole(trial, "neck.out_width", *grown(NECK_WIDTHS, growth)) if out else None,
        repeats=whole(trial, "neck.repeats", 1, 3) if repeated else 1,
    )


def suggest_head(
    trial: BaseTrial, backbone: BackboneSpec, neck: NeckSpec, growth: float = 1.0
) -> HeadSpec:
    """Draw the head; convolutions are shared only between levels of one width."""
    box = choose(trial, "head.box", allowed(HeadSpec, "box"))
    stem = choose(trial, "head.stem", (False, True))
    own = choose(trial, "head.own", (False, True))
    extra = choose(trial, "head.extra", ("none", "objectness", "one_to_one"))
    received = DetectorSpec(backbone, neck, image_size=640).feature_widths
    widths = grown(HEAD_WIDTHS, growth)
    alike = stem or len(set(received)) == 1
    return HeadSpec(
        depth=whole(trial, "head.depth", 1, 3),
        box=box,
        reg_max=whole(trial, "head.reg_max", 4, 16, 4) if box == "dfl" else None,
        box_width=whole(trial, "head.box_width", *widths),
        class_width=whole(trial, "head.class_width", *widths),
        box_conv=choose(trial, "head.box_conv", allowed(HeadSpec, "box_conv")),
        class_conv=choose(trial, "head.class_conv", allowed(HeadSpec, "class_conv")),
        stem_width=whole(trial, "head.stem_width", *widths) if stem else None,
        shared=choose(trial, "head.shared", (False, True)) if alike else False,
        attention=names(trial, "head", "attention", neck.levels, own, attentions_at),
        objectness=extra == "objectness",
        one_to_one=extra == "one_to_one",
    )


def names(
    trial: BaseTrial,
    part: str,
    what: str,
    levels: tuple[int, ...],
    own: bool,
    choices: Callable[[int], tuple[str, ...]],
) -> str | tuple[str, ...]:
    """One name for all levels, of those that the finest allows, or each level's own."""
    if not own:
        return choose(trial, f"{part}.{what}", choices(min(LEVEL_STRIDES)))
    return tuple(choose(trial, f"{part}.p{level}.{what}", choices(level)) for level in levels)


def attentions_at(level: int) -> tuple[str, ...]:
    """Attentions that the spec allows at a level."""
    early = LEVEL_STRIDES[level] < SELF_STRIDE
    return tuple(name for name in ATTENTIONS if not (early and name in SELF_ATTENTIONS))


def allowed(spec: type, field: str) -> tuple[Any, ...]:
    """The values that a field of literals may have."""
    return get_args(get_type_hints(spec)[field])
