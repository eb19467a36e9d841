"""A detector run over a split, and its score."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from flaxyolo.scoring.average_precision import Scores, coco_scores, ground_truth, xyxy_to_xywh

if TYPE_CHECKING:
    # Only for types: scoring a result file must not wait for JAX and the network to be imported.
    import flaxyolo.data.cache
    import flaxyolo.data.sources
    import flaxyolo.nn.detector


BATCH_SIZE = 16
FEW = 500
"""Images up to which a CPU detects one at a time. That takes 1.2 to 1.9 times as long an image
(YOLOv8n at 320 and 128 px), but it is the program that `measure` has compiled: another takes 3 to
6 s more."""


def evaluate(
    detector: "flaxyolo.nn.detector.TrainedDetector",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    pixels: "flaxyolo.data.cache.Pixels",
    class_names: Sequence[str],
    category_ids: Sequence[int],
    *,
    batch_size: int | None = None,
) -> Scores:
    """Average precision of a detector in original pixels; `pixels` are the examples' own."""
    found = run_detector(detector, examples, pixels, batch_size=batch_size)
    return score(found, examples, class_names, category_ids)


def run_detector(
    detector: "flaxyolo.nn.detector.TrainedDetector",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    pixels: "flaxyolo.data.cache.Pixels",
    *,
    batch_size: int | None = None,
) -> "list[flaxyolo.nn.detector.Found]":
    """All detections of each example, from the confidence floor on, in original pixels.

    So many images run together as suits the platform and their number, unless `batch_size` says.
    """
    return list(_detect_each(detector, examples, pixels, batch_size))


def score(
    found: "Sequence[flaxyolo.nn.detector.Found]",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    class_names: Sequence[str],
    category_ids: Sequence[int],
) -> Scores:
    """Average precision of what `run_detector` found."""
    truth = ground_truth(examples, class_names, category_ids)
    return coco_scores(truth, detection_rows(found, examples, category_ids))


def detection_rows(
    found: "Sequence[flaxyolo.nn.detector.Found]",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    category_ids: Sequence[int],
) -> Float[np.ndarray, "n 7"]:
    """What `run_detector` found as rows (image id, x, y, width, height, score, category id)."""
    rows = [np.zeros((0, 7))]
    for example, (boxes, scores, labels) in zip(examples, found, strict=True):
        image_ids = np.full(len(boxes), example.image_id, np.float64)
        categories = np.asarray(category_ids, np.float64)[labels]
        columns = (image_ids[:, None], xyxy_to_xywh(boxes), scores[:, None], categories[:, None])
        rows.append(np.concatenate(columns, 1))
    return np.concatenate(rows)


def shown(value: float | None) -> str:
    """A score as a person reads it."""
    return "n/a" if value is None else f"{value:.4f}"


def _detect_each(
    detector: "flaxyolo.nn.detector.TrainedDetector",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    pixels: "flaxyolo.data.cache.Pixels",
    batch_size: int | None = None,
) -> "Iterator[flaxyolo.nn.detector.Found]":
    import jax
    import jax.numpy as jnp

    from flaxyolo.base.boxes import letterbox, unletterbox_boxes
    from flaxyolo.nn.detector import Found, detect

    images = pixels.images
    alone = jax.default_backend() == "cpu" and len(images) <= FEW
    batch_size = batch_size or (1 if alone else BATCH_SIZE)
    if len(images) != len(examples):
        raise ValueError(f"expected the pixels of {len(examples)} examples, got {len(images)}")
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        # One shape, so one compiled function: the last batch is filled up with black images.
        filler = np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)
        detections = detect(
            detector.spec, detector.fused, jnp.asarray(np.concatenate([batch, filler]))
        )
        boxes, scores, labels, valid = map(np.asarray, detections)
        for i, example in enumerate(examples[start : start + batch_size]):
            place = letterbox(example.height, example.width, batch.shape[1])
            original = unletterbox_boxes(boxes[i][valid[i]], place, example.height, example.width)
            yield Found(original, scores[i][valid[i]], labels[i][valid[i]])
