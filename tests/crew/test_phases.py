"""What a run begins with."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optuna
import pytest

from flaxyolo.config import TrainConfig
from flaxyolo.cost import again
from flaxyolo.cost.budget import Budget
from flaxyolo.cost.measure import compiled_network, measure
from flaxyolo.cost.reference import reference_call
from flaxyolo.crew.phases import Prepared, first_weights, measured
from flaxyolo.crew.record import Entry
from flaxyolo.crew.surroundings import Surroundings
from flaxyolo.data.sources import Dataset
from flaxyolo.nn.detector import compiled_detect, initial_weights
from flaxyolo.weights.transfer import Source, begun_from
from tests.small import tiny_feed, tiny_spec

NAMES = ("red", "green", "blue")
SOURCE = Source(Path("parent"), initial_weights(tiny_spec(), 1), tiny_spec(), NAMES)


def ready(spec):
    """A network with 16 images."""
    feed, data = tiny_feed(16), Dataset("made", (), (), NAMES, (1, 2, 3), "print")
    return Prepared(spec, data, feed, feed.pixels)


def begun(spec, source=SOURCE):
    """The first weights of a run of 8 steps, and its record."""
    entry = Entry(optuna.create_study().ask())
    weights = first_weights(ready(spec), TrainConfig(epochs=2, batch_size=4), source, entry)
    return weights, entry.record


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


def test_others_may_train_while_a_network_is_compiled_that_is_to_be_measured(monkeypatch):
    """The device is left alone for the calls, and for nothing else."""
    compiled_detect.cache_clear()
    compiled_network.cache_clear()
    reference_call.cache_clear()

    def programs():
        return [each.cache_info().misses for each in (compiled_detect, compiled_network)]

    seen = []

    @contextmanager
    def alone(kind):
        before = programs()
        yield
        seen.append((kind, before, programs()))

    around = Surroundings(quiet=partial(alone, "quiet"), busy=partial(alone, "busy"))
    monkeypatch.setattr(again, "measure", partial(measure, min_calls=2, min_seconds=0.0))
    entry = Entry(optuna.create_study().ask())
    cost = measured(ready(tiny_spec()), Budget(), entry, around)
    assert cost.latency_ms_p50 > 0
    # With the reference network.
    assert seen == [("busy", [0, 0], [2, 1]), ("quiet", [2, 1], [2, 1])]
    assert entry.record.seconds.keys() == {"compile", "measure"}


@pytest.mark.slow
def test_fresh_layers_of_inherited_weights_are_mended(caplog):
    caplog.set_level("INFO")
    block = replace(tiny_spec().backbone.stages[1], block="depthwise")
    stages = tiny_spec().backbone.stages
    backbone = replace(tiny_spec().backbone, stages=(stages[0], block, stages[2]))
    spec = tiny_spec(backbone=backbone)
    weights, record = begun(spec)
    assert differ(weights, begun_from(SOURCE, spec, 0, NAMES).weights)
    assert record.mended > 0
    assert record.seconds["mend"] > 0
    assert "parent: fresh layers fitted: after 8 steps" in caplog.text


def test_weights_without_fresh_layers_are_as_they_were_inherited():
    weights, record = begun(tiny_spec())
    assert not differ(weights, SOURCE.weights)
    assert record.inherited == 1
    assert record.mended is None
    assert "mend" not in record.seconds


def test_arrays_of_no_known_network_are_not_mended():
    _, record = begun(tiny_spec(), SOURCE._replace(spec=None))
    assert record.inherited == 1
    assert record.mended is None


def test_a_run_that_can_inherit_nothing_begins_with_fresh_weights(caplog):
    shrunk = jax.tree.map(lambda array: np.zeros((1,) * 5), SOURCE.weights)
    weights, record = begun(tiny_spec(), SOURCE._replace(spec=None, weights=shrunk))
    assert weights is None
    assert record.inherited is None
    assert "this trial begins with fresh weights" in caplog.text
