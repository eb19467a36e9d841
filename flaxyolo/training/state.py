"""A run's state on the disk, from which it goes on bit for bit."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from flaxyolo.base.errors import InputError
from flaxyolo.base.files import set_aside
from flaxyolo.weights.checkpoint import (
    MEND,
    as_if_alone,
    finish_replacing,
    readable,
    replace_checkpoint,
    stored_metadata,
)
from flaxyolo.weights.seal import is_sealed

log = logging.getLogger(__name__)

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

    InputError where it was written for other shapes, or by another version, or is damaged.
    """
    facts = read_facts(path)
    leaves, structure = jax.tree.flatten(abstract)
    sizes: dict[str, int] = {}
    for leaf in leaves:
        sizes[leaf.dtype.name] = sizes.get(leaf.dtype.name, 0) + math.prod(leaf.shape)
    with _readable(path):
        kept: Any = ocp.metadata(str(path.resolve())).metadata
        found = {name: math.prod(array.shape) for name, array in kept.items()}
    if found != sizes:
        raise InputError(
            f"{path}: expected the training state of this network ({sizes} values), found {found}; "
            f"{_anew(path)}"
        )
    with _readable(path), as_if_alone():
        packed: Any = ocp.load(str(path.resolve()))
    taken, arrays = dict.fromkeys(sizes, 0), []
    for leaf in leaves:
        name = leaf.dtype.name
        begin, taken[name] = taken[name], taken[name] + math.prod(leaf.shape)
        arrays.append(np.asarray(packed[name][begin : taken[name]]).reshape(leaf.shape))
    device = jax.local_devices()[0]
    return jax.device_put(jax.tree.unflatten(structure, arrays), device), facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts that `save_state` wrote; InputError where another version did, or it is damaged."""
    with _readable(path):
        metadata = stored_metadata(path)
    if metadata.get("format") != STATE_FORMAT:
        raise InputError(
            f"{path}: expected a training state of format {STATE_FORMAT}, found "
            f"{metadata.get('format')}; {_anew(path)}"
        )
    if not isinstance(metadata.get("facts"), dict):
        raise InputError(f"{path}: a damaged training state, without facts; {_anew(path)}")
    return dict(metadata["facts"])


def has_state(path: Path) -> bool:
    """Whether a run was saved there, after finishing an interrupted replacement.

    InputError where what is there is no training state.
    """
    finish_replacing(path)
    if not os.path.lexists(path):
        return False
    if path.is_dir():
        with _readable(path):
            if is_sealed(path) or ocp.is_orbax_checkpoint(str(path.resolve())):
                return True
    found = "a folder without one" if path.is_dir() else "a file"
    raise InputError(f"{path}: expected a training state, found {found}; {_anew(path)}")


def goes_on(path: Path) -> bool:
    """Whether a run can go on from there; what is damaged is set aside, and the log tells."""
    try:
        if not has_state(path):
            return False
        read_facts(path)
    except InputError as error:
        aside = set_aside(path)
        told = str(error).removesuffix(f"; {_anew(path)}")
        log.warning("%s; it is set aside as %s, and trained from the beginning", told, aside.name)
        return False
    return True


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """InputError in one line where a state cannot be read."""
    try:
        with readable(path):
            yield
    except InputError as error:
        told = str(error).removesuffix(f"; {MEND}").replace("checkpoint:", "training state:")
        raise InputError(f"{told}; {_anew(path)}") from None


def _anew(path: Path) -> str:
    return f"remove {path} to train from the beginning"
