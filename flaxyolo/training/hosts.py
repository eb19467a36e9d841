"""Processes that train one detector together: what each has of it, what they tell each other."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxyolo.base.errors import InputError

T = TypeVar("T")

log = logging.getLogger(__name__)

DEVICES = "devices"
"""Axis of the mesh that a batch is split over."""
POLL_MS = 1000
PREFIX = "flaxyolo/"


@dataclass(frozen=True)
class Hosts:
    """The processes that share a training; all ask it and none asks JAX.

    Each takes the same rows of every batch; process 0 alone writes, and validates.
    """

    processes: int = 1
    process: int = 0
    devices: int | None = None
    """Of each process, that share a step; None: all, or one where the batch does not divide."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.process == 0

    def rows(self, batch_size: int) -> slice:
        """The rows of each batch that this process reads."""
        part = batch_size // self.processes
        return slice(self.process * part, (self.process + 1) * part)

    def of_first(self, name: str, call: Callable[[], T]) -> T:
        """What a call gives on process 0, for all, as JSON keeps it; an InputError too is for all.

        The others wait for it; every name is used once.
        """
        if self.processes == 1:
            return call()
        if self.first:
            try:
                value = call()
            except InputError as error:
                tell(name, json.dumps({"error": str(error)}))
                raise
            tell(name, json.dumps({"value": value}))
            return value
        told = json.loads(heard(name))
        if "error" in told:
            raise InputError(told["error"])
        return told["value"]

    def first_before_others(self, name: str, call: Callable[[], T]) -> T:
        """What a call gives on each process; the others' begin when process 0's has ended."""
        if self.first:
            value = call()
            self.of_first(name, lambda: None)
            return value
        self.of_first(name, lambda: None)
        return call()

    def together(self, name: str) -> None:
        """Wait until all processes are here; every name is used once."""
        if self.processes > 1:
            tell(f"{name}/{self.process}", "")
            for other in range(self.processes):
                heard(f"{name}/{other}")

    def require_same(self, facts: Mapping[str, str]) -> None:
        """InputError, on all, where a process has other facts than process 0."""
        if self.processes == 1:
            return
        own = json.dumps(dict(facts))
        tell(f"facts/{self.process}", own)
        firsts = json.loads(heard("facts/0"))
        for other in range(1, self.processes):
            theirs = json.loads(heard(f"facts/{other}"))
            for what, fact in firsts.items():
                if theirs.get(what) != fact:
                    raise InputError(
                        f"{what}: expected the same in all processes, got {fact} in process 0 and "
                        f"{theirs.get(what)} in process {other}; give all the same files and flags"
                    )

    def from_first(self, name: str, tree: T) -> T:
        """The arrays of process 0, on this process's first device; the others' give the shapes."""
        if self.processes == 1:
            return tree
        self.together(name)
        here = jax.tree.map(np.asarray, tree)
        return jax.device_put(multihost_utils.broadcast_one_to_all(here), jax.local_devices()[0])


ALONE = Hosts()


def sharers(batch_size: int, hosts: Hosts = ALONE) -> int:
    """How many devices share a step; 1 where nobody says how many and the batch does not divide.

    InputError where there are fewer than were asked for, or the batch does not divide by them.
    """
    here = jax.local_devices()
    count = hosts.devices or len(here)
    if count > len(here):
        raise InputError(
            f"--devices {count}: expected at most {len(here)}, as many as this process has "
            f"({here[0].platform}); give fewer, or start more processes"
        )
    total = count * hosts.processes
    if batch_size % total == 0:
        return total
    if hosts == ALONE:
        return 1
    each = f" ({count} of each of {hosts.processes} processes)" if hosts.processes > 1 else ""
    raise InputError(
        f"a batch of {batch_size} images does not divide by {total} devices{each}; give another "
        "--batch-size or --devices"
    )


def training_mesh(batch_size: int, hosts: Hosts = ALONE) -> Mesh | None:
    """The devices that share a step, process by process, in a row; None where it is one."""
    total = sharers(batch_size, hosts)
    here = jax.local_devices()
    if total == 1:
        if hosts == ALONE and len(here) > 1:
            log.warning("training on 1 of %d devices: a batch of %d does not divide by them",
                        len(here), batch_size)  # fmt: skip
        return None
    where = "" if hosts.processes == 1 else f" of {hosts.processes} processes"
    log.info("training on %d devices%s, %d images of each batch on each",
             total, where, batch_size // total)  # fmt: skip
    each: dict[int, list[Any]] = {}
    for device in jax.devices() if hosts.processes > 1 else here:
        each.setdefault(device.process_index, []).append(device)
    count = total // hosts.processes
    chosen = [device for process in sorted(each) for device in each[process][:count]]
    return jax.make_mesh((total,), (DEVICES,), (AxisType.Auto,), devices=chosen)


def placed(tree: T, sharding: NamedSharding) -> T:
    """Arrays that every process has whole, as arrays of all devices that lie there."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, tree)


def put_together(parts: T, mesh: Mesh) -> T:
    """Arrays of which each process has its own rows, as arrays of all devices."""
    sharding = NamedSharding(mesh, P(DEVICES))
    return jax.tree.map(
        lambda part: jax.make_array_from_process_local_data(sharding, np.asarray(part)), parts
    )


def on_one(tree: T) -> T:
    """Arrays that every device of a mesh holds, on this process's first one alone."""
    return jax.tree.map(lambda x: x if len(x.devices()) == 1 else x.addressable_data(0), tree)


def store() -> Any:
    """The store of texts that all processes share.

    JAX keeps it to itself; Orbax and others use it from there too.
    """
    from jax._src import distributed

    return distributed.global_state.client


def tell(name: str, value: str) -> None:
    """Tell all processes a text, by a name that is used once."""
    store().key_value_set(PREFIX + name, value)


def heard(name: str) -> str:
    """What a process tells by this name, waited for; interrupted, or ended with one, at once."""
    while True:
        try:
            return store().blocking_key_value_get(PREFIX + name, POLL_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            who = ended()
            if who:
                raise OthersEndedError(who) from None


class OthersEndedError(RuntimeError):
    """Another process has told that it ends before the training does."""


def ended() -> str | None:
    """Which other process has ended early, and why, if one has told."""
    own = str(jax.process_index())
    for key, why in store().key_value_dir_get(PREFIX + "ended/"):
        other = key.rpartition("/")[2]
        if other != own:
            return f"process {other} has ended ({why})"
    return None
