"""A detector stored with its spec. Orbax only, no pickle."""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from flaxyolo.base.cli import disk_problem
from flaxyolo.base.errors import InputError
from flaxyolo.base.files import remove
from flaxyolo.base.kept import brief
from flaxyolo.nn.detector import TrainedDetector, Weights, abstract_weights
from flaxyolo.spec import detector_from_dict, to_dict
from flaxyolo.weights.seal import SEAL, is_sealed, require_unbroken, seal

FORMAT = 1
SEALED = "sealed"
"""In the metadata of a checkpoint: its folder has a seal."""
METADATA_FILE, CUSTOM = "_CHECKPOINT_METADATA", "custom_metadata"
"""Where Orbax keeps what it is given beside the arrays, and under which name."""
MEND = "put back a copy of it, or train again"
SOURCE = "source"
"""The fact that names a detector's data, to be read from any folder."""
BEST = "best"
"""The folder of the best detector in that of a study or a run."""

# What Orbax's threads log as errors, with tracebacks, is raised to us as well.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    told = f"{record.getMessage()} {record.exc_info and record.exc_info[1]}"
    lost = "exception was never retrieved" in told
    return not (lost and any(name in told for name in ("orbax", "tensorstore", "ocdbt")))


# Nor need asyncio print those of Orbax's tasks that failed beside the one that was raised.
logging.getLogger("asyncio").addFilter(_is_not_of_orbax)


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
    if spec.num_classes != len(metadata["class_names"]):
        raise InputError(
            f"{path}: {spec.num_classes} classes in its spec, {len(metadata['class_names'])} names"
            f"; {MEND}"
        )
    with readable(path):
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
        found = "a file" if os.path.lexists(path) else "nothing there"
        raise InputError(f"{path}: expected a checkpoint folder, found {found}")
    metadata = stored_metadata(path)
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        raise InputError(
            f"{path}: expected a detector's checkpoint of format {FORMAT}, found another Orbax "
            "checkpoint; a run keeps its detectors in `best` and `last`"
        )
    names, facts = metadata.get("class_names"), metadata.get("facts")
    if not isinstance(facts, dict) or not isinstance(names, list):
        raise InputError(f"{path}: a damaged checkpoint, without class names or facts; {MEND}")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: a damaged checkpoint: a class name is no text; {MEND}")
    return metadata


def stored_metadata(path: Path) -> dict[str, Any]:
    """What `replace_checkpoint` was given; InputError where any file of the folder is damaged."""
    with readable(path):
        require_unbroken(path)
        try:
            metadata = _custom_metadata(path)
        except (ocp.errors.InvalidLayoutError, FileNotFoundError):
            if is_sealed(path):
                raise
            raise InputError(
                f"{path}: expected a flaxyolo checkpoint folder, found no Orbax checkpoint"
            ) from None
        if isinstance(metadata, dict) and metadata.get(SEALED) and not is_sealed(path):
            raise ValueError(f"{SEAL} is missing")
    return dict(metadata) if isinstance(metadata, dict) else {}


def _custom_metadata(path: Path) -> Any:
    """What Orbax was given beside the arrays.

    Of a sealed checkpoint it is read from Orbax's file: `ocp.metadata` opens every array for it,
    which takes 0.1 s and memory that is never given back (tensorstore 0.1.86, 16 KB an array).
    """
    file = path / METADATA_FILE
    if is_sealed(path) and file.is_file():
        content = json.loads(file.read_bytes())
        if isinstance(content, dict) and isinstance(content.get(CUSTOM), dict):
            return content[CUSTOM]
    return ocp.metadata(str(path.resolve())).custom_metadata


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """InputError in one line where a checkpoint cannot be read; what it may raise is Orbax's own.

    Errors that are no fault of its files stay: of a disk without permission, or memory.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if disk_problem(error) is not None or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise InputError(f"{path}: a damaged checkpoint: {brief(error)}; {MEND}") from None


def replace_checkpoint(path: Path, state: Any, metadata: dict[str, Any]) -> None:
    """Save beside `path`, then swap, so that a crash at any moment leaves a complete folder.

    An error of the disk names `path`.
    """
    path = path.resolve()  # Orbax writes to absolute paths only
    _hush_late_writers()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = _beside(path, "new"), _beside(path, "old")
    for leftover in path.parent.glob(f".{path.name}.new*"):
        remove(leftover)
    try:
        with as_if_alone():
            ocp.save(str(fresh), state, custom_metadata={**metadata, SEALED: True})
        seal(fresh)
    except BaseException as error:
        _discard(path)
        problem = disk_problem(error)
        if problem is not None:
            # Orbax names a file of its own making, or none.
            raise OSError(problem, os.strerror(problem), str(path)) from error
        raise
    finish_replacing(path)
    if os.path.lexists(path):
        os.replace(path, old)
    os.replace(fresh, path)
    remove(old)


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Inside, Orbax reads and writes in this process, whatever others train with it.

    Its own way, all processes at once, would need the folder on all of them, and where it is told
    that one alone is active it waits for the others all the same (orbax-checkpoint 0.12).
    """
    count = jax.process_count
    if count() == 1:
        yield
        return
    jax.process_count = lambda *_: 1
    try:
        yield
    finally:
        jax.process_count = count


@cache
def _hush_late_writers() -> None:
    """Say nothing of threads that end after a save has failed, which tells itself what is wrong.

    TensorStore's report to an event loop that Orbax has closed by then, each with a traceback.
    """
    before = sys.unraisablehook

    def tell(late: "sys.UnraisableHookArgs") -> None:
        closed = isinstance(late.exc_value, RuntimeError) and "loop is closed" in str(
            late.exc_value
        )
        if not closed or threading.current_thread() is threading.main_thread():
            before(late)

    sys.unraisablehook = tell


def _discard(path: Path) -> None:
    """Remove what a failed save left; Orbax's threads may go on writing for a moment."""
    for _ in range(20):
        left = list(path.parent.glob(f".{path.name}.new*"))
        if not left:
            return
        for partial in left:
            remove(partial)
        time.sleep(0.1)


def finish_replacing(path: Path) -> None:
    """After a crash between the two renames the complete folder lies beside its place."""
    old = _beside(path, "old")
    if os.path.lexists(old):
        if os.path.lexists(path):
            remove(old)
        else:
            os.replace(old, path)


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def _load(path: Path, abstract: Any) -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract
    )
    with as_if_alone():
        return ocp.load(str(path.resolve()), target)
