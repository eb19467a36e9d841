"""A detector stored with its spec. Orbax only, no pickle."""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from flaxyolo.base.errors import InputError
from flaxyolo.nn.detector import TrainedDetector, Weights, abstract_weights
from flaxyolo.spec import detector_from_dict, to_dict

FORMAT = 1
SOURCE = "source"
"""The fact that names a detector's data, to be read from any folder."""
BEST = "best"
"""The folder of the best detector in that of a study or a run."""

# What Orbax's threads log as errors, with tracebacks, is raised to us as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def save_detector(path: Path, detector: TrainedDetector, facts: Mapping[str, Any]) -> None:
    """Write a detector's folder: Orbax weights with the spec, class names and `facts` beside them.

    The folder is complete or it is not there: it is written under another name and renamed.
    """
    metadata = {
        "format": FORMAT,
        "spec": to_dict(detector.spec),
        "class_names": list(detector.class_names),
        "facts": dict(facts),
    }
    replace_checkpoint(path, detector.weights._asdict(), json.loads(json.dumps(metadata)))


def load_detector(path: Path | str) -> TrainedDetector:
    """Read a detector's folder, or the best detector of a study's or a run's folder.

    InputError where it is neither.
    """
    path = detector_folder(path)
    metadata = read_metadata(path)
    spec = detector_from_dict(metadata["spec"], f"{path}: spec")
    weights = Weights(**_load(path, abstract_weights(spec)._asdict()))
    return TrainedDetector(spec, weights, tuple(metadata["class_names"]))


def detector_folder(path: Path | str) -> Path:
    """The checkpoint that a path names: itself, or the `best` of a study or a run."""
    path = Path(path).expanduser()
    return path / BEST if (path / BEST).is_dir() else path


def source_of(path: Path) -> str:
    """The data that a detector was trained on, as `--data` names it; InputError where none says."""
    facts = read_metadata(path)["facts"]
    # Runs of before wrote the name alone, as it was given.
    source = facts.get(SOURCE) or facts.get("data")
    if source is None:
        raise InputError(f"{path}: the checkpoint does not say what it was trained on: give --data")
    return source


def read_metadata(path: Path) -> dict[str, Any]:
    """The format, spec, class names and facts stored with a detector."""
    if not path.is_dir():
        raise InputError(f"{path}: expected a checkpoint folder, found nothing there")
    try:
        metadata: Any = ocp.metadata(str(path.resolve())).custom_metadata
    except (ocp.errors.InvalidLayoutError, FileNotFoundError):
        raise InputError(
            f"{path}: expected a flaxyolo checkpoint folder, found no Orbax checkpoint"
        ) from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT or "spec" not in metadata:
        raise InputError(
            f"{path}: expected a detector's checkpoint of format {FORMAT}, found another Orbax "
            "checkpoint; a run keeps its detectors in `best` and `last`"
        )
    return metadata


def replace_checkpoint(path: Path, state: Any, metadata: dict[str, Any]) -> None:
    """Save beside `path`, then swap, so that a crash at any moment leaves a complete folder."""
    path = path.resolve()  # Orbax writes to absolute paths only
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _beside(path, "new"), _beside(path, "old")
    for leftover in path.parent.glob(f".{path.name}.new*"):
        shutil.rmtree(leftover)
    try:
        ocp.save(str(fresh), state, custom_metadata=metadata)
    except BaseException:
        _discard(path)
        raise
    finish_replacing(path)
    if path.exists():
        os.replace(path, old)
    os.replace(fresh, path)
    shutil.rmtree(old, ignore_errors=True)


def _discard(path: Path) -> None:
    """Remove what a failed save left; Orbax's threads may go on writing for a moment."""
    for _ in range(20):
        left = list(path.parent.glob(f".{path.name}.new*"))
        if not left:
            return
        for partial in left:
            shutil.rmtree(partial, ignore_errors=True)
        time.sleep(0.1)


def finish_replacing(path: Path) -> None:
    """After a crash between the two renames the complete folder lies beside its place."""
    old = _beside(path, "old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, path)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _load(path: Path, abstract: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract
    )
    return ocp.load(str(path.resolve()), target)
