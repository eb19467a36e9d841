"""How much of this machine's processor others use while a program runs."""

import os
from typing import NamedTuple

import psutil

LEAST_SECONDS = 0.2
"""Of processor time between two moments, below which the system's clock ticks are too coarse."""


class Usage(NamedTuple):
    """Seconds since the machine or the process started, up to one moment."""

    total: float
    """Of all processor cores that this process may use."""
    idle: float
    own: float
    """Of this process and those it started."""


def usage() -> Usage | None:
    """The processor's time up to now; None where the system does not tell.

    Time that a hypervisor gave to other machines (steal) is in the total and is not idle.
    """
    try:
        cores = psutil.cpu_times(percpu=True)
        own = _own_seconds()
    except (psutil.Error, OSError):
        return None
    # Where a process is bound to some of the cores, the others do not matter.
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(cores))
    mine = [core._asdict() for number, core in enumerate(cores) if number in bound]
    # A guest's time is in its host's already.
    total = sum(
        seconds for core in mine for name, seconds in core.items() if not name.startswith("guest")
    )
    idle = sum(core["idle"] + core.get("iowait", 0.0) for core in mine)
    return Usage(total, idle, own)


def share_of_others(before: Usage | None, after: Usage | None) -> float | None:
    """Share (0..1) of the processor that others used between two moments; None if not known."""
    if before is None or after is None or after.total - before.total < LEAST_SECONDS:
        return None
    total = after.total - before.total
    others = total - (after.idle - before.idle) - (after.own - before.own)
    return min(max(others / total, 0.0), 1.0)


def _own_seconds() -> float:
    process = psutil.Process()
    times = process.cpu_times()
    seconds = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            of_child = child.cpu_times()
        except psutil.NoSuchProcess:  # its time is in `children_user` now
            continue
        seconds += of_child.user + of_child.system
    return seconds
