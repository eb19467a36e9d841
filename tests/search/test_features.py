import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from flaxyolo.config import read_config
from flaxyolo.nn.blocks import BLOCKS
from flaxyolo.search.features import (
    FAMILIES,
    early_share,
    family,
    feature_names,
    features,
    matrix,
)
from flaxyolo.spec import BackboneSpec, NeckSpec, StageSpec
from tests.small import tiny_spec

ROOT = Path(__file__).resolve().parents[2]
COSTS = {"latency_ms": 8.0, "params": 2**20, "gflops": 0.5}


def draws(name, count=30):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    suggest = runpy.run_path(str(ROOT / "sweeps" / f"{name}.py"))["suggest"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask()) for _ in range(count)]


def rows_of(specs):
    rng = np.random.default_rng(0)
    return [
        features(
            spec,
            latency_ms=rng.uniform(1, 9),
            params=rng.uniform(1e5, 1e6),
            gflops=rng.uniform(0.1, 1),
            zero_cost={"nwot": rng.normal()},
        )
        for spec in specs
    ]


def three_stages(**changes):
    """C2 to C4 of widths 8, 16 and 32 and depths 1, 2 and 1."""
    stages = [
        StageSpec("plain", 8, 1),
        StageSpec("c3", 16, 2),
        StageSpec("residual", 32, 1, attention="se"),
    ]
    return tiny_spec(backbone=BackboneSpec(8, tuple(stages)), **changes)


def test_features_of_a_small_network_by_hand():
    row = features(three_stages(), **COSTS, zero_cost={"nwot": 70.5})
    assert row == {
        "log_image_size": 6,
        "log_latency_ms": 3,
        "log_params": 20,
        "log_gflops": -1,
        # 1 * (8/4)^2 + 2 * (16/8)^2 = 12 of 12 + 1 * (32/16)^2 = 16.
        "early_share": 0.75,
        "log_depth": 2,
        "log_width": 4,
        "finest_level": 3,
        "coarsest_level": 4,
        "family=plain": 0.25,
        "family=csp": 0.5,
        "family=residual": 0.25,
        "attention": 0.25,
        "neck.family=plain": 1,
        "neck.kind=fpn": 1,
        "activation=silu": 1,
        "norm=batch": 1,
        "nwot": 70.5,
    }


def test_a_late_stage_lowers_the_early_share():
    stages = [StageSpec("plain", 16, 1) for _ in range(4)]
    # 16 + 4 of 16 + 4 + 1 + 0.25.
    assert early_share(BackboneSpec(8, tuple(stages))) == pytest.approx(20 / 21.25)
    stages[3] = replace(stages[3], depth=4)
    assert early_share(BackboneSpec(8, tuple(stages))) == pytest.approx(20 / 22)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_a_family(name):
    assert family(name) in FAMILIES.values()


def test_families():
    assert [family(name) for name in ("repvgg", "grouped", "mbconv_k5", "elan", "cspnext")] == [
        "plain",
        "residual",
        "depthwise",
        "csp",
        "csp",
    ]
    assert family("no_such_block") == "no_such_block"


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "sweeps").glob("*.py")))
def test_random_draws_of_every_space_make_a_matrix(name):
    rows = rows_of(draws(name))
    names, values = matrix(rows)
    assert json.loads(json.dumps(rows[0])) == rows[0]
    assert len(names) == values.shape[1] == len(set(names))
    assert (np.nanmax(values, 0) > np.nanmin(values, 0)).all()
    assert not np.isnan(values).any()
    again = matrix(rows[::-1])
    assert again[0] == names
    np.testing.assert_array_equal(again[1], values[::-1])


def test_every_known_network_has_features():
    specs = [read_config(path).detector for path in sorted((ROOT / "configs").glob("*.yaml"))]
    names, values = matrix(rows_of(specs))
    assert values.shape == (len(specs), len(names))
    assert len(names) >= 9


def test_the_default_space_has_few_columns():
    specs = draws("default", 200)
    assert len(matrix(rows_of(specs))[0]) <= 17


def test_missing_numbers_are_unknown_and_missing_choices_absent():
    rows = [{"a": 1.0, "x=1": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 4.0, "b": 6.0}]
    names, values = matrix(rows)
    assert names == ("a", "b", "x=1")
    np.testing.assert_array_equal(values, [[1, np.nan, 1], [2, 5, 0], [4, 6, 0]])


def test_constant_columns_and_repeated_ones_are_dropped():
    rows = [
        {"a": 1.0, "b": 1.0, "copy": 10.0, "kind=x": 1.0, "bad": math.nan},
        {"a": 2.0, "b": 1.0, "copy": 20.0, "kind=y": 1.0, "bad": 3.0},
        {"a": 9.0, "copy": 90.0, "kind=x": 1.0, "bad": math.inf},
    ]
    assert feature_names(rows) == ("a", "kind=x")
    assert feature_names(rows[:1]) == ()
    assert matrix(rows[:1])[1].shape == (1, 0)
    assert matrix([])[1].shape == (0, 0)


def test_three_choices_are_three_columns():
    rows = [{"kind=x": 1.0}, {"kind=y": 1.0}, {"kind=z": 1.0}, {"kind=z": 1.0}]
    assert feature_names(rows) == ("kind=x", "kind=y", "kind=z")


def test_later_rows_take_the_columns_of_earlier_ones():
    names, _ = matrix([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 8.0}, {"a": 3.0, "b": 1.0}])
    later = matrix([{"b": 7.0, "c": 1.0}], names)
    assert later[0] == ("a", "b")
    np.testing.assert_array_equal(later[1], [[np.nan, 7]])


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_a_cost_must_be_a_number_above_zero(wrong):
    with pytest.raises(ValueError, match="expected numbers above 0, got gflops"):
        features(tiny_spec(), **(COSTS | {"gflops": wrong}))


def test_finest_level_follows_the_neck():
    spec = tiny_spec(neck=NeckSpec(kind="fpn", levels=(2, 3, 4), block="plain"))
    assert features(spec, **COSTS)["finest_level"] == 2
