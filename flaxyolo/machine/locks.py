"""Locks on files, which the system lets go of when their holder ends, however it ends.

A lock is of an open file, not of a process: one process that opens a file twice waits for itself.
"""

import errno
import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flaxyolo.base.errors import InputError

log = logging.getLogger(__name__)

TELL_S = 5.0
"""For how long a lock is waited for before that is told."""
NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link is not followed, and a FIFO keeps no one waiting."""


def open_lock(path: Path, *, make: bool = True) -> int:
    """The descriptor of a file to be locked, which is made where there is none; not locked yet.

    Users of a machine share those in its temporary folder. InputError where something else than a
    regular file is in its place: anybody may have put it there.
    """
    try:
        file = _open(path, os.O_CREAT if make else 0)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR, errno.ENODEV):
            raise
        raise InputError(_not_regular(path)) from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise InputError(_not_regular(path))
    if found.st_uid == os.geteuid() and _is_shared(path.parent) and ~found.st_mode & 0o444:
        # A strict umask would keep the machine's other users from waiting for this one.
        os.fchmod(file, stat.S_IMODE(found.st_mode) | 0o444)
    return file


def lock(
    file: int, *, shared: bool = False, wait: bool = True, path: Path | None = None, what: str = ""
) -> bool:
    """Hold an open file, alone or with others; False where that takes a wait and is not to.

    What the descriptor holds already is exchanged. Whoever waits for the file of a `path` says so
    after a few seconds, and for `what` of others.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait:
            _wait(file, kind, path, what)
        return wait
    return True


def unlock(file: int) -> None:
    """Let go of an open file, which stays open."""
    fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def held(path: Path, *, shared: bool = False, wait: bool = True, what: str = "") -> Iterator[bool]:
    """Hold a file, alone or with others, until the end; gives `lock`'s answer."""
    file = open_lock(path)
    try:
        yield lock(file, shared=shared, wait=wait, path=path, what=what)
    finally:
        os.close(file)


def holders(file: int) -> list[int]:
    """The processes that hold an open file, as far as Linux tells: none of another container."""
    found = os.fstat(file)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return []
    # NUMBER: FLOCK ADVISORY WRITE PROCESS PLACE ...; an arrow follows the number of who waits.
    held = {int(row[4]) for row in rows if row[1] == "FLOCK" and row[5] == place}
    return sorted(held - {0, -1})


def _open(path: Path, make: int) -> int:
    try:
        # To be written to: over NFS nothing else can be held by one alone.
        return os.open(path, os.O_RDWR | make | NO_LINK, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        # Another user made it, and on a disk of this machine reading suffices.
        return os.open(path, os.O_RDONLY | NO_LINK)


def _is_shared(folder: Path) -> bool:
    """Whether it is a folder such as /tmp, where each user's files are safe from the others."""
    return bool(folder.stat().st_mode & stat.S_ISVTX)


def _not_regular(path: Path) -> str:
    kinds = {"link": os.path.islink, "folder": os.path.isdir, "mount point": os.path.ismount}
    kind = next((name for name, is_it in kinds.items() if is_it(path)), "FIFO, socket or device")
    return f"{path}: expected the regular file of a lock, found a {kind}: remove it"


def _wait(file: int, kind: int, path: Path | None, what: str) -> None:
    if path is None:
        fcntl.flock(file, kind)
        return
    told = threading.Timer(TELL_S, _tell, (file, path, what))
    told.daemon = True
    told.start()
    try:
        fcntl.flock(file, kind)
    finally:
        told.cancel()


def _tell(file: int, path: Path, what: str) -> None:
    others = [str(process) for process in holders(file) if process != os.getpid()]
    who = f"process {' and '.join(others)}" if others else "another process"
    log.info("waiting for %s (%s, held by %s)", what or "a file", path, who)
