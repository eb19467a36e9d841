import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.assign import Assignment, assign, ciou
from flaxyolo.boxes import anchor_points

TAL = {"topk": 10, "alpha": 0.5, "beta": 6.0}
jitted_assign = jax.jit(assign, static_argnames=("topk", "alpha", "beta"))


def loop_ciou(a, b, eps=1e-7):
    """arXiv 1911.08287, one pair, in double precision."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(box[2] - box[0], box[3] - box[1]) for box in (a, b)]
    union = sum(w * h for w, h in sizes) - width * height
    iou = width * height / (union + eps)
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    rho2 = (centres[0][0] - centres[1][0]) ** 2 + (centres[0][1] - centres[1][1]) ** 2
    c2 = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    angles = [np.arctan(w / (h + eps)) for w, h in sizes]
    v = 4 / np.pi**2 * (angles[0] - angles[1]) ** 2
    return iou - rho2 / (c2 + eps) - v * v / (1 - iou + v + eps)


def loop_assign(scores, boxes, points, gt_boxes, gt_labels, gt_valid, *, topk, alpha, beta):
    """Arrays of one image, one object and one point at a time."""
    claims = {}
    for row in np.flatnonzero(gt_valid):
        x1, y1, x2, y2 = gt_boxes[row]
        inside = []
        for a, (x, y) in enumerate(points):
            if min(x - x1, y - y1, x2 - x, y2 - y) > 1e-9:
                overlap = max(0.0, loop_ciou(gt_boxes[row], boxes[a]))
                alignment = float(scores[a, gt_labels[row]]) ** alpha * overlap**beta
                inside.append((alignment, overlap, a))
        inside.sort(key=lambda entry: (-entry[0], entry[2]))
        for alignment, overlap, a in inside[:topk]:
            if a not in claims or overlap > claims[a][1]:
                claims[a] = (row, overlap, alignment)
    out_boxes, out_scores = np.zeros_like(boxes), np.zeros_like(scores)
    for row in range(len(gt_boxes)):
        mine = {a: claim for a, claim in claims.items() if claim[0] == row}
        top_overlap = max((claim[1] for claim in mine.values()), default=0)
        top_alignment = max((claim[2] for claim in mine.values()), default=0)
        for a, (_, _, alignment) in mine.items():
            out_boxes[a] = gt_boxes[row]
            if top_alignment > 0:
                out_scores[a, gt_labels[row]] = alignment / top_alignment * top_overlap
    positive = np.isin(np.arange(len(points)), list(claims))
    return Assignment(out_boxes, out_scores, positive)


def random_case(seed, *, images=3, slots=12, classes=4, size=128):
    rng = np.random.default_rng(seed)
    points, strides = anchor_points(size, (8, 16, 32))
    count = len(points)
    centre, side = (
        rng.uniform(10, size - 10, (images, slots, 2)),
        rng.uniform(2, 70, (images, slots, 2)),
    )
    gt_boxes = np.concatenate([centre - side / 2, centre + side / 2], -1).astype(np.float32)
    reach = rng.uniform(0.3, 4, (images, count, 4)) * strides[None, :, None]
    boxes = np.concatenate([points - reach[..., :2], points + reach[..., 2:]], -1)
    return {
        "scores": rng.uniform(0, 1, (images, count, classes)).astype(np.float32),
        "boxes": boxes.astype(np.float32),
        "points": points,
        "gt_boxes": gt_boxes,
        "gt_labels": rng.integers(0, classes, (images, slots)).astype(np.int32),
        "gt_valid": rng.random((images, slots)) < 0.7,
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_assign_equals_a_loop_over_objects_and_points(seed):
    case = random_case(seed)
    got = jitted_assign(**case, **TAL)
    assert got.positive.sum() > 50
    for image in range(3):
        one = {key: value if key == "points" else value[image] for key, value in case.items()}
        expected = loop_assign(**one, **TAL)
        np.testing.assert_array_equal(got.positive[image], expected.positive)
        np.testing.assert_array_equal(got.boxes[image], expected.boxes)
        np.testing.assert_allclose(got.scores[image], expected.scores, rtol=2e-4, atol=1e-6)
