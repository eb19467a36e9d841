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
    import jax
    import jax.numpy as jnp

    from flaxyolo.nn.detector import detect, in_original

    images = pixels.images
    alone = jax.default_backend() == "cpu" and len(images) <= FEW
    batch_size = batch_size or (1 if alone else BATCH_SIZE)
    if len(images) != len(examples):
        raise ValueError(f"expected the pixels of {len(examples)} examples, got {len(images)}")
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        # One shape, so one compiled function: the last batch is filled up with black images.
        filler = np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)
        slots = detect(detector.spec, detector.fused, jnp.asarray(np.concatenate([batch, filler])))
        shapes = [(one.height, one.width) for one in examples[start : start + batch_size]]
        yield from in_original(slots, shapes, batch.shape[1])


def shown(value: float | None) -> str:
    """A score as a person reads it."""
    return "n/a" if value is None else f"{value:.4f}"
