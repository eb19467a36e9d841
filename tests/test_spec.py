"""Specs say what is wrong with them, hash, and go through JSON and back."""

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.config import read_config
from flaxyolo.spec import (
    BackboneSpec,
    DetectorSpec,
    HeadSpec,
    NeckSpec,
    StageSpec,
    detector_from_dict,
    to_dict,
)
from tests.small import tiny_spec

YOLOV8N = Path(__file__).parents[1] / "configs/yolov8n.yaml"


def stages(*widths, **changes):
    return tuple(StageSpec(block="plain", width=w, depth=1, **changes) for w in widths)


def changed(**changes):
    """The tiny spec as plain data with entries replaced; `neck__kind` is `neck.kind`."""
    data = to_dict(tiny_spec())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 3}, "widht: unknown key"),
        ({"backbone__stages__1__widht": 3}, "backbone.stages.1.widht: unknown key"),
        ({"backbone__stages__0__width": 12}, "backbone.stages.0.width: .*multiple of 8, got 12"),
        ({"backbone__stages__0__width": 0}, "backbone.stages.0.width: .*or equal to 8, got 0"),
        ({"backbone__stages__0__depth": 0}, "depth: .*greater than or equal to 1, got 0"),
        ({"backbone__stages__0__stride": 3}, "stride: .*1 or 2, got 3"),
        ({"backbone__stages": []}, "backbone.stages: .*at least 3 items"),
        ({"backbone__stem_width": "wide"}, "stem_width: .*valid integer, .*got 'wide'"),
        ({"head__reg_max": 1}, "head.reg_max: .*greater than or equal to 2, got 1"),
        ({"norm": "layer"}, "norm: .*'batch', 'group' or 'sync_batch', got 'layer'"),
        ({"num_classes": 0}, "num_classes: .*greater than or equal to 1, got 0"),
        ({"neck__levels": [3, 5]}, r"neck: levels must be a run such as \[3, 4, 5\], got \[3, 5\]"),
        ({"neck__levels": [1, 2]}, r"neck: levels must be a run .*got \[1, 2\]"),
        ({"neck__levels": []}, "neck.levels: .*at least 1 item"),
        (
            {"neck__widths": [8, 8, 8]},
            "neck: widths must have one entry for each of the 2 levels, got 3",
        ),
        ({"neck__levels": [3, 4, 5]}, r"needs C5, but the backbone gives C2, C3, C4; change"),
        ({"image_size": 100}, "image_size must be a multiple of the network's stride 16, got 100"),
    ],
)
def test_a_wrong_entry_is_named_with_its_path(change, message):
    with pytest.raises(InputError, match=f"^sketch: .*{message}") as caught:
        detector_from_dict(changed(**change), "sketch")
    assert "\n" not in str(caught.value)


def test_a_missing_entry_is_named():
    data = changed()
    del data["backbone"]["stages"][2]["block"]
    with pytest.raises(InputError, match=r"^detector: backbone\.stages\.2\.block: missing"):
        detector_from_dict(data)


def test_all_wrong_entries_are_named_at_once():
    with pytest.raises(InputError) as caught:
        detector_from_dict(changed(norm="layer", num_classes=0, more=1))
    for name in ("norm", "num_classes", "more"):
        assert f"{name}: " in str(caught.value)


def test_what_is_not_a_mapping_is_refused():
    with pytest.raises(InputError, match=r"^detector: "):
        detector_from_dict([1, 2])


@pytest.mark.parametrize("spec", [tiny_spec(), read_config(YOLOV8N).detector])
def test_a_spec_goes_through_json_and_back(spec):
    back = detector_from_dict(json.loads(json.dumps(to_dict(spec))))
    assert back == spec
    assert hash(back) == hash(spec)


def test_equal_specs_are_one_key_and_a_change_is_another():
    assert {tiny_spec(): 1}[tiny_spec()] == 1
    assert tiny_spec(num_classes=4) != tiny_spec()
    assert len({tiny_spec(), tiny_spec(), tiny_spec(norm="group")}) == 2


def test_a_spec_cannot_be_changed_and_a_replacement_is_checked():
    with pytest.raises(FrozenInstanceError):
        tiny_spec().num_classes = 5  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="image_size must be a multiple"):
        replace(tiny_spec(), image_size=72)


def test_levels_follow_the_strides():
    backbone = BackboneSpec(stem_width=8, stages=stages(8, 16, 24, 32))
    assert backbone.level_widths == {2: 8, 3: 16, 4: 24, 5: 32}
    # A stage without stride replaces the level before it.
    flat = (*stages(8, 16), *stages(24, stride=1), *stages(32))
    assert BackboneSpec(stem_width=8, stages=flat).level_widths == {2: 8, 3: 24, 4: 32}


def test_strides_and_widths_of_the_levels():
    backbone = BackboneSpec(stem_width=8, stages=stages(8, 16, 24, 32, 40))
    spec = DetectorSpec(backbone=backbone, neck=NeckSpec(levels=(3, 4, 5, 6)), image_size=128)
    assert spec.strides == (8, 16, 32, 64)
    assert spec.neck_widths == (16, 24, 32, 40)
    own = replace(spec, neck=NeckSpec(levels=(5, 6), widths=(48, 56)))
    assert own.neck_widths == (48, 56)


def test_the_head_follows_yolov8_unless_told_otherwise():
    spec = read_config(YOLOV8N).detector
    assert (spec.box_width, spec.class_width) == (64, 80)
    wide = replace(spec, neck=NeckSpec(widths=(320, 320, 320)), num_classes=300)
    assert (wide.box_width, wide.class_width) == (80, 320)
    few = replace(spec, num_classes=10, head=HeadSpec(reg_max=4))
    assert (few.box_width, few.class_width) == (16, 64)
    own = replace(spec, head=HeadSpec(box_width=24, class_width=40))
    assert (own.box_width, own.class_width) == (24, 40)


def test_specs_are_read_without_jax():
    code = "import sys, flaxyolo.spec; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
