"""Pictures wider than high with objects in plain sight, and what a run makes of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from flaxyolo.config import Augmentation, TrainConfig
from flaxyolo.data.cache import Pixels, load_pixels
from flaxyolo.data.sources import Dataset, Example

NAMES = ("red", "green", "blue")
SIZE = 64
CONFIG = TrainConfig(batch_size=4, augmentation=Augmentation(mosaic=0.5))


def scenes(
    count: int = 20, height: int = 96, width: int = 128, *, seed: int = 0, room: float = 1
) -> Dataset:
    """Dark noise with one to three rectangles an image, coloured by class; the last one empty.

    They lie in a `room` of it, from the upper left corner.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        image = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
        boxes, labels = [], []
        for _ in range(1 + number % 3 if number < count - 1 else 0):
            box = free_place(rng, boxes, int(height * room), int(width * room))
            if box is None:
                continue
            left, top, right, bottom = box
            label = int(rng.integers(3))
            image[top:bottom, left:right] = 40
            image[top:bottom, left:right, label] = 220
            boxes.append(box)
            labels.append(label)
        table = np.array(boxes, np.float32).reshape(-1, 4)
        example = Example(
            image_id=number + 1,
            image=image,
            height=height,
            width=width,
            boxes=table,
            labels=np.array(labels, np.int32),
            areas=(table[:, 2:] - table[:, :2]).prod(1),
            crowd=np.zeros(len(table), bool),
        )
        examples.append(example)
    return Dataset(
        name="scenes",
        train=tuple(examples),
        val=tuple(examples[:2]),
        class_names=NAMES,
        category_ids=(1, 2, 3),
        fingerprint="scenes",
        mirror=True,
    )


def free_place(rng, boxes, height, width):
    """A rectangle that touches none of the others; None if none is found."""
    for _ in range(50):
        w, h = (int(side) for side in rng.integers((20, 16), (56, 36)))
        left, top = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        box = left, top, left + w, top + h
        if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in boxes):
            return box
    return None


def with_boxes(dataset: Dataset, change) -> Dataset:
    """The same images with other boxes: `change(boxes)`."""
    train = tuple(replace(example, boxes=change(example.boxes)) for example in dataset.train)
    return replace(dataset, train=train)


def pixels_of(dataset: Dataset, folder: Path) -> Pixels:
    """What `train` loads, in a cache of its own."""
    return load_pixels(dataset, "train", SIZE, cache_dir=folder)
