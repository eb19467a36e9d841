"""YOLOv8 at every size: what each of its numbers is, and which member is the widest."""

from pathlib import Path

import pytest

from flaxyolo.config import read_config
from flaxyolo.cost.measure import count_params
from flaxyolo.search.family import DEPTHS, WIDTHS, as_wished, scaled, sizes_down, widest
from flaxyolo.search.space import reference_params, suggest_detector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_the_narrowest_of_the_published_ones_is_that_of_the_configs():
    assert scaled(16, 1 / 3, 640, 80) == read_config(CONFIGS / "yolov8n.yaml").detector


@pytest.mark.parametrize(
    ("width", "depth", "params"), [(16, 1 / 3, 3_157_184), (32, 1 / 3, 11_166_544)]
)
def test_parameters_are_the_published_ones(width, depth, params):
    # The published counts of n and s hold the 16 fixed weights of the bins' mean as well.
    assert count_params(scaled(width, depth, 640, 80)) == params


def test_depths_follow_from_the_full_ones():
    depths = [
        [stage.depth for stage in scaled(48, depth, 640, 80).backbone.stages] for depth in DEPTHS
    ]
    assert depths == [[1, 2, 2, 1], [2, 4, 4, 2], [3, 6, 6, 3]]
    assert [scaled(48, depth, 640, 80).neck.depth for depth in DEPTHS] == [1, 2, 3]


def test_input_sizes_go_down_from_the_nearest_one():
    assert list(sizes_down(150)) == [160, 128, 96, 64]
    assert list(sizes_down(32)) == [64]


def test_of_each_depth_the_widest_that_fits_is_found():
    def fits(spec):
        deepest = max(stage.depth for stage in spec.backbone.stages)
        return spec.backbone.stem_width * deepest <= 100

    family = widest(320, 3, fits)
    assert [
        (spec.backbone.stem_width, max(stage.depth for stage in spec.backbone.stages))
        for spec in family
    ] == [(48, 2), (24, 4), (16, 6)]
    assert {(spec.image_size, spec.num_classes) for spec in family} == {(320, 3)}
    assert [spec.backbone.stem_width for spec in widest(64, 3, lambda spec: True)] == [
        max(WIDTHS)
    ] * len(DEPTHS)
    assert widest(64, 3, lambda spec: False) == []


def test_the_nearest_point_of_a_space_is_as_like_it_as_the_space_allows():
    params = reference_params(suggest_detector, as_wished(scaled(16, 2 / 3, 160, 3)))
    assert (params["image_size"], params["plan"], params["width"]) == (160, "P3-P5", 32)
    assert (params["early.block"], params["neck.kind"]) == ("c2f", "pan")
    assert [params[f"c{level}.depth"] for level in (2, 3, 4, 5)] == [2, 3, 3, 2]
