"""COCO records, and detections as rows, as scoring takes them."""

import numpy as np

from flaxyolo.scoring.records import read_records


def judged(truth, found, **names):
    """Ground truth and detections of COCO annotations and of results: records, or an array whose
    rows are (image id, x, y, width, height, score, category id)."""
    if isinstance(found, np.ndarray):
        found = [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, *box, score, category in found.tolist()
        ]
    return read_records(truth, found, **names)
