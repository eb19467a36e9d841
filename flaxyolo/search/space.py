"""What a sweep may try: ordinary code that draws a `DetectorSpec` from a trial."""

import inspect
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import optuna
from optuna.trial import BaseTrial

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import read_file
from flaxyolo.nn.tables import entry
from flaxyolo.search.growth import Number, constant_ratio, multiple
from flaxyolo.spec import (
    LEVEL_STRIDES,
    BackboneSpec,
    DetectorSpec,
    HeadSpec,
    NeckSpec,
    StageSpec,
)

Suggest = Callable[..., DetectorSpec]
"""A space: takes a trial, and by keyword the fields of `Ranges` that it leaves to a sweep."""

SMALL_IMAGE_SIZES = (128, 160, 192)
"""Input sizes where nobody says others: for images of at most 192 px, such as `digits`."""

WIDTHS = (16, 32, 8)
CAP = 6
MAX_DEPTHS = (2, 3, 3, 2)
"""What `suggest_detector` tries where nobody says otherwise."""

RANGED = ("image_sizes", "widths", "cap", "max_depths")
"""Keywords by which a space takes its ranges."""

LARGEST_IMAGE_SIZE = 1280
IMAGE_SIZES = (64, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 960)
"""Input sizes below the images' own, about a third apart."""
OWN = 0.9
"""Share of the images' own size from which another is as good as the same."""

CPU_PIXELS_PER_MS = 4600.0
"""What studies without stored ranges took for the input pixels that a small network reads in a
millisecond on two CPU cores: 192 x 192 in 8 ms."""

FIRST_LATE_LEVEL = 4
"""Stages from stride 16 are late ones."""


class Plan(NamedTuple):
    """Where a network steps down and on which levels it detects."""

    levels: tuple[int, ...]
    strides: tuple[Literal[1, 2], ...]
    """Of each stage."""
    stem: Literal["conv3", "patchify"] = "conv3"


PLANS: dict[str, Plan] = {
    "P3-P5": Plan((3, 4, 5), (2, 2, 2, 2)),
    "P2-P5": Plan((2, 3, 4, 5), (2, 2, 2, 2)),
    "P3-P4": Plan((3, 4), (2, 2, 2)),
    "P2-P4": Plan((2, 3, 4), (2, 2, 2)),
    "P3-P6": Plan((3, 4, 5, 6), (2, 2, 2, 2, 2)),
    "P3-P5 patchify": Plan((3, 4, 5), (1, 2, 2, 2), "patchify"),
}
"""Stride plans by the name that a study shows. A stem of stride 4 leaves C2 a stage of stride 1;
without P5 the network ends at stride 16."""

REFERENCE: dict[str, Any] = {
    "image_size": 128,
    "plan": "P3-P5",
    "width": 16,
    "ratio": 2.0,
    "c2.depth": 1,
    "c3.depth": 1,
    "c4.depth": 1,
    "c5.depth": 1,
    "early.block": "residual",
    "late.block": "residual",
    "neck.kind": "fpn",
    "neck.block": "plain",
}
"""The baseline of every study: a small residual network and an FPN, as the space's parameters."""

REFERENCE_PARTS: dict[str, Any] = {
    "stem": "conv3",
    "stem.width": 8,
    "c2.block": "residual",
    "c2.width": 16,
    "c3.block": "residual",
    "c3.width": 32,
    "c4.block": "residual",
    "c4.width": 64,
    "c5.block": "residual",
    "c5.width": 96,
    "downsample": "conv",
    "context": "sppf",
    "context_place": "after",
    "norm": "batch",
    "activation": "silu",
    "neck.downsample": "conv",
    "head.depth": 1,
    "head.box": "dfl",
    "head.reg_max": 16,
    "head.box_width": 32,
    "head.class_width": 32,
}
"""The same network by the names of spaces that ask for every part."""


@dataclass(frozen=True)
class Ranges:
    """How large the detectors of a space may be; None is what the space has by itself."""

    image_sizes: tuple[int, ...]
    widths: tuple[int, int, int] | None = None
    """Lowest, highest and step of C2's."""
    cap: int | None = None
    """How often C2's width fits into the widest."""
    max_depths: tuple[int, ...] | None = None
    """Of C2, C3 and so on, the last for all further stages."""
    why: str = ""
    """Why these, for a person."""

    def describe(self) -> str:
        """In words, such as `C2 16 to 32 channels wide, up to 2, 3, 3, 2 deep, at 128, 160 px`."""
        told = []
        if self.widths is not None:
            low, high, _ = self.widths
            told.append(f"C2 {low} channels wide" if low == high
                        else f"C2 {low} to {high} channels wide")  # fmt: skip
        if self.max_depths is not None:
            told.append(f"up to {', '.join(map(str, self.max_depths))} layers deep")
        return ", ".join([*told, f"at {', '.join(map(str, self.image_sizes))} px"])


def suggest_detector(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    plans: Sequence[str] = ("P3-P5", "P2-P5", "P3-P4", "P2-P4"),
    blocks: Sequence[str] = ("residual", "plain", "c2f", "c3", "depthwise"),
    late_blocks: Sequence[str] | None = None,
    attentions: Sequence[str] = ("none",),
    necks: Sequence[str] = ("fpn", "pan"),
    neck_blocks: Sequence[str] = ("plain", "c2f_plain"),
    activations: Sequence[str] = ("silu",),
    widths: tuple[int, int, int] | None = None,
    ratios: tuple[Number, Number, Number] = (1.5, 2.0, 0.25),
    cap: int | None = None,
    max_depths: Sequence[int] | None = None,
    head_depth: int = 1,
) -> DetectorSpec:
    """Draw a detector; with the defaults by 12 decisions.

    `widths` (lowest, highest, step) are C2's, `ratios` by how much each stage is wider than the
    one before, `cap` how often C2's width fits into the widest. `max_depths` are for C2, C3 and so
    on, the last for all further stages. Early stages are those up to stride 8, late ones from
    stride 16, where `attentions` are tried; None for `late_blocks` is `blocks`.
    Of `image_sizes`, `widths`, `cap` and `max_depths` a sweep hands over those that are left out,
    as they suit its data, device and budget.
    """
    max_depths = max_depths or MAX_DEPTHS
    size = choose(trial, "image_size", image_sizes or SMALL_IMAGE_SIZES)
    plan = entry(PLANS, choose(trial, "plan", plans), "plan")
    base = whole(trial, "width", *(widths or WIDTHS))
    ratio = trial.suggest_float("ratio", *ratios[:2], step=ratios[2])
    wide = constant_ratio(base, ratio, len(plan.strides), cap=(cap or CAP) * base)
    early = choose(trial, "early.block", blocks)
    late = choose(trial, "late.block", late_blocks or blocks)
    attention = choose(trial, "late.attention", attentions)
    stages = []
    for number, (stride, width) in enumerate(zip(plan.strides, wide, strict=True)):
        level = number + 2
        most = max_depths[min(number, len(max_depths) - 1)]
        stages.append(
            StageSpec(
                block=early if level < FIRST_LATE_LEVEL else late,
                width=width,
                depth=whole(trial, f"c{level}.depth", 1, most),
                attention="none" if level < FIRST_LATE_LEVEL else attention,
                stride=stride,
            )
        )
    return DetectorSpec(
        backbone=BackboneSpec(
            # The stem of stride 2 has four times C2's pixels, so it is half as wide.
            base if plan.stem == "patchify" else multiple(base / 2),
            tuple(stages),
            stem=plan.stem,
            context="sppf",
        ),
        neck=NeckSpec(
            kind=choose(trial, "neck.kind", necks),
            levels=plan.levels,
            block=choose(trial, "neck.block", neck_blocks),
        ),
        # As wide as C3, which is the width that YOLOv8's head takes from P3.
        head=HeadSpec(depth=head_depth, box_width=wide[1], class_width=wide[1]),
        activation=choose(trial, "activation", activations),
        image_size=whole_cells(size, plan.levels[-1]),
    )


def choose(trial: BaseTrial, name: str, choices: Sequence[Any]) -> Any:
    """Draw one of the choices; a single one is no question, and is not asked."""
    choices = tuple(choices)
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def whole(trial: BaseTrial, name: str, low: int, high: int, step: int = 1) -> int:
    """Draw a whole number; a single one is no question, and is not asked."""
    return low if low == high else trial.suggest_int(name, low, high, step=step)


def whole_cells(size: int, level: int) -> int:
    """The image size, or the next above it that is a multiple of the stride of P`level`."""
    stride = LEVEL_STRIDES[level]
    return -(-size // stride) * stride


def image_sizes_for(longest_side: int) -> tuple[int, ...]:
    """Input sizes for images of this longest side (pixels), smallest first, up to their own.

    Multiples of 32 up to 1280; a sweep takes those of them that its budget pays for.
    """
    own = max(64, min(longest_side, LARGEST_IMAGE_SIZE) // 32 * 32)
    return (*(size for size in IMAGE_SIZES if size < OWN * own), own)


def former_image_sizes(
    longest_side: int, budget_ms: float | None, platform: str
) -> tuple[int, ...]:
    """Input sizes of a study that was begun before ranges were stored, smallest first.

    Multiples of 32 at 0.4, 0.5, 0.75 and 1 of the images' own size, up to 640; on a CPU only
    those that a small network can read within the budget.
    """
    if longest_side <= SMALL_IMAGE_SIZES[-1]:
        return SMALL_IMAGE_SIZES
    sizes = sorted({max(32, round(longest_side * share / 32) * 32) for share in (0.4, 0.5, 0.75)})
    sizes = [*sizes, longest_side // 32 * 32]
    sizes = sorted({min(size, 640) for size in sizes})
    if platform == "cpu" and budget_ms is not None:
        fitting = [size for size in sizes if size**2 <= CPU_PIXELS_PER_MS * budget_ms]
        sizes = fitting or list(SMALL_IMAGE_SIZES)
    return tuple(sizes)


def load_space(path: Path | None) -> Suggest:
    """The function `suggest` of a sweep file, or the default space."""
    if path is None:
        return suggest_detector
    if not path.is_file():
        raise InputError(f"--space {path}: expected a Python file, found none")
    try:
        read_file(path)
    except OSError as error:
        raise InputError(f"--space {path}: cannot be read: {error.strerror}") from None
    try:
        suggest = runpy.run_path(str(path)).get("suggest")
    except Exception as error:  # whatever a user's file may raise
        raise InputError(
            f"--space {path}: cannot be run: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    if not callable(suggest):
        raise InputError(
            f"--space {path}: expected a function 'suggest' that takes a trial, "
            f"got {'none' if suggest is None else repr(suggest)}"
        )
    return cast(Suggest, suggest)


def left_open(suggest: Suggest) -> frozenset[str]:
    """The ranges that a space leaves to a sweep: keywords without a value of their own."""
    known = inspect.signature(suggest).parameters
    return frozenset(
        name
        for name in RANGED
        if name in known and known[name].default in (None, inspect.Parameter.empty)
    )


def with_ranges(suggest: Suggest, ranges: Ranges) -> Suggest:
    """The space, given the ranges that it leaves open."""
    given = {name: getattr(ranges, name) for name in sorted(left_open(suggest))}
    given = {name: value for name, value in given.items() if value is not None}
    return partial(suggest, **given) if given else suggest


def reference_params(suggest: Suggest, changed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Parameters of the point of a space that is nearest to the reference network.

    What `changed` names is wanted otherwise.
    """
    trial = _Nearest(REFERENCE | REFERENCE_PARTS | dict(changed or {}))
    suggest(trial)
    return trial.chosen


class _Nearest(optuna.trial.FixedTrial):
    """Answers every question of a space with the value nearest to the wanted one.

    A question that the wanted network does not answer gets its first choice, its lowest number.
    """

    def __init__(self, wanted: dict[str, Any]):
        super().__init__({})
        self.wanted = wanted
        self.chosen: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        wanted = self.wanted.get(name)
        if all(isinstance(value, int | float) for value in (wanted, *choices)):
            value = min(choices, key=lambda choice: abs(choice - wanted))
        else:
            value = wanted if wanted in choices else choices[0]
        self.chosen[name] = value
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        self.chosen[name] = int(self._nearest(name, low, high, step))
        return self.chosen[name]

    def suggest_float(
        self,
        name: str,
        low: Number,
        high: Number,
        *,
        step: Number | None = None,
        log: bool = False,
    ) -> float:
        self.chosen[name] = float(self._nearest(name, low, high, step))
        return self.chosen[name]

    def _nearest(self, name: str, low: Number, high: Number, step: Number | None) -> Number:
        wanted = min(max(self.wanted.get(name, low), low), high)
        if step is None:
            return wanted
        return low + min(round((wanted - low) / step), (high - low) // step) * step
