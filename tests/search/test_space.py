from functools import partial

import optuna
import pytest

from flaxyolo.cost.measure import count_gflops, count_params
from flaxyolo.nn.attention import ATTENTIONS
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.nn.neck import NECKS
from flaxyolo.search.space import (
    PLANS,
    REFERENCE,
    Ranges,
    former_image_sizes,
    image_sizes_for,
    left_open,
    reference_params,
    suggest_detector,
    with_ranges,
)


def draws(suggest, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        yield trial, suggest(trial)


def test_the_default_space_searches_at_most_12_things():
    asked = {name for trial, _ in draws(suggest_detector, 200) for name in trial.distributions}
    assert asked == set(REFERENCE)
    assert len(asked) == 12
    assert not any(
        d.single() for t, _ in draws(suggest_detector, 1) for d in t.distributions.values()
    )


def test_a_depth_is_asked_only_where_the_plan_has_the_stage():
    for trial, spec in draws(suggest_detector, 40):
        assert ("c5.depth" in trial.params) == (spec.neck.levels[-1] == 5)


def test_half_of_the_draws_cost_at_most_twice_the_reference():
    reference = count_gflops(suggest_detector(optuna.trial.FixedTrial(REFERENCE)))
    suggest = partial(suggest_detector, image_sizes=(128,))
    shares = [count_gflops(spec) / reference for _, spec in draws(suggest, 16)]
    assert sum(share < 2 for share in shares) >= 8
    # The same space holds networks for larger budgets.
    assert max(shares) > 2.5


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_builds(name):
    suggest = partial(suggest_detector, plans=(name,), image_sizes=(160,))
    for _, spec in draws(suggest, 3):
        assert count_params(spec) > 0
        levels = [int(part[1:]) for part in name.split()[0].split("-")]
        assert [spec.neck.levels[0], spec.neck.levels[-1]] == levels
        assert spec.image_size == (192 if levels[-1] == 6 else 160)


def test_every_name_of_the_tables_may_be_searched():
    suggest = partial(
        suggest_detector, blocks=tuple(BLOCKS), attentions=tuple(ATTENTIONS), necks=tuple(NECKS)
    )
    drawn = {stage.block for _, spec in draws(suggest, 400) for stage in spec.backbone.stages}
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
    assert "late.block" not in params
    assert "neck.kind" not in params
    assert params["width"] == REFERENCE["width"]
    assert suggest(optuna.trial.FixedTrial(params)).image_size == 256


def test_every_kind_of_question_is_answered_with_the_nearest_value():
    def suggest(trial):
        assert trial.suggest_categorical("image_size", (96, 120, 256)) == 120
        assert trial.suggest_categorical("ratio", (1.5, 2.25, 3.0)) == 2.25
        assert trial.suggest_categorical("early.block", ("plain", "c2f")) == "plain"
        assert trial.suggest_categorical("unheard.of", (False, True)) is False
        assert trial.suggest_int("width", 10, 40, step=4) == 18
        assert trial.suggest_int("c4.width", 8, 48, step=16) == 40
        assert trial.suggest_int("something", 3, 5) == 3
        assert trial.suggest_float("ratio", 1.25, 1.8, step=0.25) == 1.75
        assert trial.suggest_float("other", 0.25, 1.0) == 0.25

    reference_params(suggest)


def test_image_sizes_follow_the_data():
    assert image_sizes_for(192) == (64, 96, 128, 160, 192)
    assert image_sizes_for(640) == (64, 96, 128, 160, 192, 256, 320, 384, 512, 640)
    assert image_sizes_for(28) == (64,)
    assert image_sizes_for(4000)[-1] == 1280
    for longest in range(64, 1300, 7):
        sizes = image_sizes_for(longest)
        assert sizes == tuple(sorted(set(sizes)))
        assert all(size % 32 == 0 and 64 <= size <= longest for size in sizes)
        assert longest - sizes[-1] < 32 or sizes[-1] == 1280


def test_a_study_without_ranges_keeps_the_sizes_of_its_time():
    assert former_image_sizes(192, 8.0, "cpu") == (128, 160, 192)
    assert former_image_sizes(640, 40.0, "cpu") == (256, 320)
    assert former_image_sizes(640, 8.0, "gpu") == (256, 320, 480, 640)
    assert former_image_sizes(640, 8.0, "cpu") == (128, 160, 192)
    assert former_image_sizes(4000, None, "cpu") == (640,)
    former = with_ranges(suggest_detector, Ranges((128, 160, 192)))
    specs = [spec for _, spec in draws(former, 40)]
    assert specs == [spec for _, spec in draws(suggest_detector, 40)]


def test_a_space_is_given_the_ranges_that_it_leaves_open():
    ranges = Ranges((256,), (32, 48, 16), 3, (1,))
    given = with_ranges(partial(suggest_detector, image_sizes=(96,)), ranges)
    fixed = with_ranges(lambda trial: suggest_detector(trial, image_sizes=(64,)), ranges)
    open_one = with_ranges(suggest_detector, ranges)
    sizes = [next(draws(suggest, 1))[1].image_size for suggest in (given, open_one, fixed)]
    assert sizes == [96, 256, 64]
    for suggest in (given, open_one):
        for _, spec in draws(suggest, 20):
            widths = [stage.width for stage in spec.backbone.stages]
            assert widths[0] in (32, 48)
            assert max(widths) <= 3 * widths[0]
            assert all(stage.depth == 1 for stage in spec.backbone.stages)
    assert left_open(fixed) == frozenset()
    assert left_open(partial(suggest_detector, widths=(8, 8, 8))) == {
        "image_sizes",
        "cap",
        "max_depths",
    }


def test_ranges_are_told_in_words():
    told = Ranges((128, 160), (16, 32, 8), 6, (2, 3, 3, 2)).describe()
    assert told == "C2 16 to 32 channels wide, up to 2, 3, 3, 2 layers deep, at 128, 160 px"
    assert Ranges((64,)).describe() == "at 64 px"
