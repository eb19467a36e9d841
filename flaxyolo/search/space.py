"""What a sweep may try: ordinary code that draws a `DetectorSpec` from a trial."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import optuna
from optuna.trial import BaseTrial

from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec

Suggest = Callable[..., DetectorSpec]
"""A space: takes a trial, and by keyword `image_sizes` where it leaves them to the data."""

SMALL_IMAGE_SIZES = (128, 160, 192)
"""Input sizes for images of at most 192 px, such as `digits`."""

CPU_PIXELS_PER_MS = 4600.0
"""Input pixels that a small network reads in a millisecond on two CPU cores: 192 x 192 in 8 ms."""

REFERENCE: dict[str, Any] = {
    "image_size": 128,
    "stem_width": 8,
    "c2.block": "residual",
    "c2.width": 16,
    "c2.depth": 1,
    "c2.attention": "none",
    "c3.block": "residual",
    "c3.width": 32,
    "c3.depth": 1,
    "c3.attention": "none",
    "c4.block": "residual",
    "c4.width": 64,
    "c4.depth": 1,
    "c4.attention": "none",
    "c5.block": "residual",
    "c5.width": 96,
    "c5.depth": 1,
    "c5.attention": "none",
    "neck.kind": "fpn",
    "neck.block": "plain",
    "head.width": 32,
    "head.depth": 1,
}
"""The baseline of every study: a small residual network and an FPN, as the space's parameters."""


def suggest_stage(
    trial: BaseTrial,
    name: str,
    widths: tuple[int, int, int],
    max_depth: int,
    blocks: Sequence[str],
    attentions: Sequence[str],
) -> StageSpec:
    """Draw one stage. `name` is its output, such as "c4"; `widths` is (lowest, highest, step)."""
    low, high, step = widths
    return StageSpec(
        block=trial.suggest_categorical(f"{name}.block", tuple(blocks)),
        width=trial.suggest_int(f"{name}.width", low, high, step=step),
        depth=trial.suggest_int(f"{name}.depth", 1, max_depth),
        attention=trial.suggest_categorical(f"{name}.attention", tuple(attentions)),
    )


def suggest_detector(
    trial: BaseTrial,
    *,
    image_sizes: Sequence[int] | None = None,
    blocks: Sequence[str] = ("residual", "plain", "c2f", "c3", "depthwise"),
    attentions: Sequence[str] = ("none", "se"),
    necks: Sequence[str] = ("pan", "fpn"),
    neck_blocks: Sequence[str] = ("plain", "c2f_plain"),
    stem_widths: tuple[int, int, int] = (8, 16, 8),
    c2_widths: tuple[int, int, int] = (16, 24, 8),
    c3_widths: tuple[int, int, int] = (32, 48, 16),
    c4_widths: tuple[int, int, int] = (64, 96, 32),
    c5_widths: tuple[int, int, int] = (96, 160, 32),
    head_widths: tuple[int, int, int] = (32, 48, 16),
    max_depth: int = 2,
) -> DetectorSpec:
    """Draw a detector of four stages. Widths are (lowest, highest, step).

    Without `image_sizes` a sweep hands over those that suit its data and budget.
    """
    # C2 has the largest maps and the least to say: one layer, without attention. Attention is
    # tried where maps are small and channels many.
    c2 = suggest_stage(trial, "c2", c2_widths, 1, blocks, ("none",))
    c3 = suggest_stage(trial, "c3", c3_widths, max_depth, blocks, ("none",))
    c4 = suggest_stage(trial, "c4", c4_widths, max_depth, blocks, attentions)
    c5 = suggest_stage(trial, "c5", c5_widths, 1, blocks, attentions)
    low, high, step = stem_widths
    stem_width = trial.suggest_int("stem_width", low, high, step=step)
    low, high, step = head_widths
    head_width = trial.suggest_int("head.width", low, high, step=step)
    return DetectorSpec(
        backbone=BackboneSpec(stem_width, (c2, c3, c4, c5), context="sppf"),
        neck=NeckSpec(
            kind=trial.suggest_categorical("neck.kind", tuple(necks)),
            block=trial.suggest_categorical("neck.block", tuple(neck_blocks)),
        ),
        head=HeadSpec(
            depth=trial.suggest_int("head.depth", 1, max_depth),
            box_width=head_width,
            class_width=head_width,
        ),
        image_size=trial.suggest_categorical("image_size", tuple(image_sizes or SMALL_IMAGE_SIZES)),
    )


def image_sizes_for(longest_side: int, budget_ms: float | None, platform: str) -> tuple[int, ...]:
    """Input sizes worth trying for images of this longest side (pixels), smallest first.

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


def with_image_sizes(suggest: Suggest, image_sizes: tuple[int, ...]) -> Suggest:
    """The space, given the sizes that suit the data if it leaves `image_sizes` open."""
    parameter = inspect.signature(suggest).parameters.get("image_sizes")
    if parameter is None or parameter.default not in (None, inspect.Parameter.empty):
        return suggest
    return partial(suggest, image_sizes=image_sizes)


def reference_params(suggest: Suggest) -> dict[str, Any]:
    """Parameters of the point of a space that is nearest to `REFERENCE`."""
    trial = _Nearest(REFERENCE)
    suggest(trial)
    return trial.chosen


class _Nearest(optuna.trial.FixedTrial):
    """Answers every question of a space with the value nearest to the wanted one."""

    def __init__(self, wanted: dict[str, Any]):
        super().__init__({})
        self.wanted = wanted
        self.chosen: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        wanted = self.wanted.get(name)
        numbers = isinstance(wanted, int) and all(isinstance(choice, int) for choice in choices)
        if numbers:
            value = min(choices, key=lambda choice: abs(choice - wanted))
        else:
            value = wanted if wanted in choices else choices[0]
        self.chosen[name] = value
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        wanted = min(max(self.wanted.get(name, low), low), high)
        self.chosen[name] = low + (wanted - low) // step * step
        return self.chosen[name]

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        wanted = min(max(self.wanted.get(name, low), low), high)
        self.chosen[name] = wanted if step is None else low + (wanted - low) // step * step
        return self.chosen[name]
