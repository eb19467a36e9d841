"""Three examples, and a detector that finds exactly what is in them."""

import jax.numpy as jnp
import numpy as np

from flaxyolo.base.boxes import letterbox, letterbox_boxes
from flaxyolo.data.cache import Pixels
from flaxyolo.data.sources import Example
from flaxyolo.nn.detector import Slots, TrainedDetector, initial_weights
from flaxyolo.spec import BackboneSpec, DetectorSpec, StageSpec

SIZE = 64
SLOTS = 5
NAMES, CATEGORY_IDS = ("cat", "dog"), (3, 17)


def example(image_id, height, width, boxes, labels, crowd=()):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Example(
        image_id=image_id,
        image=np.zeros((height, width, 3), np.uint8),
        height=height,
        width=width,
        boxes=boxes,
        labels=np.array(labels, np.int32),
        areas=np.prod(boxes[:, 2:] - boxes[:, :2], 1),
        crowd=np.array([i in crowd for i in range(len(boxes))], bool),
    )


# Wide, tall and square, one without objects; three images, so that a batch of 2 is not full.
EXAMPLES = (
    example(42, 100, 240, [(10, 20, 150, 90), (200, 5, 239, 25)], [0, 1]),
    example(7, 333, 111, [(0, 0, 111, 333)], [1]),
    example(900, 50, 50, [], []),
)


def pixels_of(examples):
    """Images whose first pixel names them, so that a stand-in detector knows what it sees."""
    images = np.zeros((len(examples), SIZE, SIZE, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(len(examples)) + 1
    count = len(examples)
    return Pixels(
        images=images,
        boxes=np.zeros((count, 1, 4), np.float32),
        labels=np.zeros((count, 1), np.int32),
        valid=np.zeros((count, 1), bool),
        content=np.zeros((count, 4), np.float32),
    )


def perfect_detect(shapes):
    """A `detect` that finds exactly the objects, and notes the batch shapes that it saw."""

    def detect(spec, weights, images):
        shapes.append(images.shape)
        assert images.dtype == jnp.uint8
        count = len(images)
        boxes = np.zeros((count, SLOTS, 4), np.float32)
        scores, labels = np.zeros((count, SLOTS), np.float32), np.zeros((count, SLOTS), np.int32)
        valid = np.zeros((count, SLOTS), bool)
        for i, number in enumerate(np.asarray(images[:, 0, 0, 0])):
            if number == 0:  # the filler of the last batch: nonsense that nobody may use
                valid[i], scores[i] = True, 0.99
                continue
            truth = EXAMPLES[number - 1]
            place, n = letterbox(truth.height, truth.width, SIZE), len(truth.boxes)
            boxes[i, :n] = letterbox_boxes(truth.boxes, place)
            labels[i, :n], scores[i, :n], valid[i, :n] = truth.labels, 0.9, True
            # What is not valid must not count, whatever is in its slot.
            boxes[i, n:], scores[i, n:] = (0, 0, 9, 9), 0.99
        return Slots(*map(jnp.asarray, (boxes, scores, labels, valid)))

    return detect


def trained(class_names=NAMES):
    stages = tuple(StageSpec(block="c2f", width=8, depth=1) for _ in range(4))
    backbone = BackboneSpec(stem_width=8, stages=stages)
    spec = DetectorSpec(backbone, num_classes=len(class_names), image_size=SIZE)
    return TrainedDetector(spec, initial_weights(spec, 0), tuple(class_names))
