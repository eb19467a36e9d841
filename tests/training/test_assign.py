from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo.base.boxes import anchor_points
from flaxyolo.nn.platform import traced_for
from flaxyolo.training.assign import (
    AssignConfig,
    Assignment,
    Images,
    Objects,
    assign,
    ciou,
    in_chunks,
    one_by_one,
)
from tests.programs import equations

TAL = AssignConfig(topk=10, alpha=0.5, beta=6.0)
jitted_assign = jax.jit(assign, static_argnames="config")


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


def loop_assign(scores, boxes, points, objects, config):
    """Arrays of one image, one object and one point at a time."""
    gt_boxes, gt_labels, gt_valid = objects
    claims = {}
    for row in np.flatnonzero(gt_valid):
        x1, y1, x2, y2 = gt_boxes[row]
        inside = []
        for a, (x, y) in enumerate(points):
            if min(x - x1, y - y1, x2 - x, y2 - y) > 1e-9:
                overlap = max(0.0, loop_ciou(gt_boxes[row], boxes[a]))
                alignment = float(scores[a, gt_labels[row]]) ** config.alpha * overlap**config.beta
                inside.append((alignment, overlap, a))
        inside.sort(key=lambda entry: (-entry[0], entry[2]))
        for alignment, overlap, a in inside[: config.topk]:
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
        "objects": Objects(
            gt_boxes,
            rng.integers(0, classes, (images, slots)).astype(np.int32),
            rng.random((images, slots)) < 0.7,
        ),
    }


def of_image(case, index):
    """The arrays of one image; the points are those of all."""
    return jax.tree.map(lambda value: value[index], case) | {"points": case["points"]}


@pytest.mark.parametrize("seed", [0, 1])
def test_assign_equals_a_loop_over_objects_and_points(seed):
    case = random_case(seed)
    got = jitted_assign(**case, config=TAL)
    assert got.positive.sum() > 50
    for image in range(3):
        expected = loop_assign(**of_image(case, image), config=TAL)
        np.testing.assert_array_equal(got.positive[image], expected.positive)
        np.testing.assert_array_equal(got.boxes[image], expected.boxes)
        np.testing.assert_allclose(got.scores[image], expected.scores, rtol=2e-4, atol=1e-6)


def one_image(boxes, gt_boxes, points, scores=None, labels=None, valid=None, classes=2):
    """A case of one image from plain lists; scores 0.25 (square root one half) by default."""
    boxes, gt_boxes = np.array([boxes], np.float32), np.array([gt_boxes], np.float32)
    slots = gt_boxes.shape[1]
    return {
        "scores": np.full((*boxes.shape[:2], classes), 0.25, np.float32)
        if scores is None
        else np.array([scores], np.float32),
        "boxes": boxes,
        "points": np.array(points, np.float32),
        "objects": Objects(
            gt_boxes,
            np.array([labels or [0] * slots], np.int32),
            np.array([valid or [True] * slots]),
        ),
    }


def test_the_best_point_gets_the_objects_largest_overlap_as_its_score():
    boxes = [[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 10, 10]]
    scores = [[0.25, 0], [0.25, 0], [0.01, 0]]
    case = one_image(boxes, [[0, 0, 10, 10]], [[4, 4], [5, 5], [6, 6]], scores=scores)
    got = jitted_assign(**case, config=TAL)
    half = loop_ciou([0, 0, 10, 10], [0, 0, 5, 10])
    # Alignments 0.5 * 1, 0.5 * half^6, 0.1 * 1, by the largest, times the largest overlap, 1.
    np.testing.assert_allclose(got.scores[0, :, 0], [1, half**6, 0.2], rtol=1e-4)
    np.testing.assert_array_equal(got.scores[0, :, 1], 0)
    assert got.positive.all()


def test_points_on_the_border_or_outside_are_never_chosen():
    box = [0, 0, 10, 10]
    points = [[0, 5], [10, 5], [5, 10], [11, 5], [9.9, 0.1]]
    got = jitted_assign(**one_image([box] * 5, [box], points), config=TAL)
    np.testing.assert_array_equal(got.positive[0], [False, False, False, False, True])


def test_an_object_chooses_at_most_topk_points_and_the_first_of_equals():
    box = [0, 0, 10, 10]
    points = [[x + 0.5, 5] for x in range(8)]
    got = jitted_assign(**one_image([box] * 8, [box], points), config=replace(TAL, topk=3))
    np.testing.assert_array_equal(np.flatnonzero(got.positive[0]), [0, 1, 2])


def test_a_contested_point_goes_to_the_object_it_overlaps_most():
    small, large = [2, 2, 8, 8], [0, 0, 10, 10]
    for objects in ([small, large], [large, small]):
        case = one_image([[2, 2, 8, 9]], objects, [[5, 5]], labels=[0, 1])
        got = jitted_assign(**case, config=TAL)
        np.testing.assert_array_equal(got.boxes[0, 0], small)
        label = objects.index(small)
        assert got.scores[0, 0, label] > 0.8
        assert got.scores[0, 0, 1 - label] == 0


def test_of_two_equal_objects_one_gets_the_point():
    box = [0, 0, 10, 10]
    got = jitted_assign(**one_image([box], [box, box], [[5, 5]], labels=[1, 0]), config=TAL)
    np.testing.assert_allclose(got.scores[0, 0], [0, 1], rtol=1e-6)


def test_an_object_with_no_point_inside_and_a_padded_one_get_nothing():
    case = one_image(
        [[0, 0, 10, 10]], [[5, 5, 6, 6], [0, 0, 10, 10]], [[4, 4]], valid=[True, False]
    )
    got = jitted_assign(**case, config=TAL)
    assert not got.positive.any()
    assert not got.scores.any()
    assert not got.boxes.any()


def test_faint_alignments_keep_their_score():
    # 0.02^6 is 6e-11: with an epsilon of 1e-9 in the division the score would all but vanish.
    gt, box = [0, 0, 2, 2], [-6, -6, 8, 8]
    overlap = loop_ciou(gt, box)
    assert 0.01 < overlap < 0.03
    got = jitted_assign(**one_image([box], [gt], [[1, 1]]), config=TAL)
    np.testing.assert_allclose(got.scores[0, 0, 0], overlap, rtol=1e-4)


def test_crowded_images_and_boxes_without_area_stay_finite():
    case = random_case(3, images=2, slots=400, size=96)
    case["boxes"][:, ::3, 2:] = case["boxes"][:, ::3, :2]
    case["objects"].boxes[:, ::5, 2:] = case["objects"].boxes[:, ::5, :2] + 1
    case["objects"].valid[1] = False
    got = jitted_assign(**case, config=TAL)
    assert np.isfinite(got.scores).all()
    assert (got.scores >= 0).all()
    assert (got.scores <= 1).all()
    assert not got.positive[1].any()


def test_an_image_is_assigned_the_same_alone_as_in_a_batch():
    case = random_case(4)
    alone = of_image(case, slice(1, 2))
    together, single = jitted_assign(**case, config=TAL), jitted_assign(**alone, config=TAL)
    for whole, part in zip(together, single, strict=True):
        np.testing.assert_array_equal(whole[1], part[0])


def test_the_assignment_has_no_gradient():
    case = random_case(5, images=1)

    def total(scores, boxes):
        got = jitted_assign(**{**case, "scores": scores, "boxes": boxes}, config=TAL)
        return got.scores.sum() + got.boxes.sum()

    gradients = jax.grad(total, (0, 1))(jnp.array(case["scores"]), jnp.array(case["boxes"]))
    assert all(not gradient.any() for gradient in gradients)


def test_other_exponents_are_powers_too():
    case = random_case(6, images=1)
    other = AssignConfig(topk=5, alpha=1.0, beta=2.5)
    got = jitted_assign(**case, config=other)
    expected = loop_assign(**of_image(case, 0), config=other)
    np.testing.assert_allclose(got.scores[0], expected.scores, rtol=2e-4, atol=1e-6)


def test_ciou_equals_the_formula_on_pairs():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (2, 40, 2))
    a, b = np.concatenate([low, low + rng.uniform(0.5, 40, (2, 40, 2))], -1).astype(np.float32)
    expected = [loop_ciou(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(ciou(jnp.array(a), jnp.array(b)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        ciou(jnp.array(a)[:, None], jnp.array(b)[None])[3, 7], loop_ciou(a[3], b[7]), rtol=1e-4
    )


def in_forms(images):
    """The points and the rest of a random case, as the two forms take them."""
    case = random_case(7, images=images)
    return jnp.array(case["points"]), Images(case["scores"], case["boxes"], *case["objects"])


@pytest.mark.parametrize(("images", "most"), [(3, 2**25), (5, 2 * 12 * 336)])
def test_chunks_of_images_are_assigned_as_one_by_one(images, most):
    points, given = in_forms(images)
    owner, score = jax.jit(lambda given: one_by_one(points, given, TAL))(given)
    other, other_score = jax.jit(lambda given: in_chunks(points, given, TAL, most))(given)
    assert owner.shape == other.shape == (images, 336)
    assert (owner >= 0).sum() > 50
    np.testing.assert_array_equal(owner, other)
    np.testing.assert_allclose(score, other_score, rtol=1e-5)


def test_a_chunk_holds_no_more_pairs_than_are_allowed():
    points, given = in_forms(5)

    def pairs(most):
        """The most rows that one choice of the best points has, times the points."""
        program = jax.make_jaxpr(lambda given: in_chunks(points, given, TAL, most))(given)
        chosen = list(equations(program.jaxpr, "top_k"))
        return max(equation.invars[0].aval.shape[0] for equation in chosen) * len(points)

    assert pairs(2**25) == 5 * 12 * 336
    for images in (1, 2, 3):
        assert pairs(images * 12 * 336) <= images * 12 * 336
    # One image is never parted.
    assert pairs(1) == 12 * 336


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_an_accelerator_assigns_without_a_loop(platform, loops):
    case = random_case(0)
    points = jnp.array(case.pop("points"))
    with traced_for(platform):
        program = jax.make_jaxpr(lambda case: assign(points=points, **case, config=TAL))(case)
    assert len(list(equations(program.jaxpr, "scan"))) == loops
