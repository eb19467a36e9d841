"""Advice on made-up data whose right answer is known, and on the real sets."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.data.images import no_facts
from flaxyolo.data.sources import read_dataset
from flaxyolo.search.space import PLANS, REFERENCE, REFERENCE_PARTS
from flaxyolo.statistics.advice import advise, candidates, stride_recommend
from flaxyolo.statistics.rules import Advice
from flaxyolo.statistics.summary import statistics
from tests.statistics.test_detail import photographs
from tests.statistics.test_summary import dataset, example


def squares(side, *, images=30, count=4, size=(640, 640), labels=None, length=1.0):
    """Images with `count` boxes of `side` x `side * length` pixels that lie apart."""
    step = size[1] // count
    boxes = [[i * step, 0, i * step + side, side * length] for i in range(count)]
    return [example(boxes, labels, size=size) for _ in range(images)]


def advice_on(train, val=(), *, names=("cat", "dog"), facts=None, **settings):
    data = dataset(train, val, names, train_facts=facts or no_facts())
    return {each.key: each for each in advise(statistics(data), **settings)}


@pytest.mark.parametrize(
    ("object_px", "stride"), [(6, None), (12, None), (16, 8), (20, 8), (40, 16), (80, 32)]
)
def test_the_coarsest_stride_at_which_an_object_covers_two_cells(object_px, stride):
    found = stride_recommend(object_px)
    assert found.stride == stride
    assert found.cells == tuple((s, object_px / s) for s in (8, 16, 32))
    assert ("no stride is fine enough" in found.message) == (stride is None)


def test_strides_may_come_in_any_order_and_cells_be_asked_for():
    assert stride_recommend(12, strides=(32, 4, 8)).stride == 4
    assert stride_recommend(80, min_cells=4).stride == 16
    assert stride_recommend(7.9, strides=(4,), min_cells=2).stride is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"object_px": 0}, "object_px must be a number of pixels above 0, got 0"),
        ({"object_px": -3}, "object_px must be"),
        ({"object_px": float("nan")}, "object_px must be"),
        ({"object_px": 10, "strides": ()}, "strides must be"),
        ({"object_px": 10, "strides": (0, 8)}, "strides must be"),
        ({"object_px": 10, "min_cells": 0}, "min_cells must be above 0"),
    ],
)
def test_what_is_no_size_or_stride_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stride_recommend(**arguments)


def test_large_objects_ask_for_a_small_input_and_no_p2():
    found = advice_on(squares(150))
    assert found["image_size"].value == 256
    assert found["plan"].value == "P3-P4"
    assert (found["p2"].value, found["p5"].value) == (False, False)
    assert found["next_image_size"].value == 320
    assert found["p2"].number == 0


def test_objects_of_all_sizes_ask_for_p3_to_p5_and_a_pan():
    train = [*squares(30), *squares(60), *squares(150)]
    found = advice_on(train)
    assert found["image_size"].value == 416
    assert found["plan"].value == "P3-P5"
    assert found["neck.kind"].value == "pan"


def test_objects_too_small_at_the_images_own_size_ask_for_p2_not_for_a_larger_input():
    found = advice_on(squares(10, size=(256, 256)))
    assert found["image_size"].value == 256
    assert found["plan"].value == "P2-P4"
    assert found["p2"].number == 1
    assert "no detail" in found["image_size"].why


def test_resolution_is_raised_before_p2_is_added():
    found = advice_on(squares(20))
    assert found["image_size"].value == 512
    assert found["p2"].value is False


def test_a_rare_class_of_small_objects_counts_as_much_as_a_frequent_one():
    # Nineteen boxes of twenty are large enough at any size, but only one class of two.
    boxes = [[i % 5 * 120, i // 5 * 100, i % 5 * 120 + 90, i // 5 * 100 + 90] for i in range(19)]
    boxes.append([600, 600, 620, 620])
    alone = [example(boxes, [0] * 20, size=(640, 640))] * 30
    apart = [example(boxes, [0] * 19 + [1], size=(640, 640))] * 30
    assert advice_on(alone)["image_size"].value == 256
    assert advice_on(apart)["image_size"].value == 512
    small = advice_on(apart, image_sizes=[256])["p2"]
    assert (small.value, small.number) == (True, 0.5)
    assert "each class weighed alike" in small.why


def test_dark_images_are_not_taken_for_blurred_ones():
    found = advice_on(squares(30), facts=facts_of(30, 12, 12, 13))
    assert "brightness" in found
    assert "blur" not in found


def test_input_sizes_can_be_limited():
    found = advice_on(squares(150), image_sizes=[416])
    assert found["image_size"].value == 416
    assert "next_image_size" not in found
    with pytest.raises(InputError, match=r"image_sizes: expected some of 256, .*\[100\]"):
        advice_on(squares(150), image_sizes=[100])


def shares(budget_ms, sizes):
    """Of the budget, as made up of what a small network took at 128 and at 256 px on two cores."""
    return {size: (3.6 + 4.9e-5 * size**2) / budget_ms for size in sizes}


PHOTOGRAPH_SIZES = (128, 192, 256, 384, 480, 640, 960)


@pytest.fixture(scope="module")
def printed():
    """Images enough for advice, of large objects whose print tells them apart."""
    return statistics(dataset(photographs("print") * 3), image_sizes=PHOTOGRAPH_SIZES)


def advice_within(budget_ms, measured):
    sizes = [each.image_size for each in measured.resolutions]
    affordable = None if budget_ms is None else shares(budget_ms, sizes)
    return {each.key: each for each in advise(measured, affordable=affordable)}


def test_the_budget_is_spent_on_print_that_tells_large_objects_apart(printed):
    found = {
        budget: advice_within(budget, printed)["image_size"] for budget in (5, 20, 40, 500, None)
    }
    values = {budget: each.value for budget, each in found.items()}
    assert values == {5: 128, 20: 384, 40: 640, 500: 960, None: 960}
    why = found[20].why
    assert re.search(r"at 384 px 0 % of the boxes .* takes \d\d % of the detail", why)
    assert re.search(r"; at 256 px 0 %, and \d\d % of the detail", why)
    assert "the reference network takes 54 % of the budget, 74 % at 480 px, and at most 70 %" in why
    assert "budget" not in found[None].why


def test_smooth_large_objects_need_no_larger_input_whatever_the_budget():
    shaded = statistics(dataset(photographs("shaded") * 3), image_sizes=PHOTOGRAPH_SIZES)
    for budget in (20, 500, None):
        assert advice_within(budget, shaded)["image_size"].value == 128


def test_a_budget_that_pays_for_nothing_leaves_the_smallest_input(printed):
    found = advice_within(2, printed)
    assert found["image_size"].value == 128
    assert "takes 220 % of the budget" in found["image_size"].why
    assert "next_image_size" not in found


def test_small_dense_objects_get_as_many_cells_as_the_budget_pays_for():
    dense = statistics(
        dataset(squares(14, count=12, size=(256, 256))), image_sizes=(96, 128, 192, 256)
    )
    found = {budget: advice_within(budget, dense) for budget in (6, 8, 40)}
    values = {budget: each["image_size"].value for budget, each in found.items()}
    assert values == {6: 96, 8: 192, 40: 256}
    assert all(each["p2"].value for each in found.values())


def test_an_input_beyond_the_images_is_paid_for_only_where_cells_ask_for_it():
    sizes = (128, 160, 192, 256, 320)
    rich = {size: 0.01 for size in sizes}
    covered, small = (
        advice_on(squares(side, size=(180, 180)), image_sizes=sizes, affordable=rich)
        for side in (17, 10)
    )
    # 180 px are between two inputs, the next of which is no more than whole steps of 32 need.
    assert covered["image_size"].value == 192
    assert small["image_size"].value == 192
    without = (128, 160, 256)
    covered, small = (
        advice_on(squares(side, size=(180, 180)), image_sizes=without, affordable=rich)
        for side in (24, 10)
    )
    assert covered["image_size"].value == 128
    assert small["image_size"].value == 256


def test_the_size_that_is_compared_is_one_that_fits_and_can_gain(printed):
    found = {
        budget: advice_within(budget, printed)["next_image_size"].value
        for budget in (10, 20, 30, 500)
    }
    # 256 px of 10 ms, with 384 over the budget; 480 px within 20 ms; at their own size a smaller.
    assert found == {10: 192, 20: 480, 30: 640, 500: 640}


def test_reg_max_reaches_the_sides_of_the_largest_objects():
    large, small = advice_on(squares(600, count=1, images=60)), advice_on(squares(40))
    # 320 px, the next resolution, are five strides of 32 from the middle, and a margin of 1.5.
    assert large["head.reg_max"].value == 8
    assert small["head.reg_max"].value == 8
    wide = advice_on(squares(1000, count=1, images=60, size=(1000, 1000)), image_sizes=[800, 1280])
    # 1280 / 64 + 1.5 = 21.5 strides need 23 bins.
    assert wide["head.reg_max"].value == 24


def test_few_boxes_and_few_images_give_no_advice_about_them():
    assert set(advice_on(squares(10, images=5))) == {"norm"}
    assert set(advice_on([])) == {"norm"}
    assert set(advice_on([example([])] * 100)) == {"norm"}


@pytest.mark.parametrize(("batch", "norm"), [(1, "group"), (15, "group"), (16, "batch")])
def test_the_norm_is_that_for_the_batch(batch, norm):
    assert advice_on([], batch_size=batch)["norm"].value == norm


def test_crowded_boxes_raise_the_threshold_of_nms():
    apart = advice_on(squares(50))
    assert apart["nms.threshold"].value == 0.7
    close = [example([[0, 0, 100, 100], [0, 0, 100, 75]], size=(200, 200))] * 30
    assert advice_on(close)["nms.threshold"].value == 0.8
    twins = [example([[0, 0, 100, 100], [0, 0, 100, 95]], size=(200, 200))] * 30
    assert "one_to_one" in advice_on(twins)["nms.threshold"].why
    # Of different classes they do not suppress each other.
    mixed = [example([[0, 0, 100, 100], [0, 0, 100, 95]], [0, 1], size=(200, 200))] * 30
    assert advice_on(mixed)["nms.threshold"].value == 0.7


def test_slots_hold_the_fullest_image():
    found = advice_on([*squares(2, count=120, images=2), *squares(2, images=30)])
    assert found["slots.boxes"].value == 128
    assert found["slots.detections"].value == 300
    crowd = advice_on([*squares(2, count=320, images=1), *squares(2, images=30)])
    assert crowd["slots.detections"].value == 400
    assert "slots.detections" not in advice_on(squares(50))


def test_a_rare_class_is_sampled_unless_every_image_has_it():
    each = squares(20, count=13, labels=[0] * 12 + [1])
    assert advice_on(each)["imbalance"].value == "loss"
    few = [*squares(20, count=10, labels=[0] * 10), *squares(20, images=2, labels=[1] * 4)]
    found = advice_on(few)["imbalance"]
    assert found.value == "sampling"
    assert found.number == pytest.approx(300 / 8)
    assert "'dog' (8 boxes)" in found.why
    assert "imbalance" not in advice_on(squares(20, labels=[0, 0, 1, 1]))


def test_huge_images_with_small_objects_are_sliced():
    huge = squares(20, size=(4000, 4000))
    assert advice_on(huge)["slice_px"].value == 1280
    assert "slice_px" not in advice_on(squares(900, count=2, size=(4000, 4000)))


def test_few_images_ask_for_dropped_branches_and_many_do_not():
    assert advice_on(squares(30))["backbone.drop_path"].value == 0.1
    assert advice_on(squares(30, images=2000))["backbone.drop_path"].value == 0.05
    assert "backbone.drop_path" not in advice_on(squares(30, images=5000))


def test_thin_boxes_are_named():
    assert advice_on(squares(12, length=6.0))["thin_objects"].number == 1
    assert "thin_objects" not in advice_on(squares(12))


def facts_of(images, brightness, contrast, blur):
    return no_facts()._replace(
        brightness=np.full(images, brightness, np.float32),
        contrast=np.full(images, contrast, np.float32),
        blur=np.full(images, blur, np.float32),
    )


def test_light_and_blur_are_hinted_at_only_where_the_numbers_say_so():
    hints = {"brightness", "contrast", "blur"}
    assert not hints & set(advice_on(squares(30), facts=facts_of(30, 120, 60, 500)))
    dark = advice_on(squares(30), facts=facts_of(30, 20, 10, 2))
    assert hints <= set(dark)
    assert dark["brightness"].value == "dark"
    assert advice_on(squares(30), facts=facts_of(30, 230, 60, 500))["brightness"].value == "bright"
    # Ten images are too few.
    assert not hints & set(advice_on(squares(30, images=30), facts=facts_of(10, 20, 10, 2)))


def test_a_validation_split_with_other_sizes_is_named():
    found = advice_on(squares(20), squares(120))["validation"]
    assert found.number == 1
    assert "validation" not in advice_on(squares(20), squares(20))


def test_candidates_differ_from_the_advised_in_one_thing():
    found = candidates(tuple(advice_on(squares(10, size=(256, 256))).values()))
    advised = found["advised"]
    assert advised == {
        "image_size": 256,
        "plan": "P2-P4",
        "neck.kind": "fpn",
        "head.reg_max": 8,
        "norm": "batch",
    }
    assert found["advised without P2"] == advised | {"plan": "P3-P4"}
    assert found["advised at the next resolution"] == advised | {"image_size": 320}
    with_p2 = candidates(tuple(advice_on(squares(150)).values()))
    assert with_p2["advised with P2"]["plan"] == "P2-P4"


@pytest.mark.parametrize("side", [5, 10, 20, 40, 80, 150, 300])
def test_every_candidate_is_a_point_of_the_search_space(side):
    found = candidates(tuple(advice_on(squares(side, count=2)).values()))
    assert len(found) == 3
    for parameters in found.values():
        assert parameters["plan"] in PLANS
        assert set(parameters) <= set(REFERENCE) | set(REFERENCE_PARTS)


def test_without_advice_there_are_no_candidates():
    assert candidates(tuple(advice_on([]).values())) == {}
    assert candidates(()) == {}


def test_every_advice_has_a_number_a_source_and_goes_to_json():
    train = [*squares(10, count=12, labels=[0] * 11 + [1]), *squares(12, length=6.0)]
    found = advice_on(train, squares(120), facts=facts_of(60, 20, 10, 2))
    assert len(found) > 15
    for each in found.values():
        assert isinstance(each, Advice)
        assert np.isfinite(each.number)
        assert each.source
        assert "\n" not in each.why
        assert Advice(**json.loads(json.dumps(each.to_dict()))) == each


def test_the_digits_get_advice_that_fits_their_three_sizes():
    found = {each.key: each for each in advise(statistics(read_dataset("digits")))}
    assert found["p5"].value is True
    assert "imbalance" not in found
    assert found["image_size"].value <= 192


@pytest.mark.slow
def test_nuclei_get_p2_or_more_resolution(test_data):
    measured = statistics(read_dataset(f"coco:{test_data / 'nuclei'}"))
    found = {each.key: each for each in advise(measured)}
    assert found["p2"].value is True
    # And where the images were of twice the size, resolution would come first.
    small = replace(measured, resolutions=measured.resolutions[:1])
    assert {each.key: each for each in advise(small)}["p2"].value is True


@pytest.mark.slow
def test_blood_cells_need_no_p2_and_have_a_rare_class_in_every_image(test_data):
    found = {
        each.key: each for each in advise(statistics(read_dataset(f"coco:{test_data / 'bccd'}")))
    }
    assert found["p2"].value is False
    assert found["imbalance"].value == "loss"
    assert found["image_size"].value == 320
    assert found["neck.kind"].value == "pan"
