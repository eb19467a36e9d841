"""Small detectors that have learnt their pictures."""

from dataclasses import replace
from functools import lru_cache

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.training.loop import train
from tests.small import tiny_feed, tiny_pixels, tiny_spec

NAMES = ("nut", "hex bolt", "washer")
NONE = Augmentation(mosaic=0, hue=0, saturation=0, value=0, flip=0, translate=0, scale=0)
IMAGES = tiny_pixels().images
"""Of the detectors' own size, so that no two ways of resizing differ."""


@lru_cache(maxsize=2)
def learnt(one_to_one=False):
    """A detector of three classes at 64 px, sure of what it finds in `IMAGES`."""
    spec = tiny_spec()
    spec = replace(spec, head=replace(spec.head, one_to_one=one_to_one))
    config = TrainConfig(
        epochs=100, batch_size=4, learning_rate=0.01, ema_decay=0.9, augmentation=NONE
    )
    *_, last = train(spec, tiny_feed(), NAMES, config)
    return last.detector
