"""What a detector is, as frozen and validated data. Imports no JAX.

A spec can be hashed, compared, stored as JSON and read back (`detector_from_dict`).
Names of blocks, attentions and necks are looked up in the tables of `flaxyolo.nn` when the
network is built, so adding an entry there needs no change here.
"""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flaxyolo.errors import InputError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid", validate_default=True)

Width = Annotated[int, Field(ge=8, multiple_of=8)]
Depth = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]

LEVEL_STRIDES = {2: 4, 3: 8, 4: 16, 5: 32, 6: 64}
"""Input pixels per cell of C2/P2 to C6/P6."""


@dataclass(frozen=True, config=STRICT)
class StageSpec:
    """One backbone stage: a downsampling convolution, `depth` layers of one block, attention."""

    block: str
    width: Width
    depth: Depth
    attention: str = "none"
    stride: Literal[1, 2] = 2


@dataclass(frozen=True, config=STRICT)
class BackboneSpec:
    """Stem at stride 2 and three to six stages; `context` is an optional last layer."""

    stem_width: Width
    stages: Annotated[tuple[StageSpec, ...], Field(min_length=3, max_length=6)]
    context: Literal["none", "sppf"] = "none"

    @property
    def level_widths(self) -> dict[int, int]:
        """Width of each C level the stages produce: `{2: 32, 3: 64, ...}`."""
        widths, stride = {}, 2
        levels = {stride: level for level, stride in LEVEL_STRIDES.items()}
        for stage in self.stages:
            stride *= stage.stride
            if stride in levels:
                widths[levels[stride]] = stage.width
        return widths


@dataclass(frozen=True, config=STRICT)
class NeckSpec:
    """Feature pyramid over a run of levels; `widths` None keeps each level's backbone width."""

    kind: str = "pan"
    levels: Annotated[tuple[int, ...], Field(min_length=1)] = (3, 4, 5)
    block: str = "c2f_plain"
    depth: Depth = 1
    widths: tuple[Width, ...] | None = None
    attention: str = "none"

    def __post_init__(self):
        first, last = self.levels[0], self.levels[-1]
        if self.levels != tuple(range(first, last + 1)) or first < 2 or last > 6:
            raise ValueError(f"levels must be a run such as [3, 4, 5], got {list(self.levels)}")
        if self.widths is not None and len(self.widths) != len(self.levels):
            raise ValueError(
                f"widths must have one entry for each of the {len(self.levels)} levels, "
                f"got {len(self.widths)}"
            )


@dataclass(frozen=True, config=STRICT)
class HeadSpec:
    """Decoupled anchor-free head, one per level.

    A width of None follows YOLOv8: box `max(16, w // 4, 4 * reg_max)`, class
    `max(w, min(num_classes, 100))`, with `w` the width of the finest level.
    """

    depth: Depth = 2
    reg_max: Annotated[int, Field(ge=2)] = 16
    box_width: Width | None = None
    class_width: Width | None = None


@dataclass(frozen=True, config=STRICT)
class DetectorSpec:
    """A whole detector: network, number of classes, and the square input size in pixels."""

    backbone: BackboneSpec
    neck: NeckSpec = NeckSpec()
    head: HeadSpec = HeadSpec()
    norm: Literal["batch", "group"] = "batch"
    activation: Literal["silu", "relu"] = "silu"
    num_classes: Annotated[int, Field(ge=1)] = 80
    image_size: Annotated[int, Field(ge=32)] = 640

    def __post_init__(self):
        made = self.backbone.level_widths
        missing = [f"C{level}" for level in self.neck.levels if level not in made]
        if missing:
            raise ValueError(
                f"neck.levels {list(self.neck.levels)} needs {', '.join(missing)}, but the "
                f"backbone ends at {', '.join(f'C{level}' for level in made)}; "
                "change neck.levels or the strides of backbone.stages"
            )
        stride = 2
        for stage in self.backbone.stages:
            stride *= stage.stride
        if self.image_size % stride:
            raise ValueError(
                f"image_size must be a multiple of the network's stride {stride}, "
                f"got {self.image_size}"
            )

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each P level, finest first."""
        return tuple(LEVEL_STRIDES[level] for level in self.neck.levels)

    @property
    def neck_widths(self) -> tuple[int, ...]:
        """Width of each P level, finest first."""
        if self.neck.widths is not None:
            return self.neck.widths
        return tuple(self.backbone.level_widths[level] for level in self.neck.levels)

    @property
    def box_width(self) -> int:
        """Width of the head's box branch."""
        return self.head.box_width or max(16, self.neck_widths[0] // 4, 4 * self.head.reg_max)

    @property
    def class_width(self) -> int:
        """Width of the head's class branch."""
        return self.head.class_width or max(self.neck_widths[0], min(self.num_classes, 100))


def to_dict(spec: Any) -> dict[str, Any]:
    """Plain dict of a spec or config, ready for JSON or YAML (tuples become lists)."""
    return TypeAdapter(type(spec)).dump_python(spec, mode="json")


def parse(kind: type[T], data: object, where: str) -> T:
    """Validate plain data as `kind`; InputError names every wrong key and value with its path."""
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise InputError(f"{where}: {describe(error)}") from None


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
