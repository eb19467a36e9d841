import pytest

from flaxyolo.search.growth import Growth, constant_ratio, multiple, regnet_stages


def test_a_rule_worked_out_by_hand():
    # u = 16, 32, 48, ..., 128; log2(u / 16) = 0, 1, 1.58, 2, 2.32, 2.58, 2.81, 3.
    assert regnet_stages(8, 16, 2, 4) == Growth((16, 32, 64, 128), (1, 1, 3, 3))


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


@pytest.mark.parametrize(
    "call",
    [
        lambda: constant_ratio(0, 2, 4),
        lambda: constant_ratio(8, 0.5, 4),
        lambda: regnet_stages(8, 24, 2.0, 0),
        lambda: regnet_stages(0, 24, 2.5, 4),
        lambda: regnet_stages(8, 24, 1.0, 4),
    ],
)
def test_impossible_rules_are_refused(call):
    with pytest.raises(ValueError, match="expected a"):
        call()
