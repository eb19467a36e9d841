"""What a sweep has spent, in words."""

from dataclasses import replace

from flaxyolo.search.spending import Spending
from flaxyolo.trials.account import funnel_line
from tests.search.made import result

SPENDING = Spending(trials=6, short_epochs=27, epochs=27, finalists=2, seeds=(0,))
"""Rungs at 3, 9 and 27."""


def trained(number, epoch_s):
    """A candidate that was compiled in 30 s, and trained to the end."""
    ended = result(number, "complete", [(3, 0.1), (9, 0.2), (27, 0.3)])
    return replace(ended, seconds={"compile": 30.0, "train": 27 * epoch_s})


def test_the_rungs_at_which_nobody_waits_are_told():
    slow, quick, quicker = (
        funnel_line([trained(number, each) for number in range(2)], SPENDING)
        for each in (2.0, 1.5, 0.5)
    )
    assert "2 trained to epoch 3, 2 trained to epoch 9, 2 trained to epoch 27" in slow
    assert "without waiting" not in slow
    assert quick.endswith(
        "without waiting at epoch 9, as a further candidate costs more than the rest of a training"
    )
    assert "without waiting at epoch 3 and 9, as" in quicker
