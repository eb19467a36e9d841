"""What C libraries write to the process's stderr while they work: they have no other way."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STDERR = 2
_lock = threading.Lock()
"""There is one stderr for all threads."""


@contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """Hold back what is written to stderr; each call says what is new and passes on nothing.

    What Python's own log writes meanwhile is held back too, so the block should be short. The
    caller writes out what is not meant for it with `pass_on`.
    """
    with _lock, tempfile.TemporaryFile() as file:
        try:
            kept = os.dup(STDERR)
        except OSError:  # the process has none
            yield str
            return
        os.dup2(file.fileno(), STDERR)

        def read() -> str:
            content = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            return content.decode(errors="replace")

        try:
            yield read
        finally:
            os.dup2(kept, STDERR)
            os.close(kept)


def pass_on(text: str) -> None:
    """Write to stderr what was meant for it."""
    if text:
        os.write(STDERR, text.encode())
