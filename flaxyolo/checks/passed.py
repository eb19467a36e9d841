"""Checks that have passed, kept in the cache: the same command does not repeat minutes of them."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp

import flaxyolo.spec
from flaxyolo.base.files import cache_root, make_room, replace_file
from flaxyolo.base.kept import DAMAGE, brief, read_regular, sealed, unsealed
from flaxyolo.checks.check import Check
from flaxyolo.config import TrainConfig
from flaxyolo.cost.measurement import device_name, versions
from flaxyolo.data.feeds import Feed
from flaxyolo.machine.memory import installed_mib
from flaxyolo.nn.detector import compute_dtype
from flaxyolo.spec import DetectorSpec, parse, to_dict

log = logging.getLogger(__name__)


def place_of(
    spec: DetectorSpec,
    feed: Feed,
    class_names: Sequence[str],
    config: TrainConfig,
    fingerprint: str,
    teacher: str | None = None,
) -> Path:
    """The file of the checks that have passed on just this; `fingerprint` is that of the data,
    `teacher` that of a teacher.

    Another network, schedule, device or memory, another version of a library, or any other line of
    this package is another file.
    """
    facts = {
        "spec": to_dict(spec),
        "config": to_dict(config),
        "data": fingerprint,
        "teacher": teacher,
        "images": [type(feed).__name__, *feed.pixels.images.shape],
        "class_names": list(class_names),
        "device": [device_name(), jax.device_count(), installed_mib()],
        "dtype": jnp.dtype(compute_dtype()).name,
        "versions": versions(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "code": code_digest(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]
    return cache_root(None) / "preflight" / f"{key}.json"


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of all of this package's source: a fault may be planted anywhere in it."""
    package = Path(flaxyolo.spec.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def read_passed(path: Path) -> dict[str, Check]:
    """The checks that have passed, by name; none where the file is missing or damaged."""
    try:
        checks = [parse(Check, fields, "a check") for fields in unsealed(read_regular(path))]
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        log.warning("%s is damaged, all checks are run: %s", path, brief(error))
        return {}
    return {check.name: check for check in checks}


def write_passed(path: Path, checks: Mapping[str, Check]) -> None:
    """Keep the checks that have passed."""
    cache_root(path.parent)
    make_room(path)
    replace_file(path, sealed([asdict(check) for check in checks.values()]))
