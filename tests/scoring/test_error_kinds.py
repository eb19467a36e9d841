import json

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.scoring.average_precision import coco_scores
from flaxyolo.scoring.error_kinds import KINDS, error_kinds, find_errors
from flaxyolo.scoring.matches import case_of, match
from tests.scoring.judged import judged

WHOLE = (0, 0, 100, 100)
PART = (0, 0, 100, 40)
"""Overlaps WHOLE by 0.4."""
AWAY = (300, 300, 50, 50)
CAT, DOG = 1, 2

# What tidecv 1.0.1 gives for dets.json, in AP points; the same for both truths.
TIDE = {
    "classification": 22.2460397441685,
    "localisation": 0.22789102370710168,
    "both": 0.0,
    "duplicate": 0.018972971237033676,
    "background": 0.0,
    "missed": 8.523573787723365,
}
TIDE_COUNTS = {"classification": 83, "localisation": 1, "duplicate": 1, "missed": 97}
TIDE_AP, TIDE_FALSE_POSITIVES, TIDE_FALSE_NEGATIVES = (
    64.20498881733425,
    6.821587524510463,
    17.684978535217184,
)
# By size (small, medium, large), with the annotated areas.
TIDE_SIZES = {
    "gt_official": {
        "classification": (4.946682446916839, 7.77727962085585, 5.942121566470121),
        "missed": (3.942572865436105, 1.7734095554440188, 2.489187553925163),
    },
    "gt_boxarea_nocrowd": {
        "classification": (4.447075626929291, 5.178599410259366, 8.048326508109085),
        "missed": (2.7832953664787823, 1.8699104336019872, 3.416289545170045),
    },
}


def truth_of(*objects, classes=("cat", "dog")):
    """Two images; an object is (image, class, box) and may have a True for a crowd."""
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": label,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(bool(crowd)),
            }
            for i, (image, label, box, *crowd) in enumerate(objects)
        ],
    }


def rows_of(*found):
    """Detections (image, class, box, score) as rows."""
    rows = [(image, *box, score, label) for image, label, box, score in found]
    return np.array(rows, np.float64).reshape(-1, 7)


def errors_of(truth, found, **names):
    return error_kinds(*judged(truth, found, **names))


def counts(errors):
    return {name: kind.count for name, kind in errors.kinds.items() if kind.count}


@pytest.mark.parametrize("table", ["gt_official", "gt_boxarea_nocrowd"])
def test_the_costs_are_tidecvs(test_data, table):
    folder = test_data / "eval_coco100"
    truth = json.loads((folder / f"{table}.json").read_text())
    errors = errors_of(truth, json.loads((folder / "dets.json").read_text()))
    # 0.01 AP points. Where scores are equal, tidecv lets what is still wrong lead as soon as
    # anything is mended; here the order stays, which makes up to 0.004 points.
    close = {"rel": 0, "abs": 1e-4}
    assert errors.map_50 == pytest.approx(TIDE_AP / 100, rel=0, abs=1e-9)
    costs = {name: kind.cost for name, kind in errors.kinds.items()}
    assert costs == pytest.approx({name: cost / 100 for name, cost in TIDE.items()}, **close)
    assert errors.false_positives.cost == pytest.approx(TIDE_FALSE_POSITIVES / 100, **close)
    assert errors.false_negatives.cost == pytest.approx(TIDE_FALSE_NEGATIVES / 100, **close)
    assert counts(errors) == TIDE_COUNTS
    assert (errors.false_positives.count, errors.false_negatives.count) == (85, 181)
    for kind, expected in TIDE_SIZES[table].items():
        found = [part.cost for part in errors.kinds[kind].sizes.values()]
        assert found == pytest.approx([cost / 100 for cost in expected], **close)


# By hand. AP of a class with one object: 1 if it is found first, 1/2 after one wrong detection.
SECOND = (2, DOG, WHOLE)
CASES = {
    # The dog of image 1 is a cat: cat 0, dog 1/2. Mended: 1 and 1.
    "classification": (
        [(1, CAT, WHOLE), SECOND],
        [(1, DOG, WHOLE, 0.9), (2, DOG, WHOLE, 0.8)],
        (0.25, 0.75, "large"),
    ),
    # Overlap 0.4 of the only object: 0, mended 1.
    "localisation": ([(1, CAT, PART)], [(1, CAT, WHOLE, 0.9)], (0.0, 1.0, "medium")),
    # As the first, but at the wrong place too: only taken away. Cat 0, dog 1/2; mended 0 and 1.
    "both": (
        [(1, CAT, WHOLE), SECOND],
        [(1, DOG, PART, 0.9), (2, DOG, WHOLE, 0.8)],
        (0.25, 0.25, "large"),
    ),
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: 51 steps at 1 and 50 at 2/3.
    "duplicate": (
        [(1, DOG, WHOLE), SECOND],
        [(1, DOG, WHOLE, 0.9), (1, DOG, WHOLE, 0.8), (2, DOG, WHOLE, 0.7)],
        ((51 + 50 * 2 / 3) / 101, 50 / 3 / 101, "large"),
    ),
    # Of its own size, 50 x 50.
    "background": (
        [(1, CAT, WHOLE)],
        [(1, CAT, AWAY, 0.9), (1, CAT, WHOLE, 0.8)],
        (0.5, 0.5, "medium"),
    ),
    # One of two: 51 of 101 steps are reached.
    "missed": (
        [(1, DOG, (5, 5, 30, 30)), SECOND],
        [(2, DOG, WHOLE, 0.9)],
        (51 / 101, 50 / 101, "small"),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_by_hand(kind):
    objects, found, (precision, cost, size) = CASES[kind]
    errors = errors_of(truth_of(*objects), rows_of(*found))
    missed = {"missed": 1} if kind in ("both", "missed") else {}
    assert counts(errors) == {kind: 1} | missed
    assert errors.map_50 == pytest.approx(precision)
    assert errors.kinds[kind].cost == pytest.approx(cost)
    sizes = {name: (part.count, part.cost) for name, part in errors.kinds[kind].sizes.items()}
    nothing = dict.fromkeys(("small", "medium", "large"), (0, 0.0))
    assert sizes == nothing | {size: (1, pytest.approx(cost))}


def test_false_positives_and_negatives_by_hand():
    objects, found, _ = CASES["classification"]
    errors = errors_of(truth_of(*objects), rows_of(*found))
    # Cat 0 and dog 1/2. The wrong dog last: 0 and 1. The cat taken away: dog alone, 1/2.
    assert errors.false_positives.cost == pytest.approx(0.25)
    assert errors.false_negatives.cost == pytest.approx(0.25)
    assert [errors.false_positives.count, errors.false_negatives.count] == [1, 1]
    assert errors.false_negatives.sizes["large"].cost == pytest.approx(0.25)


def test_of_two_tries_at_an_object_the_better_one_is_mended():
    tries = rows_of((1, CAT, PART, 0.6), (1, CAT, (0, 0, 40, 100), 0.7))
    case = case_of(*judged(truth_of((1, CAT, WHOLE)), tries))
    errors = find_errors(case, match(case))
    assert [KINDS[kind] for kind in errors.kind] == ["localisation"] * 2
    assert case.found.scores[errors.found].tolist() == [0.7, 0.6]
    assert errors.mends.tolist() == [True, False]
    assert errors.iou.tolist() == pytest.approx([0.4, 0.4])
    assert errors_of(truth_of((1, CAT, WHOLE)), tries).kinds["localisation"].cost == 1


def test_a_detection_in_a_crowd_of_its_class_is_no_error():
    truth = truth_of((1, CAT, WHOLE, True), (1, CAT, AWAY))
    inside = (10, 10, 20, 20)
    found = [(1, CAT, AWAY, 0.5), (1, CAT, inside, 0.9)]
    errors = errors_of(truth, rows_of(*found))
    assert (errors.map_50, counts(errors), errors.false_negatives.count) == (1, {}, 0)
    other = errors_of(truth, rows_of(*found, (1, DOG, inside, 0.9)))
    assert counts(other) == {"background": 1}


def test_a_detection_in_a_crowd_counts_where_it_would_find_an_object_of_another_class():
    truth = truth_of((1, CAT, (0, 0, 200, 200), True), (1, DOG, (10, 10, 50, 50)))
    errors = errors_of(truth, rows_of((1, CAT, (10, 10, 50, 50), 0.9)))
    assert counts(errors) == {"classification": 1}
    assert (errors.map_50, errors.kinds["classification"].cost) == (0, 1)
    assert errors.false_positives.count == 0


def test_a_class_without_objects_counts_as_0_once_it_is_detected():
    # As tidecv has it; COCO leaves the class out.
    truth, rows = truth_of((1, CAT, WHOLE)), rows_of((1, CAT, WHOLE, 0.9), (1, DOG, AWAY, 0.8))
    assert errors_of(truth, rows).map_50 == pytest.approx(0.5)
    assert coco_scores(*judged(truth, rows)).map_50 == pytest.approx(1)
    assert errors_of(truth, rows).kinds["background"].cost == pytest.approx(0.5)


def test_without_objects_there_is_no_cost_and_without_detections_everything_is_missed():
    nothing = errors_of(truth_of(), rows_of((1, CAT, WHOLE, 0.9)))
    assert (nothing.map_50, nothing.kinds["background"].cost) == (None, None)
    assert counts(nothing) == {"background": 1}
    silent = errors_of(truth_of((1, CAT, WHOLE)), rows_of())
    assert (silent.map_50, silent.kinds["missed"].cost, counts(silent)) == (0, 1, {"missed": 1})
    assert json.loads(json.dumps(silent.to_dict()))["kinds"]["missed"]["sizes"]["large"] == {
        "cost": 1.0,
        "count": 1,
    }


def random_rows(seed):
    """Seven objects of each of two classes, and detections around and beside them."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for label in (CAT, DOG):
        for _ in range(7):
            image, box = int(rng.integers(1, 3)), np.append(rng.uniform(0, 300, 2), 0).tolist()
            box = [*box[:2], *rng.uniform(15, 150, 2).tolist()]
            objects.append((image, label, box))
            for _ in range(rng.integers(0, 4)):
                moved = np.abs(np.array(box) + rng.normal(0, 10, 4)).tolist()
                found.append((image, int(rng.choice([label, 3 - label])), moved, rng.random()))
    return truth_of(*objects), rows_of(*found)


@pytest.mark.parametrize("seed", range(5))
def test_every_error_has_one_kind_and_one_size(seed):
    truth, rows = random_rows(seed)
    errors = errors_of(truth, rows)
    # Both classes have objects, so AP is COCO's; k / 7 meets no step of the recall axis.
    assert errors.map_50 == pytest.approx(coco_scores(*judged(truth, rows)).map_50, abs=1e-9)
    wrong = sum(kind.count for name, kind in errors.kinds.items() if name != "missed")
    right = 14 - errors.false_negatives.count
    assert wrong == errors.false_positives.count == len(rows) - right
    for kind in (*errors.kinds.values(), errors.false_positives, errors.false_negatives):
        assert sum(part.count for part in kind.sizes.values()) == kind.count
    assert all(kind.cost >= 0 for kind in errors.kinds.values())


def test_the_hundred_best_of_an_image_count():
    rows = rows_of(*[(1, CAT, AWAY, 0.5)] * 100, (1, CAT, WHOLE, 0.4), (2, CAT, AWAY, 0.1))
    errors = errors_of(truth_of((1, CAT, WHOLE)), rows)
    assert counts(errors) == {"background": 101, "missed": 1}


def test_a_wrong_record_is_named():
    with pytest.raises(InputError, match=r"dets.json: record 0: expected 'image_id'"):
        errors_of(truth_of(), [{"image_id": 9}], results_name="dets.json")
