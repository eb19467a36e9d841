"""Locks on files, which the system lets go of when their holder ends, however it ends.

A lock is of an open file, not of a process: one process that opens a file twice waits for itself.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_lock(path: Path) -> int:
    """The descriptor of a file to be locked, which is made where there is none; not locked yet."""
    try:
        # To be written to: over NFS nothing else can be held by one alone.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        # Another user made it, and on a disk of this machine reading suffices.
        return os.open(path, os.O_RDONLY)


def lock(file: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Hold an open file, alone or with others; False where that takes a wait and is not to.

    What the descriptor holds already is exchanged.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(file: int) -> None:
    """Let go of an open file, which stays open."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold a file, alone or with others, until the end; gives `lock`'s answer."""
    file = open_lock(path)
    try:
        yield lock(file, shared=shared, wait=wait)
    finally:
        os.close(file)
