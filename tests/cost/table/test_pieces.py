"""The key of a piece holds every field of the spec that can change its time."""

import json
from dataclasses import dataclass, fields, replace

import pytest

from flaxyolo.cost.table import file as latency_file
from flaxyolo.cost.table.pieces import KINDS, LEFT_OUT, pieces
from flaxyolo.spec import BackboneSpec, DetectorSpec, HeadSpec, NeckSpec, StageSpec
from tests.small import tiny_spec

PARTS = {
    "detector": DetectorSpec,
    "backbone": BackboneSpec,
    "stage": StageSpec,
    "neck": NeckSpec,
    "head": HeadSpec,
}
KEYED = {
    "stem": {"detector", "backbone"},
    "stage": {"detector", "backbone", "stage"},
    "neck": {"detector", "neck"},
    "head": {"detector", "head"},
    "nms": {"detector", "head"},
}


def keys(spec):
    return {piece.key for piece in pieces(spec)}


def test_every_field_of_the_spec_is_in_a_key_or_left_out_with_a_reason():
    for piece in pieces(tiny_spec()):
        key, left_out = json.loads(piece.key), set(LEFT_OUT[piece.kind])
        assert set(key) == {"kind", "in"} | KEYED[piece.kind]
        named = {f"{part}.{field}" for part in KEYED[piece.kind] for field in key[part]}
        known = {
            f"{part}.{field.name}" for part in KEYED[piece.kind] for field in fields(PARTS[part])
        }
        assert not named & left_out
        assert (named | left_out) - {"stage.before", "stage.after"} == known
    assert all(reason for kind in KINDS for reason in LEFT_OUT[kind].values())


@dataclass(frozen=True)
class NewDetector(DetectorSpec):
    new: int = 0


@dataclass(frozen=True)
class NewBackbone(BackboneSpec):
    new: int = 0


@dataclass(frozen=True)
class NewStage(StageSpec):
    new: int = 0


@dataclass(frozen=True)
class NewNeck(NeckSpec):
    new: int = 0


@dataclass(frozen=True)
class NewHead(HeadSpec):
    new: int = 0


def with_new(spec, part, value):
    """The spec with a field more in one of its parts, in a stage in the first."""
    kind = {kind.__mro__[1]: kind for kind in (NewBackbone, NewStage, NewNeck, NewHead)}

    def grown(part):
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        return kind[type(part)](**values, new=value)

    if part == "detector":
        return NewDetector(*(getattr(spec, field.name) for field in fields(spec)), new=value)
    if part == "stage":
        first, *others = spec.backbone.stages
        return replace(spec, backbone=replace(spec.backbone, stages=(grown(first), *others)))
    return replace(spec, **{part: grown(getattr(spec, part))})


@pytest.mark.parametrize(
    ("part", "kinds"),
    [
        ("detector", ("stem", "stage", "stage", "stage", "neck", "head", "nms")),
        ("backbone", ("stem", "stage", "stage", "stage")),
        ("stage", ("stage",)),
        ("neck", ("neck",)),
        ("head", ("head", "nms")),
    ],
)
def test_a_field_that_the_spec_is_given_later_shares_no_time(part, kinds):
    one, other = (pieces(with_new(tiny_spec(), part, value)) for value in (1, 2))
    differ = [a.kind for a, b in zip(one, other, strict=True) if a.key != b.key]
    assert tuple(differ) == kinds


def test_fields_that_follow_others_share_the_time_of_those_that_say_it():
    spec = tiny_spec()
    stages = tuple(replace(stage, down_width=stage.width) for stage in spec.backbone.stages)
    said = replace(
        spec,
        backbone=replace(spec.backbone, stages=stages, drop_path=0.2),
        neck=replace(
            spec.neck,
            widths=spec.neck_widths,
            block=spec.neck.blocks,
            downsample=("pool", *spec.neck.downsamples[1:]),
        ),
        head=replace(spec.head, reg_max=spec.head.bins, attention=spec.head_attentions),
        norm="sync_batch",
    )
    assert keys(said) == keys(spec)


def test_a_table_whose_keys_were_made_otherwise_is_another_file(monkeypatch, tmp_path):
    before = latency_file.conditions()
    other = tmp_path / "table" / "file.py"
    other.parent.mkdir()
    (other.parent / "pieces.py").write_text("other keys")
    monkeypatch.setattr(latency_file, "__file__", str(other))
    latency_file.conditions.cache_clear()
    try:
        after = latency_file.conditions()
    finally:
        latency_file.conditions.cache_clear()
    assert before["layers"] != after["layers"]
    assert latency_file.file_name(before) != latency_file.file_name(after)
