"""Photographs for exported models."""

import numpy as np
from sklearn.datasets import load_sample_images

from flaxyolo.base.boxes import letterbox_image


def photographs(size):
    """Two photographs as they are, and letterboxed, both uint8."""
    originals = [np.ascontiguousarray(image) for image in load_sample_images().images]
    return originals, np.stack([letterbox_image(image, size) for image in originals])
