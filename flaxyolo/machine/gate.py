"""Training and measuring on one device, never both at once: trainings stand aside."""

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


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
        want, busy = (_opened(path) for path in self._paths)
        try:
            _enter(want, busy)
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
        try:
            fcntl.flock(want, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if drain is not None:
                drain()
            fcntl.flock(busy, fcntl.LOCK_UN)
            _enter(want, busy)
            return True
        fcntl.flock(want, fcntl.LOCK_UN)
        return False

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Alone on the device, for a measurement; inside `training` the training rests."""
        if self._training is not None:
            fcntl.flock(self._training[1], fcntl.LOCK_UN)
        want, busy = (_opened(path) for path in self._paths)
        try:
            fcntl.flock(want, fcntl.LOCK_EX)
            fcntl.flock(busy, fcntl.LOCK_EX)
            yield
        finally:
            os.close(busy)
            os.close(want)
            if self._training is not None:
                _enter(*self._training)


def _enter(want: int, busy: int) -> None:
    """Hold `busy` with others, once no one wants to measure."""
    fcntl.flock(want, fcntl.LOCK_SH)
    fcntl.flock(busy, fcntl.LOCK_SH)
    fcntl.flock(want, fcntl.LOCK_UN)


def _opened(path: Path) -> int:
    try:
        # Read-only suffices to lock, also where another user made the file.
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
