"""What a detector is, as frozen and validated data. Imports no JAX.

A spec can be hashed, compared, stored as JSON and read back (`detector_from_dict`).
Names of blocks, attentions, necks and the like are looked up in the tables of `flaxyolo.nn` when
the network is built, so adding an entry there needs no change here.
"""

import dataclasses
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flaxyolo.base.errors import InputError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", validate_default=True)

Width = Annotated[int, Field(ge=8, multiple_of=8)]
Depth = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Names = str | tuple[str, ...]
"""One name for all levels, or one for each, finest first."""

LEVEL_STRIDES = {2: 4, 3: 8, 4: 16, 5: 32, 6: 64}
"""Input pixels per cell of C2/P2 to C6/P6."""

STEM_STRIDES = {"patchify": 4}
"""Input pixels per cell of a stem's output, of stems where they are not 2."""

SELF_ATTENTIONS = ("window", "area")
"""Attentions whose cost grows with the square of the map; refused below `SELF_STRIDE`."""

SELF_STRIDE = 16


def stem_stride(stem: str) -> int:
    """Input pixels per cell of a stem's output."""
    return STEM_STRIDES.get(stem, 2)


def _check_attention(where: str, name: str, stride: int) -> None:
    if name in SELF_ATTENTIONS and stride < SELF_STRIDE:
        raise ValueError(
            f"{where}: {name!r} attention is for strides of {SELF_STRIDE} and more, "
            f"here the stride is {stride}"
        )


@dataclass(frozen=True, config=STRICT)
class StageSpec:
    """One backbone stage: a transition (stride, width), `depth` layers of one block, attention."""

    block: str
    width: Width
    depth: Depth
    attention: str = "none"
    stride: Literal[1, 2] = 2
    downsample: str = "conv"
    """How the transition is made; with stride 1 it keeps the resolution."""
    down_width: Width | None = None
    """Width of the transition's output; None is the stage's own (YOLO11 widens in the block)."""


@dataclass(frozen=True, config=STRICT)
class BackboneSpec:
    """A stem, three to six stages, an optional context layer in the last, and drop rates."""

    stem_width: Width
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=3, max_length=6)]
    stem: str = "conv3"
    context: str = "none"
    context_place: Literal["after", "before"] = "after"
    """After the last stage, or before its block (YOLOX, RTMDet)."""
    drop_path: Rate = 0.0
    """Of the deepest shortcut's branch; rises linearly from 0 at the first (arXiv 1603.09382)."""
    drop_block: Rate = 0.0
    """Share of the cells dropped in squares, after the stages at stride 16 and more."""
    spatial_dropout: Rate = 0.0
    """Share of whole channels dropped, after the stages at stride 16 and more."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of every stage's output."""
        strides, stride = [], stem_stride(self.stem)
        for stage in self.stages:
            stride *= stage.stride
            strides.append(stride)
        return tuple(strides)

    @property
    def level_widths(self) -> dict[int, int]:
        """Width of each C level the stages produce: `{2: 32, 3: 64, ...}`."""
        levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
        return {
            levels[stride]: stage.width
            for stage, stride in zip(self.stages, self.strides, strict=True)
            if stride in levels
        }

    def __post_init__(self):
        if self.strides[-1] > LEVEL_STRIDES[6]:
            raise ValueError(
                f"stem and stages must end at a stride of at most {LEVEL_STRIDES[6]} (C6), "
                f"got {self.strides[-1]}; give some stages stride 1"
            )
        for number, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True)):
            _check_attention(f"stages.{number}.attention", stage.attention, stride)


@dataclass(frozen=True, config=STRICT)
class NeckSpec:
    """Feature pyramid over a run of levels.

    `widths` None keeps each level's backbone width; `block`, `attention` and `downsample` are
    one name, or one for each level.
    """

    kind: str = "pan"
    levels: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 4, 5)
    block: Names = "c2f_plain"
    depth: Depth = 1
    widths: Width | tuple[Width, ...] | None = None
    attention: Names = "none"
    downsample: Names = "conv"
    """How the bottom-up path reaches each level; the finest level has none, its name is unused."""
    upsample: Literal["nearest", "transpose"] = "nearest"
    reduce: bool = False
    """A 1x1 convolution to the next finer level's width before up-sampling (YOLOv5, YOLOX)."""
    out_width: Width | None = None
    """Width of a last 3x3 convolution at every level (RTMDet); None has no such layer."""
    repeats: Depth = 1
    """How often the whole pyramid is run through (BiFPN, arXiv 1911.09070)."""

    def __post_init__(self):
        first, last = self.levels[0], self.levels[-1]
        if self.levels != tuple(range(first, last + 1)) or first < 2 or last > 6:
            raise ValueError(f"levels must be a run such as [3, 4, 5], got {list(self.levels)}")
        for name in ("widths", "block", "attention", "downsample"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.levels):
                raise ValueError(
                    f"{name} must have one entry for each of the {len(self.levels)} levels, "
                    f"got {len(value)}"
                )
        if self.repeats > 1 and self.kind != "bifpn":
            raise ValueError(f"repeats is for kind bifpn, got {self.repeats} for {self.kind!r}")
        if self.reduce and self.kind == "bifpn":
            raise ValueError("reduce is for kind fpn and pan; bifpn has one width at every level")
        for level, attention in zip(self.levels, self.attentions, strict=True):
            _check_attention(f"attention of P{level}", attention, LEVEL_STRIDES[level])

    @property
    def blocks(self) -> tuple[str, ...]:
        """Block of each level, finest first."""
        return self._each(self.block)

    @property
    def attentions(self) -> tuple[str, ...]:
        """Attention of each level, finest first."""
        return self._each(self.attention)

    @property
    def downsamples(self) -> tuple[str, ...]:
        """How the bottom-up path reaches each level, finest first."""
        return self._each(self.downsample)

    def _each(self, names: Names) -> tuple[str, ...]:
        return (names,) * len(self.levels) if isinstance(names, str) else names


@dataclass(frozen=True, config=STRICT)
class HeadSpec:
    """Decoupled anchor-free head, one per level.

    A width of None follows YOLOv8: box `max(16, w // 4, 4 * reg_max)`, class
    `max(w, min(num_classes, 100))`, with `w` the width of the finest level.
    """

    depth: Depth = 2
    box: Literal["dfl", "ltrb", "cxcywh"] = "dfl"
    """What the box branch says: bins of the distances to the four sides (arXiv 2006.04388), the
    distances themselves in strides, or centre offset and log size in strides (YOLOX)."""
    reg_max: Annotated[int, Field(ge=2)] | None = None
    """Bins per side of `dfl`; None is 16."""
    box_width: Width | None = None
    class_width: Width | None = None
    box_conv: Literal["dense", "separable"] = "dense"
    class_conv: Literal["dense", "separable"] = "dense"
    stem_width: Width | None = None
    """Width of a 1x1 convolution before both branches of a level (YOLOX); None has none."""
    shared: bool = False
    """One set of convolutions for all levels, norms and predictions apart (RTMDet)."""
    attention: Names = "none"
    """Before the branches of each level."""
    objectness: bool = False
    """A prediction of "any object" beside the box, which scales every class score (YOLOX)."""
    one_to_one: bool = False
    """A second pair of branches that needs no NMS, trained beside the first (arXiv 2405.14458)."""

    def __post_init__(self):
        if self.box != "dfl" and self.reg_max is not None:
            raise ValueError(f"reg_max is for box dfl, got {self.reg_max} for box {self.box!r}")
        if self.one_to_one and self.objectness:
            raise ValueError("one_to_one and objectness cannot be had together")

    @property
    def bins(self) -> int:
        """Numbers predicted for each of a box's four values."""
        return (self.reg_max or 16) if self.box == "dfl" else 1


@dataclass(frozen=True, config=STRICT)
class DetectorSpec:
    """A whole detector: network, number of classes, and the square input size in pixels."""

    backbone: BackboneSpec
    neck: NeckSpec = NeckSpec()
    head: HeadSpec = HeadSpec()
    norm: Literal["batch", "group", "sync_batch"] = "batch"
    activation: Literal["silu", "relu", "hard_swish", "gelu"] = "silu"
    num_classes: Annotated[int, Field(ge=1)] = 80
    image_size: Annotated[int, Field(ge=32)] = 640

    def __post_init__(self):
        made = self.backbone.level_widths
        levels = list(self.neck.levels)
        missing = [f"C{level}" for level in levels if level not in made]
        if missing:
            raise ValueError(
                f"neck.levels {levels} needs {', '.join(missing)}, but the "
                f"backbone gives {', '.join(f'C{level}' for level in made)}; "
                "change neck.levels or the strides of backbone.stages"
            )
        if max(made) > levels[-1]:
            raise ValueError(
                f"neck.levels {levels} ends before the backbone's C{max(made)}, whose stages "
                "would never be used; add the level or drop the stages"
            )
        stride = self.backbone.strides[-1]
        if self.image_size % stride:
            raise ValueError(
                f"image_size must be a multiple of the network's stride {stride}, "
                f"got {self.image_size}"
            )
        names = self.head.attention
        if isinstance(names, tuple) and len(names) != len(levels):
            raise ValueError(
                f"head.attention must have one entry for each of the {len(levels)} levels, "
                f"got {len(names)}"
            )
        for level, attention in zip(levels, self.head_attentions, strict=True):
            _check_attention(f"head.attention of P{level}", attention, LEVEL_STRIDES[level])

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each P level, finest first."""
        return tuple(LEVEL_STRIDES[level] for level in self.neck.levels)

    @property
    def neck_widths(self) -> tuple[int, ...]:
        """Width at which the neck works on each P level, finest first."""
        widths = self.neck.widths
        if isinstance(widths, tuple):
            return widths
        made = self.backbone.level_widths
        return tuple(widths or made[level] for level in self.neck.levels)

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """Width of each P level as the head receives it, finest first."""
        if self.neck.out_width is not None:
            return (self.neck.out_width,) * len(self.neck.levels)
        return self.neck_widths

    @property
    def head_attentions(self) -> tuple[str, ...]:
        """Attention before the branches of each level, finest first."""
        names = self.head.attention
        return (names,) * len(self.neck.levels) if isinstance(names, str) else names

    @property
    def box_width(self) -> int:
        """Width of the head's box branch."""
        return self.head.box_width or max(16, self.feature_widths[0] // 4, 4 * self.head.bins)

    @property
    def class_width(self) -> int:
        """Width of the head's class branch."""
        return self.head.class_width or max(self.feature_widths[0], min(self.num_classes, 100))


def without_noise(spec: DetectorSpec) -> DetectorSpec:
    """The same network without the layers that drop something."""
    backbone = dataclasses.replace(
        spec.backbone, drop_path=0.0, drop_block=0.0, spatial_dropout=0.0
    )
    return dataclasses.replace(spec, backbone=backbone)


def to_dict(spec: Any) -> dict[str, Any]:
    """Plain dict of a spec or config, ready for JSON or YAML (tuples become lists)."""
    return TypeAdapter(type(spec)).dump_python(spec, mode="json")


def parse(kind: type[T], data: object, where: str) -> T:
    """Validate plain data as `kind`; InputError names every wrong key and value with its path."""
    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error)}") from None


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    # Making one takes longer than what it does.
    return TypeAdapter(kind)


def detector_from_dict(data: object, where: str = "detector") -> DetectorSpec:
    """The inverse of `to_dict` for a DetectorSpec."""
    return parse(DetectorSpec, data, where)


def describe(error: ValueError) -> str:
    """A validation error in one line, every wrong key and value with its path."""
    if isinstance(error, ValidationError):
        return "; ".join(map(_describe, error.errors()))
    return str(error)


def _describe(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    path = f"{path}: " if path else ""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}unknown key"
    if error["type"].startswith("missing"):
        return f"{path}missing"
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    shown = "" if dataclasses.is_dataclass(got) or isinstance(got, dict) else f", got {got!r}"
    return f"{path}{message}" if ", got " in message else f"{path}{message}{shown}"
