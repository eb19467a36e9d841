"""Worker processes of one machine: started, watched, restarted and stopped by their parent.

Each worker leads a process group of its own, so that Ctrl-C reaches the parent alone. Workers
notice the parent's end by a pipe from it, and on Linux by a signal besides.
"""

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flaxyolo.base.errors import InputError
from flaxyolo.crew import stops
from flaxyolo.crew.alive import held_lock, unique_name, workers_folder
from flaxyolo.crew.leases import PARENT_LOCK, WORKER_LOG, WORKER_NAME

PARENT_PIPE = "FLAXYOLO_PARENT_PIPE"
GRACE_SECONDS = 15.0
"""A worker that was told to stop has so long to let go of its trial."""
FIRST_PAUSE_SECONDS = 0.5
"""Before a worker that crashed is started again; doubled with each crash in a row, up to 8 s."""
MAX_DEATHS_IN_A_ROW = 5
"""Crashes of one worker without anything gained in between, before the sweep ends."""
BAD_INPUT = 2
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
CRASHES = (
    *(signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGSYS, signal.SIGTRAP),
)
"""Signals that a process brings upon itself; others come from outside."""
PR_SET_PDEATHSIG = 1

Command = tuple[Sequence[str], Mapping[str, str]]


@dataclass(frozen=True)
class Started:
    """A worker runs."""

    index: int
    worker: str
    pid: int


@dataclass(frozen=True)
class Died:
    """A worker ended before its work was done; it is started again."""

    index: int
    worker: str
    reason: str
    crashed: bool
    """Whether it brought this upon itself; not so if it was killed or stopped from outside."""
    log: Path


@dataclass(frozen=True)
class Finished:
    """A worker found nothing left to do."""

    index: int
    worker: str


Event = Started | Died | Finished


@dataclass
class _Place:
    """One of the workers that there should be, and the process that is it now."""

    index: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    worker: str = ""
    log_began: int = 0
    crashes: int = 0
    mark: Hashable = None
    start_at: float = 0.0
    done: bool = False


class Crew:
    """`count` worker processes; entered, it runs them, and at its end none is left.

    `command_for(index)` gives a worker's arguments and environment. What a worker prints goes to
    `workers/<machine>-<index>.log` in the folder. SIGTERM and SIGHUP are met like Ctrl-C.
    """

    def __init__(
        self,
        folder: Path,
        command_for: Callable[[int], Command],
        count: int,
        *,
        grace: float = GRACE_SECONDS,
    ):
        self._folder = workers_folder(folder)
        self._command_for, self._grace = command_for, grace
        machine = os.uname().nodename
        logs = (self._folder / f"{machine}-{index}.log" for index in range(count))
        self._places = [_Place(index, path) for index, path in enumerate(logs)]
        self._stack = ExitStack()
        self._oom_kills = oom_kills()

    def __enter__(self) -> "Crew":
        self._lock = self._stack.enter_context(
            held_lock(self._folder / f"{unique_name('parent')}.lock")
        )
        self._pipe, self._alive = os.pipe()
        self._stack.callback(os.close, self._pipe)
        self._stack.callback(os.close, self._alive)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._stack.callback(signal.signal, number, stops.hear(number))
        self._stack.callback(self.stop)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def done(self) -> bool:
        """Whether every worker found nothing left to do."""
        return all(place.done for place in self._places)

    def poll(self, mark: Hashable = None, *, wait: float = 0.5) -> list[Event]:
        """Start workers that are missing, and tell what happened; return after `wait` seconds.

        `mark` changes whenever the study gains something. InputError where a worker refuses its
        input, or crashes again and again without any gain.
        """
        end = time.monotonic() + wait
        while True:
            stops.ask()
            events: list[Event] = []
            for place in self._places:
                if place.process is None:
                    if not place.done and time.monotonic() >= place.start_at:
                        events.append(self._start(place))
                elif _has_ended(place.process):
                    events.append(self._bury(place, place.process, mark))
            if events or time.monotonic() >= end:
                return events
            time.sleep(0.05)

    def stop(self) -> None:
        """Tell the workers to let go of their trials, and wait; those that stay are killed."""
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.terminate()
        end = time.monotonic() + self._grace
        try:
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
        finally:  # also at a second Ctrl-C
            for process in running:
                _kill_group(process.pid)
                process.wait()
            for place in self._places:
                place.process = None

    def _start(self, place: _Place) -> Started:
        argv, environ = self._command_for(place.index)
        place.worker = unique_name(f"worker{place.index}")
        with open(place.log, "ab") as out:
            place.log_began = out.tell()
            place.process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._pipe,),
                env={
                    **environ,
                    "PYTHONUNBUFFERED": "1",
                    WORKER_NAME: place.worker,
                    WORKER_LOG: str(place.log),
                    PARENT_LOCK: str(self._lock),
                    PARENT_PIPE: str(self._pipe),
                },
            )
        return Started(place.index, place.worker, place.process.pid)

    def _bury(self, place: _Place, process: subprocess.Popen[bytes], mark: Hashable) -> Event:
        # Its own children too, while the dead process still keeps its number from being reused.
        _kill_group(process.pid)
        code = process.wait()
        place.process = None
        if code == 0:
            place.done = True
            return Finished(place.index, place.worker)
        last = _last_line(place.log, place.log_began)
        if code == BAD_INPUT:
            raise InputError(last.removeprefix("error: ") or f"a worker ended with 2: {place.log}")
        killed, self._oom_kills = self._oom_kills, oom_kills()
        reason, crashed = cause_of_death(code, last, out_of_memory=self._oom_kills > killed)
        if crashed:
            place.crashes = place.crashes + 1 if mark == place.mark else 1
            place.mark = mark
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (place.crashes - 1), 8.0)
            place.start_at = time.monotonic() + pause
            if place.crashes >= MAX_DEATHS_IN_A_ROW:
                raise InputError(
                    f"worker {place.index} died {place.crashes} times in a row without getting "
                    f"anywhere, last of: {reason}; its log is {place.log}"
                )
        return Died(place.index, place.worker, reason, crashed, place.log)


def cause_of_death(code: int, last_line: str, *, out_of_memory: bool) -> tuple[str, bool]:
    """Why a process ended with this code (negative: by a signal), and whether by its own doing."""
    if code == -signal.SIGKILL and out_of_memory:
        return "out of memory: killed by the system", True
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        words = signal.strsignal(-code)
        return f"{name} ({words})" if words else name, -code in CRASHES
    if code in STOPPED:
        return "stopped", False
    return f"exit code {code}: {last_line:.200}" if last_line else f"exit code {code}", True


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the system has killed for want of memory: of our cgroup, or of all."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                file = root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events"
            elif "memory" in kinds.split(","):
                file = root / "sys/fs/cgroup/memory" / path.lstrip("/") / "memory.oom_control"
            else:
                continue
            count = _field(file, "oom_kill")
            if count is not None:
                return count
    return _field(root / "proc/vmstat", "oom_kill") or 0


def attach(*, grace: float = GRACE_SECONDS) -> None:
    """What a worker process does first: die with its parent, and meet SIGTERM like Ctrl-C.

    Told to stop, it has `grace` seconds to let go of its trial. Without a supervisor only the
    signal is set, so that a worker can be run by hand.
    """
    if not faulthandler.is_enabled() and sys.stderr is not None:
        faulthandler.enable()
    stops.hear(signal.SIGTERM)
    pipe = os.environ.pop(PARENT_PIPE, None)
    if pipe is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if select.select([int(pipe)], [], [], 0)[0]:
        # The parent died before this process was ready; it writes nothing as long as it lives.
        sys.exit(STOPPED[1])

    def watch() -> None:
        os.read(int(pipe), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        # The main thread may be inside a long compilation, where no signal is heard.
        time.sleep(grace)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(STOPPED[1])

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    if sys.platform == "darwin":
        return process.poll() is not None
    # Not yet waited for: its number stays its own.
    peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, peek) is not None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _last_line(path: Path, began: int) -> str:
    with open(path, "rb") as file:
        file.seek(max(began, path.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _field(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return None
