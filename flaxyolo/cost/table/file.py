"""The file of a latency table: what it holds, for which conditions, and how processes share it."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

import flaxyolo.spec
from flaxyolo.base.files import cache_root, make_room, replacing
from flaxyolo.base.kept import DAMAGE, brief, read_regular, sealed, unsealed
from flaxyolo.cost.engine import JAX_ENGINE, Engine, where
from flaxyolo.cost.measurement import Measurement, Milliseconds, Reference
from flaxyolo.cost.reference import SPEC as REFERENCE
from flaxyolo.machine.locks import held
from flaxyolo.spec import STRICT, DetectorSpec, parse, to_dict

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT)
class Network:
    """A whole network as it was measured."""

    spec: DetectorSpec
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    busy: bool = False
    """Whether the machine was too busy for more than an upper bound."""


@dataclass(frozen=True, config=STRICT)
class Count:
    """What a piece adds to a network's parameters (not folded) and to its multiply-adds."""

    params: Annotated[int, Field(ge=0)]
    multiply_adds: Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Contents:
    """All that is known on one device: pieces by their key, networks by that of their spec."""

    conditions: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, Milliseconds] = field(default_factory=dict)
    """Milliseconds."""
    networks: dict[str, Network] = field(default_factory=dict)
    counts: dict[str, Count] = field(default_factory=dict)
    reference: Reference | None = None
    """The reference at its best."""


@lru_cache(maxsize=8)
def conditions(engine: Engine = JAX_ENGINE) -> dict[str, Any]:
    """What a time depends on beside the network: other conditions, another file."""
    package = Path(flaxyolo.spec.__file__).parent
    digest = hashlib.sha256((package / "spec.py").read_bytes())
    # Keys of another making would be learnt from as other pieces.
    for path in (Path(__file__).with_name("pieces.py"), *sorted((package / "nn").glob("*.py"))):
        digest.update(path.read_bytes())
    digest.update(json.dumps(to_dict(REFERENCE)).encode())
    here = {
        **where(JAX_ENGINE)._asdict(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "layers": digest.hexdigest()[:16],
    }
    if engine == JAX_ENGINE:
        return here
    return here | {"engine": engine.describe(), "engine_versions": where(engine).versions}


def file_name(of: Mapping[str, Any]) -> str:
    """The name of the file for these conditions."""
    text = json.dumps(of, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def device_file(cache_dir: Path | None = None, engine: Engine = JAX_ENGINE) -> Path:
    """The file of this device's table in the cache folder, which may not be there yet.

    That of another engine holds its networks.
    """
    folder = cache_root(cache_root(cache_dir) / "latency")
    return folder / file_name(conditions(engine))


def best_reference(seen: Reference) -> Reference:
    """The reference at its best on this device, with what was seen of it now."""
    path = device_file()
    stored = read_contents(path).reference
    best = seen.lowest(stored)
    if best != stored:
        merge_into(path, Contents(reference=best), conditions())
    return best


def measured_here(measurement: Measurement, engine: Engine | None = None) -> bool:
    """Whether it is one of this device, dtype and versions on this engine, or on its own."""
    engine = Engine(measurement.engine) if engine is None else engine
    found = (measurement.device, measurement.dtype, measurement.versions)
    return measurement.engine == engine.name and found == where(engine)


def network_key(spec: DetectorSpec) -> str:
    """A short name of a spec, the same in every process."""
    return hashlib.sha256(json.dumps(to_dict(spec), sort_keys=True).encode()).hexdigest()[:16]


def read_contents(path: Path) -> Contents:
    """What the file holds; nothing, said in the log, where it is damaged."""
    try:
        return parse(Contents, unsealed(read_regular(path)), str(path))
    except FileNotFoundError:
        return Contents()
    except DAMAGE as error:
        reason = brief(error).removeprefix(f"{path}: ")
        log.warning("%s: a damaged latency table, which is made again (%s)", path, reason)
        return Contents()


def merge_into(path: Path, own: Contents, of: Mapping[str, Any]) -> Contents:
    """Add to the file what is new in `own`; returns both together.

    Of two times of one piece the first stays, so that all processes believe the same; of two
    measurements of one network the last, unless only the first is of a calm machine. Of the
    reference the lowest stays.
    """
    lock = path.with_suffix(".lock")
    make_room(lock)
    with held(lock):
        stored = read_contents(path)
        merged = Contents(
            dict(of),
            own.pieces | stored.pieces,
            stored.networks
            | {
                key: network
                for key, network in own.networks.items()
                if not network.busy or stored.networks.get(key, network).busy
            },
            stored.counts | own.counts,
            own.reference.lowest(stored.reference) if own.reference else stored.reference,
        )
        make_room(path)
        with replacing(path) as partial, open(partial, "wb") as file:
            file.write(sealed(asdict(merged)))
            file.flush()
            os.fsync(file.fileno())
    return merged
