"""One line in place of what a C++ library writes when it aborts the process."""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

STDERR = 2
CATCH_UP_S = 0.2
"""For the reading thread to see the last lines of a library that aborts."""
SHOW_CURSOR = b"\x1b[?25h"
"""A progress bar hides it."""


class Aborts:
    """From `begin` to `end` the process's stderr is read line by line and passed on, until a line
    has one of the `signs`: from there on it is withheld. Where the process is aborted after that,
    `told`, given what was withheld, is said in its place, and the exit code is `code`.

    The library is not asked: its own handlers for such an end are C++.
    """

    def __init__(self, signs: str, told: Callable[[str], str], code: int):
        self.signs, self.told, self.code = re.compile(signs), told, code
        self.withheld: list[str] = []
        self.once = threading.Lock()

    def begin(self) -> None:
        """Read stderr from now on; what Python itself writes there goes past it."""
        self.terminal = os.dup(STDERR)
        self.python = sys.stderr
        # Never closed: who logs meanwhile may hold it.
        sys.stderr = open(  # noqa: SIM115
            os.dup(STDERR), "w", 1, "utf-8", "backslashreplace", closefd=False
        )
        reading, writing = os.pipe()
        os.dup2(writing, STDERR)
        os.close(writing)
        self.reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self.reader.start()
        # Python's own handlers run in the main thread between two of its steps: too late here.
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        self._before = _c_signal(ctypes.cast(self._callback, ctypes.c_void_p).value)

    def end(self) -> None:
        """Leave stderr and aborting as they were."""
        _c_signal(self._before)
        sys.stderr.flush()
        sys.stderr = self.python
        os.dup2(self.terminal, STDERR)
        self.reader.join(CATCH_UP_S)
        os.close(self.terminal)

    def say_and_exit(self, line: str) -> NoReturn:
        """Say this and nothing else that libraries write, and end the process."""
        time.sleep(CATCH_UP_S)
        if self.once.acquire(blocking=False):
            sys.stdout.flush()
            cursor = SHOW_CURSOR if os.isatty(self.terminal) else b""
            os.write(self.terminal, cursor + f"error: {line}\n".encode())
            os._exit(self.code)
        # Another thread says it, and ends this one too.
        while True:
            time.sleep(1)

    def _read(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                if self.withheld or self.signs.search(line):
                    self.withheld.append(line)
                else:
                    os.write(self.terminal, line.encode())

    def _aborted(self, number: int) -> None:
        time.sleep(CATCH_UP_S)
        if self.withheld:
            self.say_and_exit(self.told("".join(self.withheld)))
        # An abort for another reason is as it ever was.
        _c_signal(int(signal.SIG_DFL))


def _c_signal(handler: int | None) -> int | None:
    """Install a handler of C for SIGABRT (0: the default) and return the one before."""
    install: Any = ctypes.CDLL(None).signal
    install.argtypes, install.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return install(int(signal.SIGABRT), handler)
