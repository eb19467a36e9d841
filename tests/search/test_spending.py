from dataclasses import replace

import pytest

from flaxyolo.search.spending import Spending, rungs, short_schedule


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, (1,)), (3, (1, 3)), (9, (3, 9)), (15, (5, 15)), (24, (3, 8, 24)), (36, (4, 12, 36))],
)
def test_the_rungs_are_a_ninth_unless_that_is_too_early_a_third_and_all(epochs, expected):
    assert rungs(epochs) == expected


def test_the_short_schedule_is_a_third_of_a_long_one_and_all_of_a_short_one():
    assert [short_schedule(epochs) for epochs in (1, 24, 26, 27, 100)] == [1, 24, 26, 9, 33]


def test_the_plan_counts_every_epoch_once():
    plan = Spending(20, 9, 27, 3, (0, 1, 2))
    # 20 to epoch 3, 7 to epoch 9, then 3 full runs; further seeds only where they matter.
    assert plan.training_epochs == 20 * 3 + 7 * 6 + 3 * 27
    assert plan.describe() == (
        "20 candidates, 20 to epoch 3, 7 to epoch 9; then 3 finalists, 27 epochs, "
        "up to 3 seeds, as long as they are not told apart"
    )
    same = Spending(8, 24, 24, 3, (0,))
    # 8 to epoch 3, 3 to epoch 8, 1 to epoch 24; the other two finalists go on from epoch 8.
    assert same.training_epochs == 8 * 3 + 3 * 5 + 16 + 2 * 16
    assert same.describe().endswith("; then 3 finalists, 24 epochs, 1 seed")
    # With a teacher no finalist goes on.
    taught = replace(same, taught=1.2)
    assert taught.training_epochs == 8 * 3 + 3 * 5 + 16 + 3 * 24


def test_the_controls_are_counted_with_their_full_runs():
    plan = Spending(20, 9, 27, 3, (0, 1, 2), controls=True)
    # The YOLOv8 is no candidate: it is trained to the first rung too, and then wholly.
    assert plan.training_epochs == 20 * 3 + 7 * 6 + 5 * 27 + 3
    assert "3 finalists, the baseline and a YOLOv8 scaled into the budget, 27" in plan.describe()
    same = Spending(8, 24, 24, 1, (0,), controls=True)
    # The baseline goes on from epoch 3, as the finalist does from epoch 24.
    assert same.training_epochs == 8 * 3 + 3 * 5 + 16 + 21 + 24
