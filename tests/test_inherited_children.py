"""The benchmark of children: what naive slices are, and what its table says."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from benchmarks.inherited_children import CHANGED, RANDOM, children, naive, table
from flaxyolo.data.sources import Dataset
from flaxyolo.nn.detector import initial_weights
from flaxyolo.weights.transfer import Source
from tests.small import tiny_spec

SPEC = tiny_spec()
PARENT = Source(Path("parent"), initial_weights(SPEC, 0), SPEC)


def test_slices_of_an_equal_network_are_its_arrays():
    pairs = zip(
        jax.tree.leaves(naive(SPEC, PARENT, 1)), jax.tree.leaves(PARENT.weights), strict=True
    )
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_what_is_wider_is_padded_and_what_is_new_is_fresh():
    stages = tuple(replace(stage, width=2 * stage.width) for stage in SPEC.backbone.stages)
    child = replace(SPEC, backbone=replace(SPEC.backbone, stages=stages))
    sliced, fresh = naive(child, PARENT, 1), initial_weights(child, 1)
    padded = taken = 0
    for mine, drawn, old in zip(
        jax.tree.leaves(sliced.params), jax.tree.leaves(fresh.params),
        jax.tree.leaves(PARENT.weights.params), strict=True,
    ):  # fmt: skip
        assert mine.shape == drawn.shape
        if mine.ndim == 4 and mine.shape[2] > old.shape[2]:
            assert not np.asarray(mine)[:, :, old.shape[2] :, : old.shape[3]].any()
            padded += 1
        taken += mine.shape != old.shape
    assert 0 < padded <= taken


def test_children_are_ten_of_one_change_and_ten_at_random():
    data = Dataset("two", (), (), ("a", "b"), (1, 2), "")
    found = children(data, 0)
    assert len(found) == len(CHANGED) + RANDOM == len(set(found.values()))
    assert {spec.num_classes for spec in found.values()} == {2}
    assert found == children(data, 0)


def test_what_needs_no_mending_counts_as_inherited_in_the_mean():
    def way(*values):
        epochs = zip(("0", "1", "4"), values, strict=True)
        return {"scores": {epoch: {"objective": value} for epoch, value in epochs}, "share": 0.5}

    rows = [
        {"child": "a", "ways": {"naive": way(0, 0, 0), "inherited": way(0.2, 0.4, 0.6)}},
        {"child": "b", "ways": {"naive": way(0, 0, 0), "inherited": way(0, 0, 0),
                                "mended": way(0.4, 0.6, 0.8)}},
    ]  # fmt: skip
    lines = table(rows, 4).splitlines()
    assert "0.200 0.400 0.600 | nothing to mend" in lines[2]
    assert lines[-1].endswith("| 0.100 0.200 0.300 | 0.300 0.500 0.700 |")
