import pytest

from flaxyolo.search.growth import Growth, constant_ratio, multiple, regnet, regnet_stages

# arXiv 2003.13678, the table of the RegNetX models: d, w_0, w_a, w_m and group width; then the
# stages' widths and depths.
REGNET_X = {
    "200MF": ((13, 24, 36.44, 2.49, 8), (24, 56, 152, 368), (1, 1, 4, 7)),
    "400MF": ((22, 24, 24.48, 2.54, 16), (32, 64, 160, 384), (1, 2, 7, 12)),
    "600MF": ((16, 48, 36.97, 2.24, 24), (48, 96, 240, 528), (1, 3, 5, 7)),
    "800MF": ((16, 56, 35.73, 2.28, 16), (64, 128, 288, 672), (1, 3, 7, 5)),
    "1.6GF": ((18, 80, 34.01, 2.25, 24), (72, 168, 408, 912), (2, 4, 10, 2)),
    "3.2GF": ((25, 88, 26.31, 2.25, 48), (96, 192, 432, 1008), (2, 6, 15, 2)),
    "8.0GF": ((23, 80, 49.56, 2.88, 120), (80, 240, 720, 1920), (2, 5, 15, 1)),
}


@pytest.mark.parametrize("name", REGNET_X)
def test_the_linear_rule_gives_the_published_regnets(name):
    (depth, w_0, w_a, w_m, group_width), widths, depths = REGNET_X[name]
    assert regnet(depth, w_0, w_a, w_m, group_width=group_width) == Growth(widths, depths)


def test_a_rule_worked_out_by_hand():
    # u = 16, 32, 48, ..., 128; log2(u / 16) = 0, 1, 1.58, 2, 2.32, 2.58, 2.81, 3.
    assert regnet(8, 16, 16, 2) == Growth((16, 32, 64, 128), (1, 1, 3, 3))
    assert regnet_stages(8, 16, 2, 4) == Growth((16, 32, 64, 128), (1, 1, 3, 3))


def test_stages_that_rounding_makes_alike_are_one():
    # 8 and 8 * 1.4 = 11.2 are both 8 in multiples of 8; 8 * 1.4**2 = 15.7 is 16.
    growth = regnet(6, 8, 1.6, 1.4)
    assert growth == Growth((8, 16), (4, 2))


@pytest.mark.parametrize("depth", [1, 2, 4, 9, 30])
@pytest.mark.parametrize("w_m", [1.5, 2.0, 2.88])
@pytest.mark.parametrize("stages", [1, 3, 4, 5])
def test_a_network_has_the_stages_it_must_have(depth, w_m, stages):
    widths, depths = regnet_stages(depth, 16, w_m, stages)
    assert len(widths) == len(depths) == stages
    assert min(depths) >= 1
    assert max(depth, stages) <= sum(depths) <= depth + stages
    assert list(widths) == sorted(widths)
    assert all(width % 8 == 0 for width in widths)


def test_widths_grow_by_one_ratio_up_to_a_cap():
    assert constant_ratio(16, 2, 4) == (16, 32, 64, 128)
    assert constant_ratio(16, 2, 4, cap=96) == (16, 32, 64, 96)
    # 36 and 54 lie halfway and nearer to 56.
    assert constant_ratio(16, 1.5, 4) == (16, 24, 32, 56)
    assert constant_ratio(8, 1, 3) == (8, 8, 8)


def test_multiples_are_the_nearest_and_never_zero():
    assert [multiple(width) for width in (1, 8, 11.9, 12.1, 20, 28)] == [8, 8, 8, 16, 16, 32]
    assert multiple(392, 16) == 384


@pytest.mark.parametrize(
    "call",
    [
        lambda: constant_ratio(0, 2, 4),
        lambda: constant_ratio(8, 0.5, 4),
        lambda: regnet(0, 24, 24, 2.5),
        lambda: regnet(8, 24, 24, 1.0),
        lambda: regnet_stages(8, 24, 2.0, 0),
    ],
)
def test_impossible_rules_are_refused(call):
    with pytest.raises(ValueError, match="expected a"):
        call()
