"""The rules that lead from statistics to advice, one small function each.

Every rule names the number behind it and its source. A limit that no paper gives is "to be
calibrated": it is a start, and the sweep tests what follows from it. No rule fires on fewer boxes
or images than can carry it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxyolo.nn.nms import IOU_THRESHOLD, MAX_DETECTIONS
from flaxyolo.nn.norm import choose_norm
from flaxyolo.spec import to_dict
from flaxyolo.statistics.columns import percent
from flaxyolo.statistics.resolution import FINEST_USUAL, MIN_CELLS, AtStride, Resolution
from flaxyolo.statistics.summary import SplitStatistics, Statistics

MIN_BOXES = 50
"""A 95th percentile of fewer boxes rests on one or two of them."""
MIN_IMAGES = 20

CALIBRATE = "to be calibrated"
CELLS = f"two cells of the level that detects an object; {CALIBRATE}"
VISDRONE = f"resolution before P2: +12.7 AP against +0.9 on VisDrone; limits {CALIBRATE}"

COVERED = 0.9
"""Share of boxes that should cover two cells at stride 8 before the input grows no further."""
NEGLIGIBLE_LOSS = 0.03
"""Of the detail inside the boxes of the worst class, from which no larger input is worth its cost:
a small network trained on digits at 128 px (loss 4.6 %) went on at 160 px (2.3 %) from mAP 0.35 to
0.39, and at their own 192 px to 0.37, one run each. Smooth objects lose less at any size, print of
1 px more at two thirds of its own."""
LARGEST_SHARE = 0.7
"""Of the budget, that the reference network may take at the advised input: the rest is for width
and depth, without which a larger input shows more than the network can use."""
OWN_STEP = 32
"""Pixels by which input sizes go: the images' own longest side is rounded up to them."""
P2_FROM, P2_BELOW_PX = 0.2, 1920
"""Share of boxes too small for stride 8 that pays for a P2 level, and inputs that need none."""
P5_FROM = 0.02
"""Share of boxes large enough for stride 32 that pays for a P5 level."""
LEVEL_SHARE = 0.1
"""Share of the boxes that makes a level one of several that matter."""
REACH_MARGIN = 1.5
"""Strides from the centre of an object to the farthest of the ten points that learn it."""
LARGEST_SCALE = 1.5
"""By which augmentation enlarges objects."""
REG_MAX_STEP, LEAST_REG_MAX = 4, 8
SUPPRESSED = 0.01
"""Share of true boxes that NMS may drop."""
MOSAIC_IMAGES = 4
SLOT_STEP = 16
COCO_DETECTIONS = 100
"""Detections of an image that COCO's average precision counts."""
SLICE_FROM = 2.0
"""Images so many times larger than the input lose more than half of their detail."""
IMBALANCE = 10.0
COMMON = 0.5
"""A class that shows in this share of the images cannot be drawn more often by choosing images."""
DROP_PATH = ((1000, 0.1), (5000, 0.05))
"""Rate up to so many training images."""
THIN_SHARE = 0.05
DARK, BRIGHT, FLAT, BLURRED = 50.0, 205.0, 25.0, 0.03
"""Of the median image: grey level, its standard deviation, and variance of the Laplacian over that
of the grey level (100 at a contrast of 60), that call for a hint."""
NEXT_STEP = 1.25
"""Inputs that are compared differ at least so much: less would drown in the noise of training."""
SIZES = ("small", "medium", "large")
SPLIT_DIFFERENCE = 0.1


@dataclass(frozen=True)
class Advice:
    """One piece of advice, and the number that led to it."""

    key: str
    """What it is about; a parameter of the search space where there is one, as `head.reg_max`."""
    value: Any
    """Plain data: what to set, or whether to."""
    why: str
    number: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return to_dict(self)


def advise_image_size(
    train: SplitStatistics,
    choices: Sequence[Resolution],
    affordable: Mapping[int, float] | None = None,
) -> Advice:
    """The largest input that the budget pays for, until it shows the boxes.

    It does where nine boxes of ten cover two cells at stride 8 and scaling loses little of what is
    inside them. But not beyond the size of the images: from there on no detail is gained, and a P2
    level gives the same cells for less. `affordable` is the share of the budget that the reference
    network takes at each size; None where there is no budget.
    """
    assert train.longest_side is not None
    own = train.longest_side.p50
    within = _within(train, choices)
    aim = next((place for place, each in enumerate(within) if _shows(each)), len(within) - 1)
    paid = [
        each
        for each in within[: aim + 1]
        if affordable is None or affordable[each.image_size] <= LARGEST_SHARE
    ]
    chosen = paid[-1] if paid else within[0]
    text = _too_small(chosen) + _loses(chosen, "; scaling takes")
    place = within.index(chosen)
    if place:
        before = within[place - 1]
        text += f"; at {before.image_size} px {percent(_small_share(before))}"
        text += _loses(before, ", and")
    if place == aim and not _shows(chosen):
        limit = f"the median image has {own:.0f} px: beyond that is no detail"
        text += f"; {limit if chosen.image_size >= own else 'no larger input is to choose from'}"
    if affordable is not None:
        text += (
            f"; the reference network takes {percent(affordable[chosen.image_size])} of the budget"
        )
        if place < aim:
            after = within[place + 1].image_size
            text += f", {percent(affordable[after])} at {after} px"
        text += f", and at most {percent(LARGEST_SHARE)} leaves room for width"
    return Advice("image_size", chosen.image_size, text, _small_share(chosen), VISDRONE)


def compared_size(
    train: SplitStatistics,
    choices: Sequence[Resolution],
    here: Resolution,
    affordable: Mapping[int, float] | None = None,
) -> Resolution | None:
    """The input that tests the advised one: the next that is larger, or smaller, by enough.

    A larger one where the reference network is inside the budget, and where there is detail or
    cells to gain or nothing smaller to compare with.
    """
    larger = [each for each in choices if each.image_size >= NEXT_STEP * here.image_size][:1]
    smaller = [each for each in choices if each.image_size * NEXT_STEP <= here.image_size][-1:]
    larger = [each for each in larger if affordable is None or affordable[each.image_size] <= 1]
    gains = not _covers(here) or any(each.image_size <= _own_size(train) for each in larger)
    return next(iter(larger + smaller if gains else smaller + larger), None)


def advise_next_image_size(here: Resolution, other: Resolution) -> Advice:
    """What to compare the advised input with."""
    cost = (other.image_size / here.image_size) ** 2
    text = _too_small(other) + _loses(other, "; scaling takes")
    text += f"; costs {cost:.1f} times as much"
    return Advice("next_image_size", other.image_size, text, _small_share(other), VISDRONE)


def advise_p2(here: Resolution) -> Advice:
    """Whether so many boxes are too small for stride 8 that a level of stride 4 pays."""
    needed, fine = _small_share(here), here.at_stride(4)
    earns = needed >= P2_FROM and here.image_size < P2_BELOW_PX
    text = (
        f"{_too_small(here)}, at stride 4 {percent(1 - fine.covered)} cover fewer than two; "
        f"{percent(here.at_stride(FINEST_USUAL).collisions)} share a cell with another box at "
        f"stride 8, {percent(fine.collisions)} at stride 4"
    )
    return Advice("p2", earns, text, needed, VISDRONE)


def advise_p5(here: Resolution) -> Advice:
    """Whether enough boxes are large enough for stride 32."""
    level = here.at_stride(32)
    coarse = level.covered_class_mean
    text = (
        f"{percent(coarse)} of the boxes{_weighed(level)} cover two cells at stride 32 "
        f"({32 * MIN_CELLS} px) at {here.image_size} px"
    )
    return Advice("p5", coarse >= P5_FROM, text, coarse, CELLS)


def advise_plan(here: Resolution, p2: Advice, p5: Advice) -> Advice:
    """The levels to detect on, by the name of the stride plan."""
    plan = f"P{2 if p2.value else 3}-P{5 if p5.value else 4}"
    shares = here.level_shares()
    parts = [f"{name} {percent(part)}" for name, part in shares.items() if name != "none"]
    parts.append(f"too small for any {percent(shares['none'])}")
    finest = here.at_stride(4 if p2.value else FINEST_USUAL).covered
    text = f"coarsest level at which a box covers two cells: {', '.join(parts)}"
    return Advice("plan", plan, text, finest, CELLS)


def advise_neck(here: Resolution) -> Advice:
    """A way up as well as down where objects of several scales have to be told apart."""
    shares = here.level_shares(classes_alike=True)
    several = [name for name, part in shares.items() if part >= LEVEL_SHARE and name != "none"]
    text = f"suited by at least {percent(LEVEL_SHARE)} of the boxes, each class weighed alike: "
    text += ", ".join(several) or "none"
    kind = "pan" if len(several) > 1 else "fpn"
    return Advice("neck.kind", kind, text, float(len(several)), f"arXiv 1803.01534; {CALIBRATE}")


def advise_reg_max(here: Resolution, other: Resolution | None, p5: Advice) -> Advice:
    """Bins for the distance from a point to the sides of its object; fewer make a lighter head."""
    coarsest = 32 if p5.value else 16
    needs, reach = [], here.at_stride(coarsest).reach_p99
    for each in (here, other or here):
        scaled = LARGEST_SCALE * each.at_stride(coarsest).reach_p99
        # No object reaches farther than half the input.
        needs.append(min(scaled, each.image_size / 2 / coarsest) + REACH_MARGIN)
    # The last of n bins stands for n - 1 strides.
    bins = max(LEAST_REG_MAX, math.ceil((max(needs) + 1) / REG_MAX_STEP) * REG_MAX_STEP)
    text = (
        f"with levels up to stride {coarsest}, 99 % of the boxes reach {reach:.1f} strides from "
        f"their centre; enlarged by augmentation, at the next resolution and from the farthest "
        f"point that learns them {max(needs):.1f}"
    )
    return Advice("head.reg_max", bins, text, reach, f"arXiv 2006.04388; margin {CALIBRATE}")


def advise_slices(train: SplitStatistics, here: Resolution) -> Advice | None:
    """Cut images that are far larger than the input where that costs the small objects."""
    assert train.longest_side is not None
    times = train.longest_side.p50 / here.image_size
    if times < SLICE_FROM or _small_share(here) < P2_FROM:
        return None
    text = (
        f"the median image is {times:.1f} times as large as the input, and {_too_small(here)}; "
        f"train and detect on slices of {here.image_size} px"
    )
    return Advice("slice_px", here.image_size, text, times, f"arXiv 2202.06934; {CALIBRATE}")


def advise_norm(batch_size: int) -> Advice:
    """The norm for the images of one step, on one device."""
    text = f"{batch_size} images a step; batch statistics are steady from 16"
    value = choose_norm(batch_size)
    return Advice("norm", value, text, float(batch_size), "arXiv 1803.08494, figure 1")


def advise_nms_threshold(train: SplitStatistics) -> Advice | None:
    """The usual threshold, or the next at which true neighbours survive."""
    iou = train.crowding.largest_iou_same_class
    if iou is None or train.boxes < MIN_BOXES:
        return None
    lost = {each.threshold: each.share for each in train.crowding.suppressed}
    fitting = [t for t, part in lost.items() if t >= IOU_THRESHOLD and part <= SUPPRESSED]
    value = fitting[0] if fitting else max(lost)
    text = (
        f"p95 of the largest IoU of a box with one of its class is {iou.p95:.2f}; NMS at "
        f"{IOU_THRESHOLD:g} would drop {percent(lost[IOU_THRESHOLD])} of the true boxes"
    )
    if not fitting:
        text += f", at {value:g} still {percent(lost[value])}: a head without NMS (one_to_one)"
    return Advice(
        "nms.threshold", value, text, iou.p95, f"limit of {percent(SUPPRESSED)} {CALIBRATE}"
    )


def advise_box_slots(train: SplitStatistics) -> Advice | None:
    """Room for the boxes of one image of a batch, which mosaic makes of four."""
    count = train.boxes_per_image
    if count is None or train.boxes < MIN_BOXES or train.images < MIN_IMAGES:
        return None
    most = int(count.max)
    slots = _up(most, SLOT_STEP)
    text = (
        f"boxes per image: median {count.p50:.0f}, p95 {count.p95:.0f}, p99 {count.p99:.0f}, "
        f"most {most}; with mosaic up to {_up(MOSAIC_IMAGES * most, SLOT_STEP)} slots"
    )
    return Advice("slots.boxes", slots, text, count.max, "no box may be lost; counted")


def advise_detection_slots(train: SplitStatistics) -> Advice | None:
    """More detections than usual where an image holds more objects."""
    count = train.boxes_per_image
    if count is None or train.images < MIN_IMAGES:
        return None
    if count.p99 <= COCO_DETECTIONS and count.max <= MAX_DETECTIONS:
        return None
    slots = max(MAX_DETECTIONS, _up(int(count.max), 100))
    text = (
        f"one image has {count.max:.0f} boxes and p99 is {count.p99:.0f}; {MAX_DETECTIONS} "
        f"detections are kept, and COCO's average precision counts the best {COCO_DETECTIONS}, so "
        "the recall of such images is limited"
    )
    return Advice("slots.detections", slots, text, count.max, "COCO evaluation, maxDets 100")


def advise_imbalance(train: SplitStatistics) -> Advice | None:
    """Draw images of rare classes more often, or weigh their loss where that cannot help."""
    ratio = train.imbalance_ratio
    if ratio is None or train.boxes < MIN_BOXES or ratio < IMBALANCE:
        return None
    present = [each for each in train.classes if each.boxes]
    rare = min(present, key=lambda each: (each.boxes, each.name))
    part = rare.images / train.images
    value = "loss" if part >= COMMON else "sampling"
    text = (
        f"{ratio:.0f} boxes of the most frequent class for one of {rare.name!r} "
        f"({rare.boxes} boxes), which {percent(part)} of the images show"
    )
    text += (
        ", so drawing images more often changes little: weigh the class in the loss"
        if value == "loss"
        else ": draw those images more often (repeat factor sampling)"
    )
    return Advice("imbalance", value, text, ratio, f"arXiv 1908.03195; limits {CALIBRATE}")


def advise_drop_path(train: SplitStatistics) -> Advice | None:
    """Drop whole branches of shortcuts where a network could learn the images by heart."""
    rate = next((rate for most, rate in DROP_PATH if train.images < most), None)
    if rate is None or train.boxes < MIN_BOXES or train.images < MIN_IMAGES:
        return None
    text = f"{train.images} training images with {train.boxes} boxes"
    source = f"arXiv 1603.09382; limits {CALIBRATE}"
    return Advice("backbone.drop_path", rate, text, float(train.images), source)


def advise_thin_objects(train: SplitStatistics, choices: Sequence[Resolution]) -> Advice | None:
    """Long, narrow boxes: a level can miss them between its points."""
    if train.thin is None or train.boxes < MIN_BOXES or train.thin < THIN_SHARE:
        return None
    text = f"{percent(train.thin)} of the boxes are more than four times as long as wide"
    if choices:
        missed = choices[0].at_stride(FINEST_USUAL).without_point
        text += (
            f"; at {choices[0].image_size} px {percent(missed)} have no point of stride 8 inside"
        )
    return Advice("thin_objects", "finer levels", text, train.thin, CALIBRATE)


def advise_brightness(train: SplitStatistics) -> Advice | None:
    """Dark or glaring images."""
    level = train.brightness
    if level is None or train.images - train.unread_images < MIN_IMAGES:
        return None
    if DARK <= level.p50 <= BRIGHT:
        return None
    what = "dark" if level.p50 < DARK else "bright"
    text = f"the median image has a mean grey level of {level.p50:.0f} of 255: vary the brightness"
    return Advice("brightness", what, text, level.p50, CALIBRATE)


def advise_contrast(train: SplitStatistics) -> Advice | None:
    """Images in which objects hardly stand out."""
    spread = train.contrast
    if spread is None or train.images - train.unread_images < MIN_IMAGES or spread.p50 >= FLAT:
        return None
    text = f"the grey levels of the median image have a standard deviation of {spread.p50:.0f}"
    return Advice("contrast", "low", f"{text}: vary the contrast", spread.p50, CALIBRATE)


def advise_blur(train: SplitStatistics) -> Advice | None:
    """Blurred images: little detail that a larger input could show. Dark ones are not meant."""
    level, spread = train.blur, train.contrast
    if level is None or spread is None or train.images - train.unread_images < MIN_IMAGES:
        return None
    if level.p50 >= BLURRED * spread.p50**2:
        return None
    text = (
        f"the variance of the Laplacian of the median image is {level.p50:.0f} at a contrast of "
        f"{spread.p50:.0f}: little fine detail for a larger input to show"
    )
    return Advice("blur", "blurred", text, level.p50, f"Pech-Pacheco 2000; limit {CALIBRATE}")


def advise_validation(statistics: Statistics) -> Advice | None:
    """A validation split whose objects differ in size scores something else than was trained."""
    train, val = statistics.train, statistics.val
    if val is None or min(train.boxes, val.boxes) < MIN_BOXES:
        return None
    shares = [(name, getattr(train, name), getattr(val, name)) for name in SIZES]
    name, here, there = max(shares, key=lambda each: abs(each[1] - each[2]))
    if abs(here - there) < SPLIT_DIFFERENCE:
        return None
    text = f"{name} objects are {percent(here)} of training and {percent(there)} of validation"
    return Advice("validation", "differs", text, abs(here - there), CALIBRATE)


def _own_size(train: SplitStatistics) -> int:
    """The longest side of the median image, in whole steps of input sizes."""
    assert train.longest_side is not None
    return _up(math.ceil(train.longest_side.p50), OWN_STEP)


def _within(train: SplitStatistics, choices: Sequence[Resolution]) -> list[Resolution]:
    """Inputs up to the images' own size, or to the next where their boxes ask for more cells."""
    assert train.longest_side is not None
    own = _own_size(train)
    within = [each for each in choices if each.image_size <= own]
    beyond = [each for each in choices if each.image_size > own]
    if not within or (within[-1].image_size < train.longest_side.p50 and not _covers(within[-1])):
        within += beyond[:1]
    return within


def _covers(here: Resolution) -> bool:
    return here.at_stride(FINEST_USUAL).covered_class_mean >= COVERED


def _shows(here: Resolution) -> bool:
    """Whether the boxes cover enough cells and keep their detail, as far as that is known."""
    lost = here.detail_lost
    return _covers(here) and (lost is None or lost.worst_class <= NEGLIGIBLE_LOSS)


def _small_share(here: Resolution) -> float:
    """Boxes that do not cover two cells at stride 8, each class weighed alike."""
    return 1 - here.at_stride(FINEST_USUAL).covered_class_mean


def _too_small(here: Resolution) -> str:
    return (
        f"at {here.image_size} px {percent(_small_share(here))} of the boxes"
        f"{_weighed(here.at_stride(FINEST_USUAL))} are under {FINEST_USUAL * MIN_CELLS} px, two "
        f"cells at stride {FINEST_USUAL}"
    )


def _loses(here: Resolution, what: str) -> str:
    """That scaling takes from the inside of boxes; nothing where no pixels were looked at."""
    lost = here.detail_lost
    if lost is None:
        return ""
    text = f"{what} {percent(lost.median)} of the detail inside the median box"
    if lost.worst_class != lost.median:
        text += f", {percent(lost.worst_class)} in the worst class"
    return text


def _weighed(level: AtStride) -> str:
    return "" if level.covered == level.covered_class_mean else ", each class weighed alike,"


def _up(number: int, step: int) -> int:
    return max(1, -(-number // step)) * step
