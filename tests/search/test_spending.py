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
    # 20 to epoch 3, 7 to epoch 9, then 9 full runs.
    assert plan.training_epochs == 20 * 3 + 7 * 6 + 9 * 27
    assert plan.describe() == (
        "20 candidates, 20 to epoch 3, 7 to epoch 9; then 3 finalists, 27 epochs, 3 seeds"
    )
    same = Spending(8, 24, 24, 3, (0,))
    # 8 to epoch 3, 3 to epoch 8, 1 to epoch 24; the other two finalists go on from epoch 8.
    assert same.training_epochs == 8 * 3 + 3 * 5 + 16 + 2 * 16
