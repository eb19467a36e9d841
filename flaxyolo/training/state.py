"""A run's state on the disk, from which it goes on bit for bit."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from flaxyolo.base.errors import InputError
from flaxyolo.weights.checkpoint import finish_replacing, replace_checkpoint

T = TypeVar("T")

STATE_FORMAT = 2


def save_state(path: Path, state: Any, facts: Mapping[str, Any]) -> None:
    """Write a whole training state, so that a run can go on bit for bit.

    Its arrays are written end to end, one for each dtype: a state has hundreds, and Orbax takes
    about 5 ms for each, more than the training of a short epoch.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for leaf in jax.tree.leaves(jax.device_get(state)):
        parts.setdefault(leaf.dtype.name, []).append(leaf.ravel())
    metadata = {"format": STATE_FORMAT, "facts": json.loads(json.dumps(dict(facts)))}
    replace_checkpoint(
        path, {name: np.concatenate(arrays) for name, arrays in parts.items()}, metadata
    )


def load_state(path: Path, abstract: T) -> tuple[T, dict[str, Any]]:
    """The state and facts that `save_state` wrote; `abstract` gives structure and shapes.

    InputError where it was written for other shapes, or by another version.
    """
    facts = read_facts(path)
    leaves, structure = jax.tree.flatten(abstract)
    sizes: dict[str, int] = {}
    for leaf in leaves:
        sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + math.prod(leaf.shape)
    packed = ocp.load(str(path.resolve()))
    found = {name: array.size for name, array in packed.items()}
    if found != sizes:
        raise InputError(
            f"{path}: expected the training state of this network ({sizes} values), found {found}; "
            f"remove {path} to train from the beginning"
        )
    taken, arrays = dict.fromkeys(sizes, 0), []
    for leaf in leaves:
        name = leaf.dtype.name
        begin, taken[name] = taken[name], taken[name] + math.prod(leaf.shape)
        arrays.append(np.asarray(packed[name][begin : taken[name]]).reshape(leaf.shape))
    device = jax.local_devices()[0]
    return jax.device_put(jax.tree.unflatten(structure, arrays), device), facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts that `save_state` wrote; InputError where another version did."""
    metadata: Any = ocp.metadata(str(path.resolve())).custom_metadata
    if metadata.get("format") != STATE_FORMAT:
        raise InputError(
            f"{path}: expected a training state of format {STATE_FORMAT}, found "
            f"{metadata.get('format')}; remove {path} to train from the beginning"
        )
    return dict(metadata["facts"])


def has_state(path: Path) -> bool:
    """Whether a training state can be read there, after finishing an interrupted replacement."""
    finish_replacing(path)
    return path.is_dir() and ocp.is_orbax_checkpoint(str(path.resolve()))
