"""Converted checkpoints of other packages as parents of networks of the space."""

import re
from dataclasses import replace
from functools import lru_cache

import jax
import numpy as np
import optuna
import pytest

from flaxyolo import convert as command
from flaxyolo.config import TrainConfig
from flaxyolo.nn.detector import Weights, abstract_weights
from flaxyolo.search.space import reference_params, suggest_detector
from flaxyolo.training.loop import train
from flaxyolo.weights.conversion import convert
from flaxyolo.weights.inherit.detector import Inherited, inherit
from flaxyolo.weights.transfer import begun_from, path_text, read_source
from tests.foreign import CONFIGS, FAMILY_OF, spec_of, state_dict_of
from tests.small import tiny_feed

pytestmark = pytest.mark.slow

PARENTS = ("yolov8n", "yolo11n", "yolox-nano", "yolox-s", "rtmdet-tiny")
THEIRS = ("person", "bicycle", "car", *(f"class {number}" for number in range(3, 80)))
OURS = ("car", "cell", "person")
SAME = ((0, 2), (2, 0))
"""Places of the classes that both have, here and there."""


@lru_cache(maxsize=1)
def weights_of(name) -> Weights:
    return convert(state_dict_of(spec_of(name), FAMILY_OF[name]), spec_of(name)).weights


def inherited_by(child, name) -> Inherited:
    return inherit(child, spec_of(name), weights_of(name), 3, names=(OURS, THEIRS))


def baseline(size=64):
    suggest = suggest_detector
    spec = suggest(optuna.trial.FixedTrial(reference_params(suggest)))
    return replace(spec, num_classes=len(OURS), image_size=size)


def draws(count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    return [replace(suggest_detector(study.ask()), num_classes=len(OURS)) for _ in range(count)]


def class_kernels(weights):
    """Kernels of the class scores of every level, (width, classes), finest level first."""
    return [
        np.asarray(leaf)[0, 0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights.params)
        if path_text(path).startswith("head.cls.") and path_text(path).endswith("predict.kernel")
    ]


def check_classes(inherited, child, name):
    """Classes with a name of the parent's have its numbers, the others are fresh."""
    mine, theirs = class_kernels(inherited.weights), class_kernels(weights_of(name))
    levels = spec_of(name).neck.levels
    for level, kernel in zip(child.neck.levels, mine, strict=True):
        assert kernel.shape[1] == len(OURS)
        before = theirs[levels.index(level)] if level in levels else np.zeros((1, 80))
        taken = [np.isin(kernel[:, here], before[:, there]).mean() for here, there in SAME]
        assert min(taken) > 0.5 if level in levels else max(taken) == 0
        assert not np.isin(kernel[:, 1], before).any()


def check_form(inherited, child):
    wanted = abstract_weights(child)
    assert jax.tree.structure(inherited.weights) == jax.tree.structure(wanted)
    for array, shape in zip(
        jax.tree.leaves(inherited.weights), jax.tree.leaves(wanted), strict=True
    ):
        assert array.shape == shape.shape
        assert np.isfinite(array).all()


@pytest.mark.parametrize("name", PARENTS)
def test_the_same_network_of_other_classes_and_size_takes_all_but_its_classes(name):
    parent = spec_of(name)
    child = replace(parent, num_classes=len(OURS), image_size=320)
    inherited = inherited_by(child, name)
    check_form(inherited, child)
    check_classes(inherited, child, name)
    assert inherited.share > 0.99
    own = [part for part in inherited.parts if not part.path.startswith("head.cls.")]
    assert {part.kind for part in own} == {"copied"}
    told = {change.path.split(".")[0] for change in inherited.changes}
    assert told == {"head"}


LEAST = {"yolov8n": 0.35, "yolo11n": 0.35, "yolox-nano": 0.2, "yolox-s": 0.2, "rtmdet-tiny": 0.2}
"""Share of the baseline and of any draw, at least: their blocks may all be of another kind."""


@pytest.mark.parametrize("name", PARENTS)
def test_the_baseline_and_draws_of_the_default_space_take_what_they_can(name):
    levels = spec_of(name).neck.levels
    for child in (baseline(), *draws(2)):
        inherited = inherited_by(child, name)
        check_form(inherited, child)
        check_classes(inherited, child, name)
        assert inherited.share > LEAST[name]
        fresh = {part.path for part in inherited.parts if part.kind == "fresh"}
        places = [place for place, level in enumerate(child.neck.levels) if level in levels]
        for place in places:
            assert f"head.cls.{place}.layers.0.conv" not in fresh
            assert f"head.box.{place}.layers.0.conv" not in fresh
        for stage in range(4 if 5 in child.neck.levels else 3):
            assert f"backbone.stages.{stage}.downsample.conv.conv" not in fresh
        # Three convolutions of RTMDet's are no one convolution.
        assert ("backbone.stem.conv.conv" in fresh) == (name == "rtmdet-tiny")


@pytest.mark.parametrize("name", PARENTS)
def test_what_has_inherited_is_trained(name):
    spec = baseline()
    epochs = list(
        train(spec, tiny_feed(), OURS, TrainConfig(epochs=1, batch_size=4),
              initial=inherited_by(spec, name).weights)
    )  # fmt: skip
    assert np.isfinite(jax.tree.leaves(epochs[-1].loss)).all()


@pytest.mark.parametrize("name", ["yolox-nano", "rtmdet-tiny"])
def test_a_head_with_objectness_and_a_shared_one_are_trained(name):
    spec = replace(spec_of(name), num_classes=len(OURS), image_size=64)
    epochs = list(
        train(spec, tiny_feed(4), OURS, TrainConfig(epochs=1, batch_size=4),
              initial=inherited_by(spec, name).weights)
    )  # fmt: skip
    assert np.isfinite(jax.tree.leaves(epochs[-1].loss)).all()


def test_the_command_gives_a_parent_that_is_told(tmp_path, capsys):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(state_dict_of(spec_of("yolox-nano"), "yolox"), tmp_path / "w.safetensors")
    (tmp_path / "names.txt").write_text("\n".join(THEIRS))
    given = [str(tmp_path / "w.safetensors"), "--config", str(CONFIGS / "yolox-nano.yaml")]
    given += ["--class-names", str(tmp_path / "names.txt"), "--out", str(tmp_path / "parent")]
    assert command.main(given) == 0
    begun = begun_from(read_source(tmp_path / "parent"), baseline(), 0, OURS)
    assert begun.inherited is not None
    assert 0.2 < begun.inherited.share < 1
    told = rf"{tmp_path / 'parent'}: \d+% of [\d,]+ parameters inherited .* not as the parent: "
    assert re.search(told, capsys.readouterr().err)
