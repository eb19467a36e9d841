"""The front against a slow reference, its table and its picture."""

import random
from itertools import product

import cv2
import pytest

from flaxyolo.trials.pareto import draw_front, front, front_rows, markdown


def row(number, latency, objective, **changes):
    fields = {
        "number": number,
        "latency_ms_p95": latency,
        "latency_ms_p50": None if latency is None else latency / 2,
        "objective": objective,
        "map": None if objective is None else objective / 3,
        "state": "complete",
        "epochs": 9,
        "over_budget": False,
        "image_size": 320,
        "params": 1_200_000,
    }
    return fields | changes


def beaten_by_any(points, index):
    """By the definition: another is no worse in both, and better in one or the same and first."""
    latency, accuracy = points[index]
    for other, (its_latency, its_accuracy) in enumerate(points):
        if its_latency <= latency and its_accuracy >= accuracy:
            better = (its_latency, its_accuracy) != (latency, accuracy)
            if better or other < index:
                return True
    return False


def test_the_front_is_what_no_other_point_beats():
    points = [(5.0, 0.4), (3.0, 0.2), (8.0, 0.9), (6.0, 0.3), (4.0, 0.4)]
    assert front(points) == [1, 4, 2]


def test_of_ties_the_better_and_of_equal_points_the_first_is_on_the_front():
    assert front([(3.0, 0.2), (3.0, 0.5)]) == [1]
    assert front([(4.0, 0.5), (3.0, 0.5)]) == [1]
    assert front([(3.0, 0.5), (3.0, 0.5), (2.0, 0.5), (2.0, 0.5)]) == [2]
    assert front([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_front_of_random_points_is_that_of_the_definition(seed):
    rng = random.Random(seed)
    # Few values, so that ties and duplicates come.
    grid = list(product([1.0, 2.0, 3.0, 4.0, 5.0], [0.1, 0.2, 0.3, 0.4, 0.5]))
    points = [rng.choice(grid) for _ in range(rng.randint(1, 15))]
    expected = [i for i in range(len(points)) if not beaten_by_any(points, i)]
    assert sorted(front(points)) == expected
    assert [points[i] for i in front(points)] == sorted(points[i] for i in expected)


def test_a_trial_without_a_score_or_a_latency_is_not_on_the_front():
    rows = [row(3, 5.0, 0.5), row(1, None, None), row(2, 2.0, None), row(0, 9.0, 0.7)]
    assert [each["number"] for each in front_rows(rows)] == [3, 0]


def test_the_statistic_of_the_latency_decides_the_order():
    rows = [row(0, 5.0, 0.5), row(1, 4.0, 0.4, latency_ms_p50=6.0)]
    assert [each["number"] for each in front_rows(rows)] == [1, 0]
    assert [each["number"] for each in front_rows(rows, "latency_ms_p50")] == [0]
    assert markdown(rows, latency="latency_ms_p50")[0].startswith("| trial | p50 ms |")


def test_the_table_names_the_winner_and_what_was_stopped():
    rows = [
        row(4, 5.0, 0.6, interval=(0.55, 0.65)),
        row(2, 2.5, 0.3, state="waiting", epochs=3, map=None),
        row(7, 12.0, 0.9, over_budget=True),
        row(8, 13.0, 0.1),
    ]
    assert markdown(rows, winner=4)[2:] == [
        "| 2 | 2.50 | 0.300 | n/a | 320 | 1,200,000 | stopped after 3 epochs |",
        "| 4 | 5.00 | 0.600 (0.550 to 0.650) | 0.200 | 320 | 1,200,000 | complete, **winner** |",
        "| 7 | 12.00 | 0.900 | 0.300 | 320 | 1,200,000 | complete, over the budget |",
    ]
    heads = markdown(rows)[:2]
    assert heads[0].count("|") == heads[1].count("|") == 8
    assert markdown([row(0, 3.0, None)]) == []


def pixels(path, blue, green, red):
    """Pixels of about this colour."""
    picture = cv2.imread(str(path)).astype(int)
    return int((abs(picture - [blue, green, red]).max(-1) < 12).sum())


def test_the_winner_and_the_budget_are_drawn(tmp_path):
    rows = [
        row(0, 5.0, 0.5),
        row(1, 7.0, 0.8, interval=(0.7, 0.9)),
        row(2, 12.0, 0.9, over_budget=True),
        row(3, 6.0, 0.2, state="waiting", epochs=1),
        row(4, None, None),
    ]
    draw_front(rows, tmp_path / "with.png", budget_ms=8.0, winner=1)
    draw_front(rows, tmp_path / "without.png")
    gold, budget = (0, 215, 255), (40, 39, 214)
    assert pixels(tmp_path / "with.png", *gold) > 50
    assert pixels(tmp_path / "without.png", *gold) == 0
    assert pixels(tmp_path / "with.png", *budget) > pixels(tmp_path / "without.png", *budget) + 100


def test_a_study_without_scores_is_drawn(tmp_path):
    draw_front([row(0, 3.0, None)], tmp_path / "empty.png", budget_ms=8.0)
    assert cv2.imread(str(tmp_path / "empty.png")).size > 0
