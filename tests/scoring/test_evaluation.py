"""hotcoco against pycocotools, number by number."""

import numpy as np
import pytest

from flaxyolo.base.detections import Detections
from flaxyolo.scoring.evaluation import evaluated
from flaxyolo.scoring.truth import GroundTruth


def made_up(seed, images=12, classes=4, objects=60, found=400):
    """Crowds, equal scores, images and classes without objects, ids in no order, and at some seeds
    more detections of a class in an image than COCO counts."""
    rng = np.random.default_rng(seed)
    # The last image and the last class have no object.
    image = np.sort(rng.integers(images - 1, size=objects))
    sizes = np.exp(rng.uniform(1, 5.2, (objects, 2)))
    boxes = np.concatenate([rng.uniform(0, 300, (objects, 2)), sizes], 1).round(1)
    labels = rng.integers(classes - 1, size=objects)
    truth = GroundTruth(
        image_ids=tuple(rng.permutation(3 * images)[:images].tolist()),
        class_names=tuple(map(str, range(classes))),
        category_ids=tuple(rng.permutation(2 * classes)[:classes].tolist()),
        image=image,
        labels=labels,
        xywh=boxes,
        areas=boxes[:, 2:].prod(1) * rng.uniform(0.5, 1, objects),
        crowd=rng.random(objects) < 0.1,
    )
    of = rng.integers(objects, size=found)
    of = of[np.argsort(image[of], kind="stable")]
    near = boxes[of] + rng.normal(0, 3, (found, 4))
    near[:, 2:] = np.maximum(near[:, 2:], 1)
    right = rng.random(found) < 0.7
    guesses = np.where(right, labels[of], rng.integers(classes, size=found))
    return truth, Detections(near, rng.random(found).round(2), guesses, image[of])


@pytest.mark.parametrize("seed", range(12))
def test_hotcoco_is_pycocotools_to_the_bit(seed):
    truth, found = made_up(seed, found=(400, 6000, 40)[seed % 3])
    ours, reference = evaluated(truth, found), evaluated(truth, found, "pycocotools")
    assert np.array_equal(ours.stats, reference.stats)
    assert np.array_equal(ours.precision, reference.precision)
    assert 0 < reference.stats[0] < 1


def test_ids_that_are_text_sort_as_text():
    truth, found = made_up(0)
    named = GroundTruth(
        **{
            **vars(truth),
            "image_ids": tuple(f"{number}.jpg" for number in truth.image_ids),
            "category_ids": tuple("dcba"),
        }
    )
    ours, reference = evaluated(named, found), evaluated(named, found, "pycocotools")
    assert np.array_equal(ours.precision, reference.precision)


def test_nothing_is_printed(capsys):
    for scorer in ("hotcoco", "pycocotools"):
        evaluated(*made_up(0), scorer)
    assert capsys.readouterr() == ("", "")
