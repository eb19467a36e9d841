"""The check that says most: a few images of the data can be learnt by heart."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from flaxyolo.base.boxes import anchor_points
from flaxyolo.base.detections import Detections
from flaxyolo.checks.check import Check
from flaxyolo.checks.probe import (
    PROBE_RATE,
    PROBE_STEPS,
    PROBED,
    Programs,
    batch_of,
    fresh_probe,
)
from flaxyolo.data.batches import Batch
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Example
from flaxyolo.nn.detector import Slots
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.truth import ground_truth
from flaxyolo.training.plan import Plan

log = logging.getLogger(__name__)

ENOUGH = 0.9
"""AP50 that shows that the images are learnt."""
SCORE_EVERY = 15
"""Steps between two looks."""
LOG_S = 5.0
CROWDED = 0.6
"""Overlap of two boxes of a class from which suppression may take one for the other."""
EASY_CELLS = 2
"""Cells of the finest stride that the shorter side of an easy box covers."""
COVERED = 0.3
"""Share of a box under another one from which the other may be given all its anchor points."""
COCO_SIDES = (32, 96)
"""Sides in pixels that part small, medium and large."""


class Fitness(NamedTuple):
    """How well each image suits to be learnt by heart."""

    boxes: Int[np.ndarray, " n"]
    hopeless: Int[np.ndarray, " n"]
    """Boxes that no anchor point lies in, or that suppression would take for another."""
    hard: Int[np.ndarray, " n"]
    """These, boxes of so few cells that a pixel decides whether they are found, and boxes that
    others lie on."""
    kinds: list[set[tuple[str, int]]]
    """Sizes and classes of the others."""


def fitness(pixels: Pixels, image_size: int, strides: Sequence[int]) -> Fitness:
    """How well each image suits."""
    points, steps = anchor_points(image_size, tuple(strides))
    finest = points[steps == steps[0]]
    xs, ys = np.unique(finest[:, 0]), np.unique(finest[:, 1])
    counts, hopeless, hard, kinds = [], [], [], []
    for boxes, labels, valid in zip(pixels.boxes, pixels.labels, pixels.valid, strict=True):
        boxes, labels = boxes[valid], labels[valid]
        missed = ~(
            holds_point(boxes[:, 0], boxes[:, 2], xs) & holds_point(boxes[:, 1], boxes[:, 3], ys)
        )
        lost = missed | crowded(boxes, labels)
        contested = covered(boxes)
        shorter = (boxes[:, 2:] - boxes[:, :2]).min(1)
        side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
        sizes = np.searchsorted(COCO_SIDES, side, side="right")
        counts.append(len(boxes))
        hopeless.append(int(lost.sum()))
        hard.append(int((lost | contested | (shorter < EASY_CELLS * steps[0])).sum()))
        kinds.append(
            {("size", int(size)) for size in sizes[~lost]}
            | {("class", int(label)) for label in labels[~lost]}
        )
    return Fitness(np.array(counts), np.array(hopeless), np.array(hard), kinds)


def holds_point(
    low: Float32[np.ndarray, " n"],
    high: Float32[np.ndarray, " n"],
    points: Float32[np.ndarray, " m"],
) -> Bool[np.ndarray, " n"]:
    """Whether one of the sorted points lies strictly between the two ends of each range."""
    return np.searchsorted(points, high, side="left") > np.searchsorted(points, low, side="right")


def crowded(
    boxes: Float32[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Boxes that overlap another of their class by more than CROWDED."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    overlap = shared / np.maximum(areas[:, None] + areas[None] - shared, 1e-6)
    np.fill_diagonal(overlap, 0)
    return ((overlap > CROWDED) & (labels[:, None] == labels[None])).any(1)


def covered(boxes: Float32[np.ndarray, "n 4"]) -> Bool[np.ndarray, " n"]:
    """Boxes of which another one, of whatever class, covers more than COVERED."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    np.fill_diagonal(shared, 0)
    return (shared > COVERED * (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None]).any(1)


def choose_images(pixels: Pixels, image_size: int, strides: Sequence[int]) -> list[int]:
    """PROBED images that can be learnt: no dense ones, with objects of each size that there is.

    One after the other, those with a new size first, and of these the one with the most new sizes
    and classes for its boxes. Images with boxes that are hard to learn, or that no network could
    learn, come last.
    """
    found = fitness(pixels, image_size, strides)
    filled = np.flatnonzero(found.boxes > 0).tolist()
    usual = max(float(np.median(found.boxes[filled])), 1.0)
    rows = [row for row in filled if found.hard[row] == 0 and found.boxes[row] <= 2 * usual]
    if len(rows) < PROBED:
        rows = sorted(filled, key=lambda row: (found.hopeless[row], found.hard[row]))
        rows = rows[: 4 * PROBED]
    chosen: list[int] = []
    seen: set[tuple[str, int]] = set()

    def merit(row: int) -> tuple[int, bool, float, int]:
        new = found.kinds[row] - seen
        sizes = any(kind == "size" for kind, _ in new)
        boxes = int(found.boxes[row])
        # Where there are too few images, each is taken as often as the others.
        return -chosen.count(row), sizes, len(new) / boxes, -boxes

    while len(chosen) < PROBED:
        chosen.append(max(rows, key=merit))
        seen |= found.kinds[chosen[-1]]
    return chosen


def check_overfit(
    pixels: Pixels, plan: Plan, programs: Programs, class_names: Sequence[str]
) -> Check:
    """A batch of a few images is learnt by heart: AP50 above ENOUGH within PROBE_STEPS steps.

    Without augmentation, at a constant rate, judged with the batch's own statistics.
    """
    rows = choose_images(pixels, plan.spec.image_size, plan.spec.strides)
    batch = batch_of(pixels, rows, plan.slots)
    boxes = int(np.asarray(batch.valid).sum())
    probe = fresh_probe(plan)
    first = total = reached = 0.0
    began = reported = time.monotonic()
    done = 0
    for done in range(1, PROBE_STEPS + 1):
        said = programs.gradients(probe.params, probe.stats, batch)
        probe = programs.learn(probe, said)
        if done % SCORE_EVERY and done > 1:
            continue
        total = sum(
            gain * float(term)
            for gain, term in zip(
                (plan.config.box_gain, plan.config.class_gain, plan.config.dfl_gain),
                said.terms,
                strict=True,
            )
        )
        if not np.isfinite(total):
            return Check(
                "overfit",
                False,
                f"the loss of {PROBED} images is not finite after {done} steps",
                "NaN in images or labels, or weights that grow without bound",
            )
        if done == 1:
            first = total
            continue
        found = detected(programs.look(probe.params, probe.stats, batch.images)[1])
        reached = average_precision(batch, found, class_names)
        if reached > ENOUGH:
            break
        now = time.monotonic()
        if now - reported >= LOG_S:
            reported = now
            left = (now - began) / done * (PROBE_STEPS - done)
            log.info(
                "overfit: step %d of at most %d, AP50 %.3f, loss %.3g, at most %.0f s left",
                done, PROBE_STEPS, reached, total, left,
            )  # fmt: skip
    measured = (
        f"AP50 {reached:.3f} after {done} steps on {PROBED} images ({boxes} boxes), loss "
        f"{first:.3g} to {total:.3g}; Adam at {PROBE_RATE:g}, batch statistics"
    )
    if reached > ENOUGH:
        return Check("overfit", True, measured)
    found = detected(programs.look(probe.params, probe.stats, batch.images)[1])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(probe.params))
    hopeless = fitness(pixels, plan.spec.image_size, plan.spec.strides).hopeless[rows].sum()
    alone = average_precision(batch, found, None)
    measured = f"{measured}, AP50 without classes {alone:.3f}"
    if alone > ENOUGH:
        cause = "boxes are learnt and classes are not: class ids are shifted, or class_gain is 0"
    elif hopeless > (1 - ENOUGH) * boxes:
        cause = (
            f"{hopeless} of the {boxes} boxes are too small for stride {plan.spec.strides[0]} at "
            f"{plan.spec.image_size} px, or cover each other: raise the image size or add a level"
        )
    elif total > 0.7 * first:
        cause = "nothing is learnt: no gradient reaches the network, or the loss has no target"
    else:
        cause = (
            "the loss falls and the boxes are wrong: decoding, assignment or box format; or the "
            f"network is too small for this ({parameters:,} parameters): --no-preflight"
        )
    return Check("overfit", False, measured, cause)


def detected(slots: Slots) -> Detections:
    """The detections of all images, in pixels of the network's input."""
    boxes, scores, labels, valid = map(np.asarray, slots)
    image, _ = np.nonzero(valid)
    return Detections.from_corners(boxes[valid], scores[valid], labels[valid], image)


def average_precision(batch: Batch, found: Detections, class_names: Sequence[str] | None) -> float:
    """AP50 of detections in a batch; without names all classes count as one."""
    examples = []
    for number, picture in enumerate(np.asarray(batch.images)):
        valid = np.asarray(batch.valid[number])
        boxes = np.asarray(batch.boxes[number])[valid]
        labels = np.asarray(batch.labels[number])[valid]
        example = Example(
            image_id=number,
            image=np.zeros((1, 1, 3), np.uint8),
            height=picture.shape[0],
            width=picture.shape[1],
            boxes=boxes,
            labels=labels if class_names else np.zeros_like(labels),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
            crowd=np.zeros(len(boxes), bool),
        )
        examples.append(example)
    names = tuple(class_names or ("object",))
    if not class_names:
        found = replace(found, labels=np.zeros_like(found.labels))
    truth = ground_truth(examples, names, tuple(range(len(names))))
    return coco_scores(truth, found).map_50 or 0.0
