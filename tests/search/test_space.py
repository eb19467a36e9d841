import runpy
from functools import partial
from pathlib import Path

import optuna
import pytest

from flaxyolo.cost import count_gflops, count_params
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.neck import NECKS
from flaxyolo.search.space import (
    REFERENCE,
    image_sizes_for,
    reference_params,
    suggest_detector,
    with_image_sizes,
)

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"


def draws(suggest, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        yield trial, suggest(trial)


@pytest.mark.parametrize("name", ["default.py", "tiny.py"])
def test_random_draws_of_every_sweep_file_build_and_are_rebuilt_from_their_parameters(name):
    suggest = runpy.run_path(str(SWEEPS / name))["suggest"]
    for trial, spec in draws(suggest, 20):
        assert suggest(optuna.trial.FixedTrial(trial.params)) == spec
        assert count_params(spec) > 0


def test_the_default_space_searches_at_most_18_things():
    (trial, _), *_ = draws(suggest_detector, 1)
    searched = [d for d in trial.distributions.values() if not d.single()]
    assert 12 <= len(searched) <= 18


def test_every_name_of_the_tables_may_be_searched():
    suggest = partial(
        suggest_detector, blocks=tuple(BLOCKS), attentions=tuple(ATTENTIONS), necks=tuple(NECKS)
    )
    drawn = {stage.block for _, spec in draws(suggest, 40) for stage in spec.backbone.stages}
    assert drawn == set(BLOCKS)


def test_the_reference_is_a_point_of_the_default_space():
    assert reference_params(suggest_detector) == REFERENCE
    spec = suggest_detector(optuna.trial.FixedTrial(REFERENCE))
    assert [stage.width for stage in spec.backbone.stages] == [16, 32, 64, 96]
    # A hundredth of YOLOv8n at 640 px (8.7 GFLOPs), which takes about 90 ms on two CPU cores;
    # networks so small are slower for their GFLOPs, and 8 ms must hold on a restless machine.
    assert 0.05 < count_gflops(spec) < 0.15


def test_the_reference_of_another_space_is_its_nearest_point():
    suggest = partial(suggest_detector, blocks=("plain",), image_sizes=(256, 320), necks=("fpn",))
    params = reference_params(suggest)
    assert params["image_size"] == 256
    assert params["c3.block"] == "plain"
    assert params["neck.kind"] == "fpn"
    assert params["c4.width"] == REFERENCE["c4.width"]
    assert suggest(optuna.trial.FixedTrial(params)).image_size == 256


def test_image_sizes_follow_the_data_and_on_a_cpu_the_budget():
    assert image_sizes_for(192, 8.0, "cpu") == (128, 160, 192)
    assert image_sizes_for(640, 40.0, "cpu") == (256, 320)
    assert image_sizes_for(640, 8.0, "gpu") == (256, 320, 480, 640)
    assert image_sizes_for(640, 8.0, "cpu") == (128, 160, 192)
    assert image_sizes_for(4000, None, "cpu") == (640,)
    for longest in range(193, 1300, 7):
        sizes = image_sizes_for(longest, None, "gpu")
        assert sizes == tuple(sorted(set(sizes)))
        assert all(size % 32 == 0 and 0 < size <= min(longest, 640) for size in sizes)


def test_a_space_that_names_its_sizes_keeps_them():
    given = with_image_sizes(partial(suggest_detector, image_sizes=(96,)), (256,))
    open_one = with_image_sizes(suggest_detector, (256,))
    fixed = with_image_sizes(lambda trial: suggest_detector(trial, image_sizes=(64,)), (256,))
    sizes = [next(draws(suggest, 1))[1].image_size for suggest in (given, open_one, fixed)]
    assert sizes == [96, 256, 64]
