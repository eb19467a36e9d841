"""Made-up ground truth and detections."""

import numpy as np


def made_truth(random, *, images=20, classes=3, objects=5, crowds=False):
    """COCO ground truth of random boxes; ids are neither sorted nor from 0."""
    ids = random.permutation(np.arange(7, 7 + 3 * images, 3))
    annotations = []
    for number in ids.tolist():
        for _ in range(random.integers(0, objects + 1)):
            x, y = random.uniform(0, 300, 2)
            width, height = random.uniform(10, 160, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(random.integers(1, classes + 1)),
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "area": float(width * height),
                    "iscrowd": int(crowds and random.random() < 0.1),
                }
            )
    return {
        "images": [{"id": number, "width": 480, "height": 480} for number in ids.tolist()],
        # The last class has no object.
        "categories": [{"id": c, "name": f"class {c}"} for c in range(classes + 1, 0, -1)],
        "annotations": annotations,
    }


def made_rows(random, truth, *, skill=0.8, jitter=6.0, per_image=4, coarse=False):
    """Detections: most objects with some error, some of them twice, and boxes out of nowhere."""
    rows = []
    for record in truth["annotations"]:
        for _ in range(random.choice(3, p=[1 - skill, 0.8 * skill, 0.2 * skill])):
            box = np.array(record["bbox"]) + random.normal(0, jitter, 4)
            box[2:] = np.maximum(box[2:], 1)
            rows.append([record["image_id"], *box, random.beta(4, 2), record["category_id"]])
    for image in truth["images"]:
        for _ in range(random.poisson(per_image)):
            box = [*random.uniform(0, 300, 2), *random.uniform(10, 160, 2)]
            label = random.integers(1, len(truth["categories"]))
            rows.append([image["id"], *box, random.beta(2, 4), label])
    found = np.array(rows, np.float64).reshape(-1, 7)
    if coarse:
        found[:, 1:5] = 5 * np.round(found[:, 1:5] / 5)
        found[:, 3:5] = np.maximum(found[:, 3:5], 5)
        found[:, 5] = np.round(found[:, 5], 1)
    return found[random.permutation(len(found))]
