"""A detector and a data set small enough to train in a test."""

import numpy as np

from flaxyolo.data.cache import Pixels
from flaxyolo.data.feeds import Resident
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec


def tiny_spec(**changes) -> DetectorSpec:
    """Three stages and two levels at 64 px, three classes."""
    stages = tuple(StageSpec(block="plain", width=w, depth=1) for w in (8, 16, 16))
    fields = {
        "backbone": BackboneSpec(stem_width=8, stages=stages),
        "neck": NeckSpec(kind="fpn", levels=(3, 4), block="plain"),
        "head": HeadSpec(depth=1, reg_max=8, box_width=16, class_width=16),
        "num_classes": 3,
        "image_size": 64,
    }
    return DetectorSpec(**(fields | changes))


def tiny_pixels(count: int = 12, size: int = 64, seed: int = 0) -> Pixels:
    """Grey noise with one or two bright rectangles an image, coloured by class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 130, (count, size, size, 3), dtype=np.uint8)
    boxes, labels = np.zeros((count, 2, 4), np.float32), np.zeros((count, 2), np.int32)
    valid = np.zeros((count, 2), bool)
    for i in range(count):
        for slot in range(1 + i % 2):
            width, height = rng.integers(12, 28, 2)
            left, top = rng.integers(0, size - width), rng.integers(0, size - height)
            label = int(rng.integers(3))
            images[i, top : top + height, left : left + width] = 40
            images[i, top : top + height, left : left + width, label] = 220
            boxes[i, slot] = left, top, left + width, top + height
            labels[i, slot], valid[i, slot] = label, True
    content = np.tile(np.array([0, 0, size, size], np.float32), (count, 1))
    return Pixels(images, boxes, labels, valid, content)


def tiny_feed(count: int = 12) -> Resident:
    """`tiny_pixels` on the device."""
    return Resident(tiny_pixels(count))
