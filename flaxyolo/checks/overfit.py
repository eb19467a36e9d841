"""The check that says most: a few images of the data can be learnt by heart.

It stops what a fault in the program gives, and not what hard data give. On sound data (blood
cells, nuclei, digits, painted scenes of 80 classes) the judged boxes reach an AP50 above 0.5, each
with its own class; boxes that are learnt wrong stay below 0.25, and with shifted classes fewer than
a third get their own. benchmarks/preflight_sound.py measures both sides.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from flaxyolo.base.detections import Detections
from flaxyolo.checks.check import Check
from flaxyolo.checks.choice import areas, choose_images, ease, judged
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
from flaxyolo.scoring.confusion import MIN_SCORE, confusion_matrix
from flaxyolo.scoring.matches import case_of
from flaxyolo.scoring.truth import GroundTruth, ground_truth
from flaxyolo.training.plan import Plan

log = logging.getLogger(__name__)

ENOUGH = 0.9
"""AP50 that shows that the images are learnt."""
PARTLY = 0.5
"""AP50 that no fault leaves; below it more steps are taken, while they gain."""
FOUND = 0.3
"""AP50 without classes below which the boxes are learnt wrong, or not at all."""
OWN = 1 / 3
"""Share of the found boxes with their own class below which classes are learnt wrong."""
TAKEN = 3
"""Found boxes of a class from which it counts that none has its own class."""
MOST_STEPS = 3 * PROBE_STEPS
SCORE_EVERY = 15
"""Steps between two looks."""
GAIN_LOOKS = 5
"""Looks within which something must have been gained."""
GAIN = 0.02
"""Least gain of an AP50, and least share of the loss, that counts."""
LOG_S = 5.0
MOST_NAMES = 5


class Labelled(NamedTuple):
    """What is annotated in one image of the batch; xyxy in pixels of the network's input."""

    boxes: Float32[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    judged: Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Learnt:
    """How well the judged boxes are learnt."""

    score: float
    """AP50 over classes, each weighted by its judged boxes."""
    alone: float
    """AP50 where all classes count as one."""
    highest: float
    """Score of all detections."""
    per_class: dict[int, tuple[int, float]]
    """Judged boxes and AP50 of each class that has any."""
    confusion: Int[np.ndarray, "k k"]
    """Judged boxes that are found, by their class and by the class that they are taken for."""

    @property
    def own(self) -> float:
        """Share of the found boxes with their own class; 1 where none is found."""
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    @property
    def exchanged(self) -> tuple[int, int] | None:
        """A class never found as itself, and the one it is taken for, which is not found either.

        A network that has not learnt a class yet takes it for one that it has.
        """
        for label in np.flatnonzero(self.confusion.sum(1) >= TAKEN):
            other = int(self.confusion[label].argmax())
            if self.confusion[label, label] == 0 and self.confusion[other, other] == 0:
                return int(label), other
        return None

    @property
    def is_enough(self) -> bool:
        """Whether the images are learnt."""
        return self.score > ENOUGH and self.exchanged is None

    @property
    def is_sound(self) -> bool:
        """Whether no fault gives this, though not all may be learnt."""
        return self.score > PARTLY and self.exchanged is None


def check_overfit(
    pixels: Pixels, plan: Plan, programs: Programs, class_names: Sequence[str]
) -> Check:
    """A batch of a few images is learnt by heart: AP50 above ENOUGH within PROBE_STEPS steps.

    Without augmentation, at a constant rate, judged with the batch's own statistics by the boxes
    that are not too small and not under others. With less it passes all the same, and says what
    is not learnt, unless it is what a fault gives and more steps gain nothing.
    """
    size, stride = plan.spec.image_size, plan.spec.strides[0]
    rows = choose_images(pixels, size, stride)
    batch = batch_of(pixels, rows, plan.slots)
    images = labelled(batch, stride)
    boxes = sum(len(image.boxes) for image in images)
    count = sum(int(image.judged.sum()) for image in images)
    if not count:
        return Check(
            "overfit",
            True,
            f"not judged: none of the {boxes} boxes of {PROBED} images can be told apart at "
            f"{size} px with a finest stride of {stride}; a higher image size or another level "
            "would show them",
        )
    probe = fresh_probe(plan)
    first = total = 0.0
    seen: list[tuple[Learnt, float]] = []
    began = reported = time.monotonic()
    done = 0
    for done in range(1, MOST_STEPS + 1):
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
        learnt = judge(images, found, class_names, size)
        seen.append((learnt, total))
        if learnt.is_enough or (done >= PROBE_STEPS and (learnt.is_sound or not gains(seen))):
            break
        now = time.monotonic()
        if now - reported >= LOG_S:
            reported = now
            limit = PROBE_STEPS if done < PROBE_STEPS else MOST_STEPS
            log.info(
                "overfit: step %d of at most %d, AP50 %.3f, loss %.3g, at most %.0f s left",
                done, limit, learnt.score, total, (now - began) / done * (limit - done),
            )  # fmt: skip
    learnt, _ = seen[-1]
    measured = (
        f"AP50 {learnt.score:.3f} after {done} steps on {PROBED} images, by {count} of "
        f"{boxes} boxes ({by_class(learnt, class_names)}), loss {first:.3g} to {total:.3g}; "
        f"Adam at {PROBE_RATE:g}, batch statistics{left_out(pixels, learnt, class_names)}"
    )
    if learnt.is_enough:
        return Check("overfit", True, measured)
    measured = f"{measured}; AP50 without classes {learnt.alone:.3f}"
    cause = likely_fault(learnt, class_names, total / first)
    if cause is None:
        return Check("overfit", True, f"{measured}; learnt in part, and nothing that a fault gives")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(probe.params))
    return Check("overfit", False, f"{measured}, {parameters:,} parameters", cause)


def gains(seen: Sequence[tuple[Learnt, float]]) -> bool:
    """Whether the last GAIN_LOOKS looks have raised an AP50 or lowered the loss."""
    before, lately = seen[:-GAIN_LOOKS], seen[-GAIN_LOOKS:]
    if not before:
        return True
    return (
        max(learnt.score for learnt, _ in lately) > max(learnt.score for learnt, _ in before) + GAIN
        or max(learnt.alone for learnt, _ in lately)
        > max(learnt.alone for learnt, _ in before) + GAIN
        or min(loss for _, loss in lately) < (1 - GAIN) * min(loss for _, loss in before)
    )


def likely_fault(learnt: Learnt, class_names: Sequence[str], left: float) -> str | None:
    """The fault that leaves this, with so much of the first loss; None where none does."""
    if learnt.alone < FOUND:
        if left > 0.7:
            return "nothing is learnt: no gradient reaches the network, or the loss has no target"
        if learnt.highest < MIN_SCORE:
            return (
                f"no score is above {learnt.highest:.2f}, nothing is told from the background: "
                "class_gain is 0, or the classes have no targets"
            )
        return (
            "the loss falls and the boxes are wrong: decoding, assignment or box format; or the "
            "network is too small for this"
        )
    shifted = "boxes are learnt and classes are not: class ids are shifted"
    if learnt.own < OWN:
        return shifted
    if learnt.exchanged is not None:
        label, other = (class_names[index] for index in learnt.exchanged)
        return f"{shifted}; no {label} is found as such, they are taken for {other}"
    return None


def by_class(learnt: Learnt, class_names: Sequence[str]) -> str:
    """AP50 and judged boxes of the most frequent classes."""
    order = sorted(learnt.per_class, key=lambda label: -learnt.per_class[label][0])
    told = [
        f"{class_names[label]} {learnt.per_class[label][1]:.2f} of {learnt.per_class[label][0]}"
        for label in order[:MOST_NAMES]
    ]
    return ", ".join(told) + (f", {len(order) - MOST_NAMES} more" if order[MOST_NAMES:] else "")


def left_out(pixels: Pixels, learnt: Learnt, class_names: Sequence[str]) -> str:
    """The classes of the data that no judged box has, for a line of a check."""
    labels = np.unique(np.asarray(pixels.labels)[np.asarray(pixels.valid)]).tolist()
    names = [str(class_names[label]) for label in labels if label not in learnt.per_class]
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else ""
    return f"; not judged: {', '.join(names[:MOST_NAMES])}{more}"


def detected(slots: Slots) -> Detections:
    """The detections of all images, in pixels of the network's input."""
    boxes, scores, labels, valid = map(np.asarray, slots)
    image, _ = np.nonzero(valid)
    return Detections.from_corners(boxes[valid], scores[valid], labels[valid], image)


def labelled(batch: Batch, stride: int) -> list[Labelled]:
    """What is annotated in a batch, with the boxes it is judged by; `stride` is the finest."""
    size = batch.images.shape[1]
    valid = np.asarray(batch.valid)
    pairs = [
        (boxes[own], labels[own])
        for boxes, labels, own in zip(
            np.asarray(batch.boxes), np.asarray(batch.labels), valid, strict=True
        )
    ]
    chosen = judged([ease(*pair, size, stride) for pair in pairs])
    return [Labelled(*pair, mask) for pair, mask in zip(pairs, chosen, strict=True)]


def judge(
    images: Sequence[Labelled], found: Detections, class_names: Sequence[str], size: int
) -> Learnt:
    """How well detections of a batch give its judged boxes; the others are neither good nor bad."""
    truth = truth_of(images, class_names, size)
    scores = coco_scores(truth, found)
    counts = np.bincount(truth.labels[~truth.crowd], minlength=len(class_names))
    per_class = {
        label: (int(counts[label]), one.map_50 or 0.0)
        for label, one in enumerate(scores.per_class)
        if counts[label]
    }
    single = [image._replace(labels=np.zeros_like(image.labels)) for image in images]
    alone = coco_scores(
        truth_of(single, ("object",), size), replace(found, labels=np.zeros_like(found.labels))
    )
    confusion = confusion_matrix(case_of(truth, found), min_score=0.0).matrix[:-1, :-1]
    weighted = sum(count * score for count, score in per_class.values())
    return Learnt(
        score=float(weighted / counts.sum()),
        alone=alone.map_50 or 0.0,
        highest=float(found.scores.max(initial=0)),
        per_class=per_class,
        confusion=confusion,
    )


def truth_of(images: Sequence[Labelled], class_names: Sequence[str], size: int) -> GroundTruth:
    """What detections are held against; boxes that are not judged are crowds."""
    examples = [
        Example(
            image_id=number,
            image=np.zeros((1, 1, 3), np.uint8),
            height=size,
            width=size,
            boxes=image.boxes,
            labels=image.labels,
            areas=areas(image.boxes),
            crowd=~image.judged,
        )
        for number, image in enumerate(images)
    ]
    return ground_truth(examples, tuple(class_names), tuple(range(len(class_names))))
