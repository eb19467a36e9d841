"""Where prepared data sets of tensorflow-datasets (TFDS) lie, and how one is prepared."""

import difflib
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxyolo.base.errors import InputError
from flaxyolo.base.reading import expanded
from flaxyolo.base.words import one_line, shortened

log = logging.getLogger(__name__)

INFO = "dataset_info.json"
"""In the folder of every prepared data set."""
FEATURES = "features.json"
"""Beside it, where the data set was prepared by a TFDS that wrote one."""


def find_prepared(root: str) -> Path:
    """The folder of a prepared data set, prepared now if need be."""
    place = expanded(root)
    if (place / INFO).is_file():
        return place
    if place.is_absolute() or root.startswith(("~", ".")):
        below = sorted(path.parent for path in place.rglob(INFO)) if place.is_dir() else []
        if len(below) == 1:
            return below[0]
        found = " and ".join(map(str, below[:3])) or "none"
        raise InputError(f"{place}: expected a folder with a {INFO}, found {found}")
    data_dir = _data_dir()
    folder = _find_version(data_dir, root)
    if folder is None:
        _prepare(root, data_dir)
        folder = _find_version(data_dir, root)
    if folder is None:
        raise InputError(f"tfds:{root}: prepared, but not found in {data_dir}")
    return folder


def open_prepared(folder: Path) -> Any:
    """A builder of TFDS for a prepared data set.

    InputError where its features name a class that is not of TFDS: opening it would import that
    module, which is code that the folder may have brought along.
    """
    import tensorflow_datasets as tfds  # takes a second, and only this reader needs it

    path = folder / FEATURES
    try:
        named = set(_classes(json.loads(path.read_bytes()))) if path.exists() else set()
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{folder}: cannot be read as a prepared TFDS data set: {FEATURES} is not JSON"
        ) from None
    for name in sorted(named):
        if not re.fullmatch(r"tensorflow_datasets(\.\w+)+", name):
            raise InputError(
                f"{path}: expected classes of tensorflow_datasets, got {one_line(name[:80])!r}, "
                "which would be imported and run"
            )
    return tfds.builder_from_directory(folder)


def _classes(content: Any) -> Iterator[str]:
    """The names of classes in the JSON of features, as TFDS writes them now and wrote them."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(value, str):
                yield value
            yield from _classes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _classes(value)


def line_of(error: BaseException) -> str:
    """The start of a message of another library, in one line."""
    lines = shortened(str(error).strip(), 2000).splitlines()
    return one_line(lines[0][:200]) if lines else type(error).__name__


def _data_dir() -> Path:
    return expanded(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def _find_version(data_dir: Path, name: str) -> Path | None:
    """`data_dir/name`, or the newest version below it; None where nothing is prepared."""
    place = data_dir / name
    if (place / INFO).is_file():
        return place
    infos = [path for depth in ("*", "*/*") for path in place.glob(f"{depth}/{INFO}")]
    # One that is being prepared lies in a folder `incomplete.*`.
    found = [path.parent for path in infos if not path.parent.name.startswith("incomplete")]
    newest: dict[Path, Path] = {}
    for folder in sorted(found, key=lambda folder: _version(folder.name)):
        newest[folder.parent] = folder
    if len(newest) > 1:
        configs = ", ".join(str(config.relative_to(data_dir)) for config in sorted(newest))
        raise InputError(f"tfds:{name}: expected one data set, found {configs}; name one of them")
    return next(iter(newest.values()), None)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _prepare(name: str, data_dir: Path) -> None:
    """Download and prepare, which needs TensorFlow for nearly every data set of TFDS."""
    import tensorflow_datasets as tfds

    dataset = name.split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if dataset not in known:
        near = difflib.get_close_matches(dataset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"tfds:{name}: nothing prepared in {data_dir}, and TFDS has no data set "
            f"{dataset!r}{hint}"
        )
    # TFDS spells a version with a colon: `coco/2017:1.1.0`.
    spelled = re.sub(r"/(\d+\.\d+\.\d+)$", r":\1", name)
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"tfds:{name}: not prepared in {data_dir}, and preparing it needs TensorFlow: "
            'run pip install "flaxyolo[tfds]", then this command again, which prepares it '
            f"(or: tfds build {spelled} --file_format=array_record --data_dir={data_dir})"
        )
    log.info("tfds:%s: downloaded and prepared in %s; this may take hours", name, data_dir)
    try:
        builder = tfds.builder(spelled, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # of the network, the disk, the archive, the builder
        raise InputError(f"tfds:{name}: cannot be prepared: {line_of(error)}") from error
