"""Training and measuring on one device, never both at once: trainings stand aside."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flaxyolo.machine.locks import lock, open_lock, unlock

MEASURED = "a measurement on this device to end"
QUIET = MEASURED, "the trainings on this device to stand aside"
"""What who measures waits for, file by file."""


class Gate:
    """Between the processes that share a device: any number train, or one measures alone.

    Trainings hold the file `busy` together. Who wants to measure holds `want`, at which every
    training lets go of `busy` between two steps, and begins no other. The system lets go of both
    when a process ends, however it ends.
    """

    def __init__(self, device: str, folder: Path | None = None):
        name = re.sub(r"[^A-Za-z0-9.,-]+", "_", device)
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._paths = [folder / f"flaxyolo-{name}.{kind}" for kind in ("want", "busy")]
        self._training: tuple[int, int] | None = None

    @contextmanager
    def training(self) -> Iterator[None]:
        """Work that would disturb a measurement: steps, evaluation, compiling."""
        if self._training is not None:
            yield
            return
        want, busy = (open_lock(path) for path in self._paths)
        try:
            self._enter(want, busy)
            self._training = want, busy
            yield
        finally:
            self._training = None
            os.close(busy)
            os.close(want)

    def step_aside(self, drain: Callable[[], object] | None = None) -> bool:
        """Let a measurement that waits go first; whether there was one. Call it between steps.

        `drain` waits for what the device still has to do, and is called only then.
        """
        if self._training is None:
            return False
        want, busy = self._training
        if lock(want, shared=True, wait=False):
            unlock(want)
            return False
        if drain is not None:
            drain()
        unlock(busy)
        self._enter(want, busy)
        return True

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Alone on the device, for a measurement; inside `training` the training rests."""
        if self._training is not None:
            unlock(self._training[1])
        want, busy = (open_lock(path) for path in self._paths)
        try:
            for file, path, what in zip((want, busy), self._paths, QUIET, strict=True):
                lock(file, path=path, what=what)
            yield
        finally:
            os.close(busy)
            os.close(want)
            if self._training is not None:
                self._enter(*self._training)

    def _enter(self, want: int, busy: int) -> None:
        """Hold `busy` with others, once no one wants to measure."""
        for file, path in zip((want, busy), self._paths, strict=True):
            lock(file, shared=True, path=path, what=MEASURED)
        unlock(want)
