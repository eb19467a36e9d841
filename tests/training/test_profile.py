"""A profile: a trace of a few steps, and what it says as text."""

import re

import jax
import pytest

from flaxyolo.base.errors import InputError
from flaxyolo.config import TrainConfig
from flaxyolo.training import profile as module_of_profiles
from flaxyolo.training.loop import train
from flaxyolo.training.profile import (
    Event,
    Operation,
    Piece,
    described,
    events,
    module,
    operations,
    pieces,
    profiling,
)
from tests.small import tiny_feed, tiny_spec

CONFIG = TrainConfig(epochs=3, batch_size=4, warmup_epochs=0)


def event(name, start, length, elapsed=None):
    return Event(name, start * 1e6, length * 1e6, (elapsed or length) * 1e6)


def test_a_loop_has_the_time_that_its_operations_leave():
    lines = [
        [event("while", 0, 10), event("add", 1, 3), event("mul", 5, 2), event("add", 12, 1)],
        [event("add", 2, 4)],
    ]
    assert operations(lines) == [
        Operation("add", 8.0, 3),
        Operation("while", 5.0, 1),
        Operation("mul", 2.0, 1),
    ]


def test_what_goes_on_on_other_threads_counts_until_it_is_done():
    assert operations([[event("conv", 0, 1, elapsed=6)]]) == [Operation("conv", 6.0, 1)]


@pytest.mark.parametrize(
    ("op_name", "expected"),
    [
        (
            "jit(train_step)/jvp(backbone)/stage1/block/conv_general_dilated",
            "backbone.stage1.block",
        ),
        ("jit(train_step)/transpose(jvp(head))/box/add_any", "head.box, backward"),
        ("jit(train_step)/jvp(jit(silu))/neck/mul", "neck"),
        ("jit(train_step)/shard_map/optimizer/while/body/mul", "optimizer"),
        ("jit(train_step)/jvp()/neck", None),
        ("jit(train_step)/broadcast_in_dim", None),
    ],
)
def test_the_part_is_read_from_the_scopes(op_name, expected):
    assert module(op_name) == expected


def test_a_kernel_gradient_without_a_name_is_of_the_layer_whose_gradient_it_takes():
    program = """HloModule jit_train_step
  %images = f32[4,8]{1,0} fusion(), calls=%f, metadata={op_name="jit(train_step)/batch/mul"}
  %given = f32[4,9]{1,0} fusion(%x.1), metadata={op_name="jit(s)/transpose(jvp(neck))/mul"}
  %copy.1 = f32[4,9]{1,0} copy(%given)
  ROOT %convolution.7 = f32[3,3]{1,0} convolution(%images, %copy.1), window={size=3x3}
  %loop.2 = (s32[], /*index=5*/f32[4,9]{1,0}) while(%tuple), metadata={op_name="jit(s)/batch/while"}
  %lonely = f32[] constant(0)
"""
    found = pieces(program)
    assert found["images"] == Piece("fusion f32[4,8]", "batch")
    assert found["convolution.7"] == Piece("convolution f32[3,3]", "neck, backward", guessed=True)
    assert found["loop.2"] == Piece("while several arrays", "batch")
    assert found["lonely"].module == "no part is named"


def test_the_text_gives_the_ten_dearest_and_every_part():
    found = [Operation(f"op.{number}", 20.0 - number, 2) for number in range(12)]
    known = {one.name: Piece("add f32[2]", "neck, backward") for one in found[:11]}
    text = described(found, known, steps=2)
    lines = text.splitlines()
    assert sum(" op." in line for line in lines) == 10
    assert lines[2].split() == ["10", "11.5%", "2", "op.0:", "add", "f32[2],", "neck,", "backward"]
    assert lines[-2].split()[-2:] == ["neck,", "backward"]
    assert lines[-1].split() == ["4.5", "5.2%", "no", "part", "is", "named"]


@pytest.mark.slow
def test_a_few_steps_are_traced_and_change_nothing(tmp_path, capsys):
    plain = list(train(tiny_spec(), tiny_feed(), ("a", "b", "c"), CONFIG))
    with profiling(tmp_path / "trace") as profile:
        epochs = train(tiny_spec(), tiny_feed(), ("a", "b", "c"), CONFIG, profile=profile)
        assert [epoch.loss for epoch in epochs] == [epoch.loss for epoch in plain]
    text = (tmp_path / "trace" / "operations.txt").read_text()
    assert capsys.readouterr().out.startswith(text)
    # Steps 4 to 8 of nine.
    (trace,) = (tmp_path / "trace").rglob("*.xplane.pb")
    ran = [one for line in events(trace, "jit_train_step") for one in line]
    calls = {one.name: one.calls for one in operations([ran])}
    assert min(calls.values()) == module_of_profiles.STEPS
    # Whichever are the dearest: the program knows where its convolutions are.
    known = pieces(profile.program)
    assert set(calls) <= set(known)
    convolutions = {one.module for one in known.values() if one.what.startswith("convolution")}
    assert {"backbone.stem", "backbone.stage0, backward", "head.box"} <= convolutions
    for part in ("backbone, backward", "batch", "loss", "optimizer", "average"):
        assert re.search(rf" {part}$", text, re.MULTILINE), part
    assert list((tmp_path / "trace").rglob("*.trace.json.gz"))
    assert not jax.config.jax_compilation_cache_include_metadata_in_key


def test_a_run_of_few_steps_says_that_nothing_was_traced(tmp_path, caplog):
    with profiling(tmp_path) as profile:
        step = profile.over(jax.jit(lambda x: x + 1).lower(1.0).compile())
        assert [float(step(number)) for number in (1.0, 2.0)] == [2.0, 3.0]
    assert "nothing was traced: that begins after 3 steps, and this command took 2" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_early_tells_of_the_steps_that_it_took(tmp_path):
    with profiling(tmp_path) as profile:
        step = profile.over(
            jax.jit(lambda x: (x @ x).sum()).lower(jax.numpy.ones((64, 64))).compile()
        )
        for _ in range(5):
            step(jax.numpy.ones((64, 64)))
    assert "over 2 steps" in (tmp_path / "operations.txt").read_text()


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "trace").write_text("mine")
    with pytest.raises(InputError, match="expected a folder"), profiling(tmp_path / "trace"):
        pass


def test_without_a_folder_nothing_is_profiled():
    with profiling(None) as profile:
        assert profile is None
