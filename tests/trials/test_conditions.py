"""What is stored of how a sweep is made is read back, and tells its command."""

from dataclasses import replace

import optuna
import pytest

from flaxyolo.base import cli
from flaxyolo.base.errors import InputError
from flaxyolo.search.spending import Spending
from flaxyolo.statistics.rules import Advice
from flaxyolo.trials.conditions import CONDITIONS, conditions, keep_conditions
from flaxyolo.trials.flags import Flags

SPENDING = Spending(trials=4, short_epochs=3, epochs=9, finalists=1, seeds=(0, 1))
ADVICE = (Advice("image_size", 320, "why", 0.5, "source"), Advice("p2", True, "why", 1.0, "here"))


@pytest.fixture
def study():
    return optuna.create_study()


def test_they_are_read_back(study):
    assert conditions(study) is None
    command = "python -m flaxyolo.sweep --budget-ms 8"
    keep_conditions(study, command=command, workers=2, seed=3, spending=SPENDING, advice=ADVICE)
    kept = conditions(study)
    assert kept is not None
    assert (kept.seed, kept.spending, kept.advice, kept.workers) == (3, SPENDING, ADVICE, 2)
    assert kept.command == command
    assert {"flaxyolo", "jax", "optuna", "numpy", "python", "system"} <= kept.versions.keys()


def test_others_are_named(study):
    study.set_user_attr(CONDITIONS, {"command": "x"})
    with pytest.raises(InputError, match=r"the study's conditions: .*workers: missing"):
        conditions(study)


@pytest.mark.parametrize(
    "words",
    [
        ["--budget-ms", "8"],
        ["--budget-params", "3.2e+06", "--objective", "map_small + 0.5*map", "--no-controls"],
        ["--budget-ms", "8.123456789", "--data", "coco:a b", "--out", "x y", "--seed", "3"],
    ],
)
def test_the_words_of_a_command_give_the_same_flags(words):
    flags = cli.parse(Flags, words, prog="x", description="")
    again = cli.parse(Flags, cli.given(flags), prog="x", description="")
    assert again == flags
    assert set(cli.given(flags)) <= {*words}
    assert cli.given(replace(flags, **vars(Flags()))) == []
