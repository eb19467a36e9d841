"""Starting from another detector, or from arrays alone, of which those that fit are copied."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxyolo.base.errors import InputError
from flaxyolo.nn.detector import Weights, initial_weights
from flaxyolo.spec import DetectorSpec
from flaxyolo.weights.checkpoint import load_detector
from flaxyolo.weights.inherit.detector import Inherited, inherit
from flaxyolo.weights.inherit.walk import path_text

log = logging.getLogger(__name__)

SHOWN = 3
"""Names of arrays told in a line."""


class Transfer(NamedTuple):
    """Weights of which some were taken from elsewhere, and how many those are."""

    weights: Weights
    taken: int
    arrays: int
    taken_params: int
    params: int
    """Trained ones; running statistics count among the arrays alone."""
    left: tuple[str, ...]
    """Paths of the arrays that stayed as they were."""

    def describe(self, path: Path) -> str:
        """What was taken from there, in a line."""
        text = (
            f"{self.taken} of {self.arrays} arrays "
            f"({self.taken_params:,} of {self.params:,} parameters) taken from {path}"
        )
        return f"{text}; first not taken: {', '.join(self.left[:SHOWN])}" if self.left else text


class Source(NamedTuple):
    """What to start from, with where it was read; without a spec only arrays that fit are taken."""

    path: Path
    weights: Weights
    spec: DetectorSpec | None = None
    class_names: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Equal for equal weights, wherever they are."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.weights):
            digest.update(path_text(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()[:12]


def read_source(path: Path) -> Source:
    """The weights of a detector's checkpoint; InputError where it is not one."""
    detector = load_detector(path)
    return Source(path, detector.weights, detector.spec, tuple(detector.class_names))


def transfer(fresh: Weights, source: Weights) -> Transfer:
    """`fresh`, with every array that `source` has at the same path and of the same shape."""
    held = dict(_leaves(source))
    left, taken_arrays, taken_params = [], 0, 0

    def choose(path: Any, leaf: jax.Array) -> jax.Array:
        nonlocal taken_arrays, taken_params
        name = path_text(path)
        found = held.get(name)
        if found is None or found.shape != leaf.shape:
            left.append(name)
            return leaf
        taken_arrays += 1
        taken_params += leaf.size if name.startswith("params.") else 0
        # A copy: a training step donates its arrays.
        return jnp.array(found, leaf.dtype)

    weights = jax.tree_util.tree_map_with_path(choose, fresh)
    return Transfer(
        weights=weights,
        taken=taken_arrays,
        arrays=len(jax.tree.leaves(fresh)),
        taken_params=taken_params,
        params=sum(leaf.size for leaf in jax.tree.leaves(fresh.params)),
        left=tuple(left),
    )


class Begun(NamedTuple):
    """First weights, and how near they are to what they come from."""

    weights: Weights
    share: float
    """0 to 1."""
    inherited: Inherited | None = None
    """What became of every layer, where the source is a detector."""


def begun_from(
    source: Source, spec: DetectorSpec, seed: int, class_names: Sequence[str] = ()
) -> Begun:
    """Weights that begin with what the source has, told in the log; InputError if nothing fits.

    Those of a detector are inherited, channel by channel, whatever differs between the two; its
    classes are those of `class_names` that have their names.
    """
    if source.spec is not None:
        names = (class_names, source.class_names) if class_names else None
        inherited = inherit(spec, source.spec, source.weights, seed, names=names)
        if not inherited.share:
            raise InputError(f"{source.path}: nothing of it can be inherited by this detector")
        log.info("%s: %s", source.path, inherited.describe())
        return Begun(inherited.weights, inherited.nearness, inherited)
    found = transfer(initial_weights(spec, seed), source.weights)
    if not found.taken:
        raise InputError(
            f"{source.path}: none of its arrays fits this detector; start from a checkpoint of a "
            "network with the same parts and widths"
        )
    log.info("%s", found.describe(source.path))
    return Begun(found.weights, found.taken_params / found.params)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [(path_text(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
