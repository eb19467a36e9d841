"""Starting from another detector: what fits is copied, the rest is told."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxyolo import sweep, train
from flaxyolo.base.errors import InputError
from flaxyolo.config import Config, TrainConfig, write_config
from flaxyolo.nn.detector import TrainedDetector, Weights, initial_weights
from flaxyolo.training.loop import train as train_epochs
from flaxyolo.training.plan import plan_run
from flaxyolo.training.step import start
from flaxyolo.trials.trial import run_name
from flaxyolo.weights.checkpoint import load_detector, save_detector
from flaxyolo.weights.transfer import Source, begun_from, read_source, transfer
from tests.small import tiny_feed, tiny_spec
from tests.tiny_data import flags, tiny_study, write_coco

NAMES = ("red", "green", "blue")


def saved(path, spec, seed=7):
    detector = TrainedDetector(spec, initial_weights(spec, seed), NAMES[: spec.num_classes])
    save_detector(path, detector, {})
    return detector


def named(weights):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }


def test_all_of_an_equal_network_is_taken():
    spec = tiny_spec()
    source = initial_weights(spec, 1)
    source = Weights(source.params, jax.tree.map(lambda x: x + 0.5, source.stats))
    found = transfer(initial_weights(spec, 0), source)
    assert found.taken == found.arrays
    assert found.taken_params == found.params == sum(x.size for x in jax.tree.leaves(source.params))
    assert found.left == ()
    for name, array in named(found.weights).items():
        np.testing.assert_array_equal(array, named(source)[name])


def test_another_number_of_classes_leaves_the_last_class_layers_alone(tmp_path):
    fresh = initial_weights(replace(tiny_spec(), num_classes=5), 0)
    source = initial_weights(tiny_spec(), 1)
    found = transfer(fresh, source)
    assert set(found.left) == {
        f"params.head.cls.{level}.predict.{array}"
        for level in (0, 1)
        for array in ("bias", "kernel")
    }
    left = sum(named(fresh)[name].size for name in found.left)
    assert found.taken_params == found.params - left
    assert found.taken == found.arrays - 4
    mine, before, theirs = named(found.weights), named(fresh), named(source)
    for name, array in mine.items():
        np.testing.assert_array_equal(array, (before if name in found.left else theirs)[name])
    line = found.describe(tmp_path)
    assert line.startswith(f"{found.taken} of {found.arrays} arrays ({found.taken_params:,} of ")
    assert f"taken from {tmp_path}; first not taken: params.head.cls.0.predict.bias," in line


def test_a_network_with_nothing_in_common_is_refused(tmp_path):
    shrunk = jax.tree.map(lambda x: jnp.zeros((1,) * 5), initial_weights(tiny_spec(), 0))
    with pytest.raises(InputError, match=r"none of its arrays fits"):
        begun_from(Source(tmp_path, shrunk), tiny_spec(), 0)


def test_a_run_starts_from_the_weights_and_leaves_them_whole():
    feed, config = tiny_feed(), TrainConfig(epochs=1, batch_size=4)
    initial = initial_weights(tiny_spec(), 5)
    state = start(plan_run(tiny_spec(), config, feed.pixels), initial)
    for name, array in named(state.weights).items():
        np.testing.assert_array_equal(array, named(initial)[name])
    list(train_epochs(tiny_spec(), feed, NAMES, config, initial=initial))
    assert all(np.isfinite(array).all() for array in named(initial).values())


def test_the_first_weights_are_part_of_what_a_run_is():
    spec, config = tiny_spec(), TrainConfig()
    one, again = (Source(Path(name), initial_weights(spec, 0)) for name in "ab")
    other = Source(Path("a"), initial_weights(spec, 1))
    names = [run_name(spec, config, "data", source) for source in (None, one, again, other)]
    assert names[1] == names[2]
    assert len(set(names)) == 3
    assert names[0] == run_name(spec, config, "data")
    taught = [run_name(spec, config, "data", None, teacher) for teacher in (one, again, other)]
    assert taught[0] == taught[1]
    assert len({*names, *taught}) == 5


@pytest.mark.slow
def test_train_takes_what_fits_once(tmp_path, capsys):
    source = saved(tmp_path / "source", tiny_spec())
    write_coco(tmp_path / "data")
    recipe = TrainConfig(epochs=1, batch_size=4, learning_rate=1e-9, warmup_epochs=0.0)
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec(), recipe))
    command = [str(tmp_path / "tiny.yaml"), "--data", f"coco:{tmp_path / 'data'}"]
    command += ["--out", str(tmp_path / "run"), "--init", str(tmp_path / "source")]
    # The tiny network is too small to learn a batch by heart.
    command += ["--no-preflight"]
    assert train.main(command) == 0
    assert "parameters inherited" in capsys.readouterr().err
    trained, given = named(load_detector(tmp_path / "run" / "last").weights), named(source.weights)
    name = "params.backbone.stem.conv.conv.kernel"
    # A rate of next to nothing moves next to nothing, and fresh weights are elsewhere.
    np.testing.assert_allclose(trained[name], given[name], atol=1e-4)
    fresh = named(initial_weights(tiny_spec(num_classes=2), 0))
    assert np.abs(fresh[name] - given[name]).max() > 0.01
    assert train.main(command) == 0
    assert "parameters inherited" not in capsys.readouterr().err


@pytest.mark.slow
def test_train_fits_another_block_to_the_parent_first(tmp_path, capsys):
    saved(tmp_path / "source", tiny_spec())
    stages = tuple(
        replace(stage, block="residual" if stage.width == 8 else stage.block)
        for stage in tiny_spec().backbone.stages
    )
    other = tiny_spec(backbone=replace(tiny_spec().backbone, stages=stages))
    write_config(tmp_path / "tiny.yaml", Config(other, TrainConfig(epochs=1, batch_size=4)))
    command = [str(tmp_path / "tiny.yaml"), "--data", f"coco:{write_coco(tmp_path / 'data')}"]
    command += ["--out", str(tmp_path / "run"), "--init", str(tmp_path / "source")]
    assert train.main([*command, "--no-preflight"]) == 0
    told = capsys.readouterr().err
    assert "parameters inherited" in told
    assert re.search(r"source: fresh layers (fitted|left as they are): .* features missed", told)


@pytest.mark.slow
def test_every_trial_of_a_sweep_takes_what_fits(tmp_path_factory, capsys):
    study = tiny_study(tmp_path_factory)
    base = study.parents[1]
    (log,) = (base / "as_made" / "tiny" / "workers").glob("*.log")
    told = r"^(?:trial .*)?(\S+): (\d+)% of [\d,]+ parameters inherited"
    taken = re.findall(told, log.read_text(), re.MULTILINE)
    # One line for each candidate; the finalist's run is that of its candidate.
    assert len(taken) == 2
    assert all(0 < int(share) < 100 for _, share in taken)
    assert {source for source, _ in taken} == {str(base / "source")}
    capsys.readouterr()
    assert sweep.main(flags(base)) == 2
    assert "init was" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--init", "--teacher"])
@pytest.mark.parametrize("command", [train, sweep])
def test_a_wrong_checkpoint_is_one_line(tmp_path, capsys, command, flag):
    write_coco(tmp_path / "data")
    write_config(tmp_path / "tiny.yaml", Config(tiny_spec()))
    given = ["--data", f"coco:{tmp_path / 'data'}", flag, str(tmp_path / "nowhere")]
    given += ["--out", str(tmp_path / "out")]
    more = [str(tmp_path / "tiny.yaml")] if command is train else ["--budget-ms", "10"]
    assert command.main([*more, *given]) == 2
    err = capsys.readouterr().err
    assert "nowhere: expected a checkpoint folder" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_source_is_read_from_a_checkpoint(tmp_path, caplog):
    detector = saved(tmp_path / "source", tiny_spec())
    source = read_source(tmp_path / "source")
    assert source.fingerprint == Source(tmp_path, detector.weights).fingerprint
    with caplog.at_level(logging.INFO, "flaxyolo"):
        begun_from(source, tiny_spec(num_classes=4), 0)
    assert "of 24,816 parameters inherited" in caplog.text
    assert "not as the parent: head (other classes)" in caplog.text
