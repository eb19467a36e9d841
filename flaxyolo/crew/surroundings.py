"""What a trial minds while it runs beside others, and how it may be stopped."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple


class OutOfTimeError(Exception):
    """The time of a sweep is up; the trial at work goes on with the next run."""


class PausedError(Exception):
    """The trial has reached its rung, and waits there for the others."""

    def __init__(self, epoch: int):
        super().__init__(f"paused after epoch {epoch}")
        self.epoch = epoch


class Stage(NamedTuple):
    """What a trial is doing; while it trains, after `done` of `total` epochs."""

    name: str
    done: float = 0
    total: int = 0
    note: str = ""


class Surroundings(NamedTuple):
    """What a trial minds while it runs; the defaults are those of a process alone."""

    report: Callable[[Stage], None] = lambda stage: None
    has_time: Callable[[float], bool] = lambda seconds: True
    """Whether so many seconds more are left to it."""
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered to measure: nobody else on this device trains meanwhile."""
    busy: Callable[[], AbstractContextManager[None]] = nullcontext
    """Entered to train."""
    step_aside: Callable[[], object] = lambda: None
    """Called between steps, waits while another measures."""
    saved: Callable[[], None] = lambda: None
    """Called when an epoch is in its checkpoint."""


ALONE = Surroundings()
