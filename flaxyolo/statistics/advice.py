"""What the statistics say a detector should be, and what a sweep should therefore try first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flaxyolo.base.errors import InputError
from flaxyolo.statistics.resolution import Resolution
from flaxyolo.statistics.rules import (
    MIN_BOXES,
    Advice,
    advise_blur,
    advise_box_slots,
    advise_brightness,
    advise_contrast,
    advise_detection_slots,
    advise_drop_path,
    advise_image_size,
    advise_imbalance,
    advise_neck,
    advise_next_image_size,
    advise_nms_threshold,
    advise_norm,
    advise_p2,
    advise_p5,
    advise_plan,
    advise_reg_max,
    advise_slices,
    advise_thin_objects,
    advise_validation,
    compared_size,
)
from flaxyolo.statistics.summary import Statistics


class StrideChoice(NamedTuple):
    """The coarsest stride at which an object still covers enough cells."""

    stride: int | None
    """None where no stride is fine enough."""
    cells: tuple[tuple[int, float], ...]
    """Each stride with the cells that the object covers there, finest first."""
    message: str


class Advised(NamedTuple):
    """What data are like, and what follows from it, most important first."""

    statistics: Statistics
    advice: tuple[Advice, ...]


def stride_recommend(
    object_px: int | float, strides: Sequence[int] = (8, 16, 32), min_cells: int | float = 2
) -> StrideChoice:
    """The coarsest stride at which an object of `object_px` covers `min_cells` cells.

    `object_px` is its shorter side in pixels of the network input.
    """
    if not math.isfinite(object_px) or object_px <= 0:
        raise ValueError(f"object_px must be a number of pixels above 0, got {object_px}")
    if not strides or min(strides) <= 0:
        raise ValueError(f"strides must be one or more numbers above 0, got {list(strides)}")
    if not min_cells > 0:
        raise ValueError(f"min_cells must be above 0, got {min_cells}")
    cells = tuple((stride, object_px / stride) for stride in sorted(strides))
    enough = [(stride, count) for stride, count in cells if count >= min_cells]
    if enough:
        stride, count = enough[-1]
        return StrideChoice(
            stride, cells, f"{object_px:g} px covers {count:.2f} cells at stride {stride}: enough"
        )
    stride, count = cells[0]
    return StrideChoice(
        None,
        cells,
        f"{object_px:g} px covers {count:.2f} cells even at stride {stride}, fewer than "
        f"{min_cells:g}: no stride is fine enough; try a larger input or a finer level",
    )


def advise(
    statistics: Statistics,
    *,
    image_sizes: Sequence[int] | None = None,
    batch_size: int = 16,
    affordable: Mapping[int, float] | None = None,
) -> tuple[Advice, ...]:
    """Everything that the data give reason to say, most important first.

    `image_sizes` limits the input sizes to choose from; each must have been measured. `affordable`
    says which share of the budget a network worth having takes at each of them, if there is one.
    """
    train, choices = statistics.train, _choices(statistics, image_sizes)
    found: list[Advice | None] = []
    if train.boxes >= MIN_BOXES and choices:
        size = advise_image_size(train, choices, affordable)
        here = next(each for each in choices if each.image_size == size.value)
        other = compared_size(train, choices, here, affordable)
        p2, p5 = advise_p2(here), advise_p5(here)
        found += [
            size,
            advise_plan(here, p2, p5),
            p2,
            p5,
            None if other is None else advise_next_image_size(here, other),
            advise_neck(here),
            advise_reg_max(here, other, p5),
            advise_slices(train, here),
        ]
    found += [
        advise_norm(batch_size),
        advise_nms_threshold(train),
        advise_box_slots(train),
        advise_detection_slots(train),
        advise_imbalance(train),
        advise_drop_path(train),
        advise_thin_objects(train, choices),
        advise_brightness(train),
        advise_contrast(train),
        advise_blur(train),
        advise_validation(statistics),
    ]
    return tuple(advice for advice in found if advice is not None)


def candidates(advice: Sequence[Advice]) -> dict[str, dict[str, Any]]:
    """What a sweep should try first: parameters of its space by name; none without advice.

    Each differs from the advised one in a single thing, so that the sweep tests that advice.
    """
    values = {each.key: each.value for each in advice}
    if "plan" not in values:
        return {}
    asked = ("image_size", "plan", "neck.kind", "head.reg_max", "norm")
    advised = {key: values[key] for key in asked if key in values}
    found = {"advised": advised}
    if "next_image_size" in values:
        found["advised at the next resolution"] = advised | {
            "image_size": values["next_image_size"]
        }
    # Last: of what begins with the weights of an advised parent it has most to learn anew, and in
    # all 12 sweeps of 6 to 9 minutes that tried it, it was below all that had as many epochs.
    finest = advised["plan"].split("-")[0]
    name, other = ("without", "P3") if finest == "P2" else ("with", "P2")
    found[f"advised {name} P2"] = advised | {"plan": advised["plan"].replace(finest, other, 1)}
    return found


def _choices(statistics: Statistics, image_sizes: Sequence[int] | None) -> tuple[Resolution, ...]:
    """The resolutions to choose from, smallest first."""
    measured = {each.image_size: each for each in statistics.resolutions}
    if image_sizes is None or not measured:
        return statistics.resolutions
    missing = sorted(set(image_sizes) - measured.keys())
    if missing or not image_sizes:
        raise InputError(
            f"image_sizes: expected some of {', '.join(map(str, measured))}, which were measured "
            f"on {statistics.data}, got {list(image_sizes)}; measure with image_sizes={missing}"
        )
    return tuple(measured[size] for size in sorted(set(image_sizes)))
