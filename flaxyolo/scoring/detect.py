"""A detector run over a split, and its score."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.average_precision import Scores, coco_scores
from flaxyolo.scoring.truth import ground_truth

if TYPE_CHECKING:
    # Only for types: scoring a result file must not wait for JAX and the network to be imported.
    import flaxyolo.data.cache
    import flaxyolo.data.sources
    import flaxyolo.nn.detector


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
    return coco_scores(ground_truth(examples, class_names, category_ids), found)


def run_detector(
    detector: "flaxyolo.nn.detector.TrainedDetector",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    pixels: "flaxyolo.data.cache.Pixels",
    *,
    batch_size: int | None = None,
) -> Detections:
    """All detections in the examples, from the confidence floor on, in original pixels.

    So many images run together as suits the platform and their number, unless `batch_size` says.
    """
    return Detections.joined(list(detect_each(detector, examples, pixels, batch_size)))


def detect_each(
    detector: "flaxyolo.nn.detector.TrainedDetector",
    examples: "Sequence[flaxyolo.data.sources.Example]",
    pixels: "flaxyolo.data.cache.Pixels",
    batch_size: int | None = None,
) -> Iterator[Detections]:
    """The detections of one example after the other, as `run_detector` joins them."""
    from flaxyolo.nn.detector import batch_size_for, detect_batches

    images = pixels.images
    if len(images) != len(examples):
        raise ValueError(f"expected the pixels of {len(examples)} examples, got {len(images)}")
    size = batch_size or batch_size_for(len(images))
    batches = (
        (
            np.asarray(images[start : start + size]),
            [(one.height, one.width) for one in examples[start : start + size]],
        )
        for start in range(0, len(images), size)
    )
    yield from detect_batches(detector, batches, size)


def shown(value: float | None) -> str:
    """A score as a person reads it."""
    return "n/a" if value is None else f"{value:.4f}"
