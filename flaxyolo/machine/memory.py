"""How much memory there is."""

import os
from pathlib import Path

import jax

MIB = 2**20


def available_mib() -> tuple[float, str]:
    """Memory that a run may take, and whose it is: an accelerator's limit, or the free RAM."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and stats.get("bytes_limit"):
        return stats["bytes_limit"] / MIB, "of the device"
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    info = Path("/proc/meminfo")
    if info.is_file():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    # A container may have less than the machine.
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()) + file_cache())
    return free / MIB, "of free RAM"


def installed_mib() -> float:
    """Memory that there is in all, used or free: an accelerator's limit, or the RAM."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and stats.get("bytes_limit"):
        return stats["bytes_limit"] / MIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MIB


def file_cache() -> int:
    """Bytes of files that a container keeps in its memory and gives back when it is needed."""
    stat = Path("/sys/fs/cgroup/memory.stat")
    lines = stat.read_text().splitlines() if stat.is_file() else []
    pairs = dict(line.split() for line in lines)
    return int(pairs.get("inactive_file", 0)) + int(pairs.get("active_file", 0))
