"""How processes that train together meet, and how they end: all at once, with one line."""

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

from flaxyolo.base.errors import InputError
from flaxyolo.base.kept import brief
from flaxyolo.machine.aborts import Aborts
from flaxyolo.training.hosts import PREFIX, Hosts, OthersEndedError, ended, store, tell

log = logging.getLogger(__name__)

MEETING_S = 300
"""How long processes wait for each other at the start."""
PARTING_S = 10
"""How long processes wait for each other at the end."""
FAREWELL_S = 3
"""How long process 0, where it ends early, waits for the others to hear why."""
POLL_S = 0.1
LEAST_LOST_S = 10
LOST = 75
"""Exit code where another process was lost: EX_TEMPFAIL of sysexits.h, try again."""
SIGNS = r"coordination_service|preemption_sync|JAX distributed service"
"""In what JAX's libraries write to stderr where a process is lost, before they abort."""
BROKEN = re.compile(r"gloo|nccl|coordination|unavailable|connection|socket|heartbeat", re.I)
"""In the error of a step that another process has left."""


@dataclass(frozen=True)
class Joining:
    """How this process finds the others, as the flags of a command say it."""

    cluster: bool = False
    """Slurm, Kubernetes, Open MPI or the metadata of a TPU say all that follows."""
    coordinator: str | None = None
    """HOST:PORT of process 0."""
    processes: int | None = None
    process: int | None = None
    lost_after: int = 60
    """Seconds without a sign of life after which a process counts as lost."""


class Joined:
    """A context: the processes as they have met, or this one where nothing says there are others.

    For a process that has not computed yet. InputError where the flags do not fit together. Where a
    process is lost later, the others end at once with one line and the exit code `LOST`.
    """

    def __init__(self, joining: Joining, devices: int | None):
        self.joining, self.devices = joining, devices
        self.aborts: Aborts | None = None
        self.met = False

    def _told(self, noise: str) -> str:
        if self.met:
            return _lost(noise)
        return (
            f"the processes have not met within {MEETING_S} s: see that all were started, with the "
            "same number, and that process 0 can be reached from the others"
        )

    def __enter__(self) -> Hosts:
        _require_whole(self.joining)
        if not self.joining.cluster and (self.joining.processes or 1) == 1:
            _warn_of_tasks()
            return Hosts(devices=self.devices)
        self.aborts = Aborts(SIGNS, self._told, LOST)
        self.aborts.begin()
        try:
            _meet(self.joining, self.devices)
        except BaseException:
            self.aborts.end()
            raise
        self.met = True
        hosts = Hosts(jax.process_count(), jax.process_index(), self.devices)
        log.info("process %d of %d", hosts.process, hosts.processes)
        return hosts

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self.aborts is None:
            return
        if error is None:
            self._part()
        elif isinstance(error, OthersEndedError):
            self.aborts.say_and_exit(_advised(str(error)))
        elif _is_broken(error):
            self._say_lost(error)
        else:
            _bid_farewell(error)

    def _part(self) -> None:
        Hosts(jax.process_count(), jax.process_index()).together("end")
        jax.distributed.shutdown()
        assert self.aborts is not None
        self.aborts.end()

    def _say_lost(self, error: BaseException) -> NoReturn:
        assert self.aborts is not None
        # Who ended by itself has told before it closed its connections.
        try:
            who = ended()
        except jax.errors.JaxRuntimeError:
            who = None
        self.aborts.say_and_exit(_advised(who) if who else _lost(str(error)))


def leave(code: int | None) -> int | None:
    """The exit code of a command, where its training has ended with the others'.

    A process that ends before them ends here, and does not wait for them once more.
    """
    if not jax.distributed.is_initialized():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _is_broken(error: BaseException) -> bool:
    """Whether a step or a message failed because another process is gone."""
    if isinstance(error, InputError):
        return False
    return isinstance(error, RuntimeError | ValueError) and bool(BROKEN.search(str(error)))


def _bid_farewell(error: BaseException) -> None:
    """Tell the others why this process ends; process 0, which keeps what is told, waits a little
    until they have heard it."""
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else brief(error)
    hosts = Hosts(jax.process_count(), jax.process_index())
    tell(f"ended/{hosts.process}", why)
    until = time.monotonic() + FAREWELL_S
    while hosts.first and time.monotonic() < until:
        if len(store().key_value_dir_get(f"{PREFIX}ended/")) == hosts.processes:
            return
        time.sleep(POLL_S)


def _require_whole(joining: Joining) -> None:
    """InputError where the flags that say where the others are do not fit together."""
    by_hand = (joining.coordinator, joining.processes, joining.process)
    count, process = joining.processes, joining.process
    if joining.lost_after < LEAST_LOST_S:
        raise InputError(
            f"--lost-after: expected at least {LEAST_LOST_S} seconds, got {joining.lost_after}"
        )
    if joining.cluster:
        if by_hand != (None, None, None):
            raise InputError(
                "--cluster: the cluster says where the processes are; leave out --coordinator, "
                "--processes and --process, or --cluster"
            )
        return
    if count is not None and count < 1:
        raise InputError(f"--processes: expected at least 1, got {count}")
    if by_hand == (None, None, None) or (count == 1 and process in (None, 0)):
        return
    if None in by_hand or count is None or process is None or joining.coordinator is None:
        raise InputError(
            "several processes: expected --coordinator HOST:PORT, --processes N and --process K "
            "together, or --cluster"
        )
    if not 0 <= process < count:
        raise InputError(
            f"--process: expected one of 0 to {count - 1}, of --processes {count}, got {process}"
        )
    host, _, port = joining.coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"--coordinator: expected HOST:PORT of process 0, such as 10.0.0.1:1234, got "
            f"{joining.coordinator}"
        )


def _warn_of_tasks() -> None:
    tasks = os.environ.get("SLURM_NTASKS", "")
    if "SLURM_PROCID" in os.environ and tasks.isdecimal() and int(tasks) > 1:
        log.warning("this is one of %s tasks of Slurm, each of which trains alone; with --cluster "
                    "they train together", tasks)  # fmt: skip


def _meet(joining: Joining, devices: int | None) -> None:
    """Wait for the other processes, up to `MEETING_S` seconds; an interrupt ends the process."""
    # A process that is told to end does so, and not at the next point where all agree to.
    jax.config.update("jax_enable_preemption_service", False)
    given: dict[str, Any] = {}
    if joining.cluster:
        local = os.environ.get("SLURM_LOCALID", "")
        if devices is not None and local.isdecimal():
            # Of one task JAX would take one device.
            given["local_device_ids"] = range(int(local) * devices, (int(local) + 1) * devices)
        log.info("waiting for the other processes of this job")
    else:
        given |= {
            "coordinator_address": joining.coordinator,
            "num_processes": joining.processes,
            "process_id": joining.process,
            "cluster_detection_method": "deactivate",
        }
        log.info("waiting for %s processes at %s", joining.processes, joining.coordinator)
    with _interrupts_at_once():
        try:
            jax.distributed.initialize(
                **given,
                initialization_timeout=MEETING_S,
                heartbeat_timeout_seconds=joining.lost_after,
                shutdown_timeout_seconds=PARTING_S,
            )
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            where = "--cluster" if joining.cluster else f"--coordinator {joining.coordinator}"
            raise InputError(
                f"{where}: expected to meet the other processes, got: {brief(error)}; see "
                "that process 0 runs and can be reached, or name all by --coordinator HOST:PORT "
                "--processes N --process K"
            ) from None


@contextmanager
def _interrupts_at_once() -> Iterator[None]:
    """Inside, an interrupt ends the process: C++ waits there, which Python would not end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _lost(noise: str) -> str:
    """The line for what JAX's libraries wrote, or an error's text."""
    silent = re.search(r"stopped sending heartbeats\):\s*((?:\d+\s*)+)", noise)
    if silent:
        who = f"process {', '.join(silent[1].split())} was lost (no sign of life)"
    elif "PollForError" in noise or "leader task" in noise:
        who = "process 0 was lost (its connection is closed)"
    else:
        who = "a process was lost (its connection is closed)"
    return _advised(who)


def _advised(who: str) -> str:
    return (
        f"{who}: see what it wrote; start the same command again on all, with fewer processes if "
        "need be, and it goes on after the last epoch that was saved"
    )
