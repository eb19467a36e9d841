"""Plans change one variable an arm, and what is wrong with one is said in a line."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from flaxyolo.ablation.paths import changed, differences, fields
from flaxyolo.ablation.plan import AblationPlan, read_plan, write_plan
from flaxyolo.ablation.results import Arm
from flaxyolo.base.errors import InputError
from flaxyolo.config import Config, TrainConfig, fitted, write_config
from flaxyolo.spec import DetectorSpec, HeadSpec, NeckSpec, to_dict
from tests.small import tiny_spec

PLANS = sorted((Path(__file__).parents[2] / "configs" / "ablations").glob("*.yaml"))


def one_variable(before: DetectorSpec, after: DetectorSpec) -> set[str]:
    """What differs, by a slow look at every value; a stride plan has a name of its own."""
    names = set()
    for name in ("norm", "activation", "image_size"):
        if getattr(before, name) != getattr(after, name):
            names.add(name)
    for name in (field for field in to_dict(before.backbone) if field not in ("stages", "stem")):
        if getattr(before.backbone, name) != getattr(after.backbone, name):
            names.add(f"backbone.{name}")
    for name in to_dict(before.neck):
        if getattr(before.neck, name) != getattr(after.neck, name):
            names.add("stride plan" if name == "levels" else f"neck.{name}")
    for one, other in zip(before.backbone.stages, after.backbone.stages, strict=False):
        for name in to_dict(one):
            if getattr(one, name) != getattr(other, name):
                names.add("stride plan" if name == "stride" else f"stages.{name}")
    if before.backbone.stem != after.backbone.stem:
        names.add("stride plan")
    if len(before.backbone.stages) != len(after.backbone.stages):
        names.add("stride plan")
    # As they take effect: None follows the finest level.
    widths = ("box_width", "class_width")
    if [getattr(before, name) for name in widths] != [getattr(after, name) for name in widths]:
        names.add("head widths")
    heads = [replace(spec.head, box_width=None, class_width=None) for spec in (before, after)]
    if heads[0] != heads[1]:
        names.add("head")
    return names


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_arm_of_the_plans_is_a_network_that_differs_in_one_variable(path):
    plan = read_plan(path)
    baseline = fitted(plan.baseline, num_classes=3, mirror=True, image_size=192, epochs=30)
    assert plan.arms[0] == Arm("baseline", {})
    for base in (plan.baseline, baseline):
        # Every network is traced, so that a name that no table has is found.
        configs = plan.configs(base)
        for arm in plan.arms[1:]:
            assert not arm.joint
            assert len(arm.why) > 20
            config = configs[arm.name]
            network = one_variable(base.detector, config.detector)
            training = {
                name
                for name, value in to_dict(base.training).items()
                if to_dict(config.training)[name] != value
            }
            assert len(network | training) == 1


def test_there_are_the_plans_of_the_classic_questions():
    assert {path.stem for path in PLANS} == {
        "classic", "stride_plan", "block_type", "p2", "resolution",
    }  # fmt: skip
    classic = read_plan(next(path for path in PLANS if path.stem == "classic"))
    assert [arm.changes for arm in classic.arms] == [
        {},
        {"norm": "group"},
        {"backbone.stages.2.attention": "se"},
        {"neck.attention": "cbam"},
        {"backbone.drop_path": 0.1},
    ]


def plan_of(tmp_path, arms, config=None):
    write_config(tmp_path / "base.yaml", config or Config(tiny_spec()))
    path = tmp_path / "plan.yaml"
    path.write_text(arms if isinstance(arms, str) else yaml.safe_dump(
        {"baseline": "base.yaml", "arms": arms}, sort_keys=False
    ))  # fmt: skip
    return path


def test_a_plan_is_read_with_its_shorthands_and_written_back_equal(tmp_path):
    arms = {
        "a": {"norm": "group", "why": "because"},
        "b": {"backbone.stages.*.block": "residual"},
        "c": {"training.learning_rate": 0.01},
        "d": {"augmentation.mosaic": 0.5, "backbone.drop_path": 0.1, "joint": True},
        "e": {"resolution": 0.7},
        "f": {"neck.attention": ["none", "se"]},
    }
    plan = read_plan(plan_of(tmp_path, arms))
    assert [arm.name for arm in plan.arms] == ["baseline", *arms]
    assert plan.arms[1] == Arm("a", {"norm": "group"}, why="because")
    configs = plan.configs()
    assert configs["baseline"] == plan.baseline
    assert {stage.block for stage in configs["b"].detector.backbone.stages} == {"residual"}
    assert configs["c"].training == TrainConfig(learning_rate=0.01)
    assert configs["d"].training.augmentation.mosaic == 0.5
    # 0.7 x 64 is 44.8, the nearest multiple of the stride 16 is 48.
    assert configs["e"].detector == tiny_spec(image_size=48)
    assert configs["f"].detector.neck.attention == ("none", "se")
    write_plan(plan, "base.yaml", "two\nlines")
    assert read_plan(plan.path) == plan
    assert plan.path.read_text().startswith("# two\n# lines\nbaseline: base.yaml\n")


def test_a_resolution_follows_the_baseline_of_the_command(tmp_path):
    plan = read_plan(plan_of(tmp_path, {"half": {"resolution": 0.5}}))
    larger = Config(tiny_spec(image_size=128))
    assert plan.configs(larger)["half"].detector.image_size == 64
    # At 16 px, one cell, a half is no other size.
    with pytest.raises(InputError, match=r"arm 'half': resolution is 0.5 in the baseline already"):
        plan.configs(Config(tiny_spec(image_size=32, neck=NeckSpec("fpn", (3, 4, 5), "plain"),
                                      backbone=deeper(), head=HeadSpec())))  # fmt: skip


def deeper():
    backbone = tiny_spec().backbone
    return replace(backbone, stages=(*backbone.stages, backbone.stages[-1]))


def test_a_stride_plan_keeps_the_heads_widths():
    base = Config(DetectorSpec(deeper(), NeckSpec("fpn", (3, 4, 5), "plain"), num_classes=3))
    assert (base.detector.feature_widths[0], base.detector.class_width) == (16, 16)
    fine = changed(base, {"stride_plan": "P2-P4"}, "here").detector
    assert fine.neck.levels == (2, 3, 4)
    assert len(fine.backbone.stages) == 3
    assert (fine.feature_widths[0], fine.class_width, fine.box_width) == (8, 16, 64)
    patchify = changed(base, {"stride_plan": "P3-P5 patchify"}, "here").detector
    assert patchify.backbone.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"a": {"norm": "batch"}}, "arm 'a': norm is 'batch' in the baseline already"),
        ({"a": {"norm": "group"}, "b": {"norm": "group"}}, "arm 'b': is the same as arm 'a'"),
        ({"a": {"norm": "grup"}}, "got 'grup'; did you mean 'group'?"),
        (
            {"a": {"backbone.stage.2.attention": "se"}},
            "got 'backbone.stage.2.attention'; did you mean 'backbone.stages.2.attention'?",
        ),
        (
            {"a": {"backbone.stages.3.attention": "se"}},
            "the baseline's stages are 0 to 2",
        ),
        ({"a": {"backbone.stages.*.blok": "c3"}}, "did you mean 'backbone.stages.*.block'?"),
        ({"a": {"learning_rat": 0.1}}, "did you mean 'learning_rate'?"),
        ({"a": {"norm.x": 1}}, "got 'norm.x'; did you mean 'norm'?"),
        ({"a": {"detector": 1}}, "got 'detector'"),
        ({"a": {"neck.attention": "cbm"}}, "got 'cbm' (did you mean 'cbam'?)"),
        ({"a": {"backbone.stages.0.width": 9}}, "backbone.stages.0.width: Input should be a"),
        ({"a": {"backbone.stages.*.attention": "window"}}, "is for strides of 16 and more"),
        ({"a": {"stride_plan": "P3-P7"}}, "a stride plan must be one of P3-P5, "),
        ({"a": {"stride_plan": "P3-P6"}}, "P3-P6 needs 5 stages, the baseline has 3"),
        ({"a": {"resolution": "half"}}, "expected a share of the baseline's size, such as 0.75"),
        ({"a": {"seed": 3}}, "seed cannot be an arm's: it comes from the runs' seeds (--seeds)"),
        ({"a": {"detector.num_classes": 3}}, "cannot be an arm's: it comes from the data"),
        (
            {"a": {"norm": "group", "activation": "relu"}},
            "expected one variable, got 2 (norm, activation); what changed the score could not",
        ),
        (
            {"a": {"augmentation": {"mosaic": 0, "flip": 0}}},
            "expected one variable, got 2 (augmentation)",
        ),
        (
            {"a": {"norm": "group", "activation": "silu", "joint": True}},
            "arm 'a': activation is 'silu' in the baseline already",
        ),
        ({"a": {"norm": "group", "joint": "yes"}}, "expected 'joint: true' or 'false'"),
        ({"a": {"why": "because"}}, "expected a change such as 'norm: group', got none"),
        ({"a": "group"}, "expected changes such as 'norm: group', got 'group'"),
        ({"baseline": {"norm": "group"}}, "expected a name of letters, digits"),
        ({"a/b": {"norm": "group"}}, "expected a name of letters, digits"),
        ({3: {"norm": "group"}}, "expected a name of letters, digits"),
        ({}, "got no arms"),
        ("baseline: base.yaml\narms:\n  a: {norm: group}\n  a: {norm: group}\n",
         ", line 4: not valid YAML: 'a' stands twice"),
        ("baseline: base.yaml\nextra: 1\narms: {a: {norm: group}}\n", "got unknown extra"),
        ("arms: {a: {norm: group}}\n", "got no path of a baseline"),
        ("baseline: none.yaml\narms: {a: {norm: group}}\n", "cannot read the config: No such"),
        ("just words\n", "expected 'baseline: CONFIG' and 'arms: "),
        ("a: [\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_refused_in_one_line(tmp_path, arms, words):
    path = plan_of(tmp_path, arms)
    with pytest.raises(InputError) as caught:
        read_plan(path)
    line = str(caught.value)
    assert words in line
    assert "\n" not in line
    assert line.startswith(str(tmp_path))


def test_a_missing_plan_and_one_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read the plan: No such file"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="expected a YAML plan in UTF-8"):
        read_plan(tmp_path / "b.yaml")


def test_differences_lead_from_one_config_to_the_other():
    one = Config(tiny_spec(), TrainConfig(epochs=3))
    other = Config(
        tiny_spec(norm="group", neck=NeckSpec("fpn", (3, 4), "plain", attention=("se", "none"))),
        TrainConfig(epochs=4),
    )
    found = differences(one, other)
    assert found == {"norm": "group", "neck.attention": ["se", "none"], "epochs": 4}
    assert changed(one, found, "here") == other
    shorter = Config(tiny_spec(backbone=deeper(), neck=NeckSpec("fpn", (3, 4, 5), "plain")))
    found = differences(one, shorter)
    assert isinstance(found["backbone.stages"], list)
    assert changed(one, found, "here") == shorter


def test_fields_name_every_value_once():
    found = fields(Config(tiny_spec()))
    assert found["backbone.stages.1.width"] == 16
    assert found["augmentation.mosaic"] == 1.0
    assert not [path for path in found if re.match("detector|training", path)]


def test_an_arm_that_does_not_fit_the_command_is_named(tmp_path):
    plan = read_plan(plan_of(tmp_path, {"a": {"epochs": 5}}))
    assert isinstance(plan, AblationPlan)
    with pytest.raises(InputError, match="arm 'a': epochs is 5 in the baseline already"):
        plan.configs(Config(tiny_spec(), TrainConfig(epochs=5)))
