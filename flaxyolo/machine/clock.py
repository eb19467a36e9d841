"""The clock of every latency: calls that are timed alone on this machine."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from flaxyolo.base.errors import InputError
from flaxyolo.base.words import shown
from flaxyolo.machine.locks import held

WARM_UP_CALLS = 10
WARM_UP_SECONDS = 1.0
"""After which a slow call is warm, if it was called once."""
BLOCK_CALLS = 100
"""Calls that make a 95th percentile."""
SECONDS = "FLAXYOLO_MEASURE_SECONDS"
LEAST_SECONDS = 4.0
"""For how long a latency is timed at least, where the environment says nothing else."""


def least_seconds() -> float:
    """For how long a latency is timed at least: what FLAXYOLO_MEASURE_SECONDS says, else 4."""
    said = os.environ.get(SECONDS, "")
    if not said:
        return LEAST_SECONDS
    try:
        seconds = float(said)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{SECONDS}: expected a number of seconds from 0, got {shown(said)}")
    return seconds


def quietest(times: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " m"]:
    """Of all blocks of a hundred calls in a row the one with the lowest 95th percentile.

    What else runs on a machine can only add to a latency, and comes in bursts of seconds.
    """
    blocks = np.array_split(times, max(1, len(times) // BLOCK_CALLS))
    return min(blocks, key=lambda block: float(np.percentile(block, 95)))


def time_calls(
    call: Callable[[int], Any],
    *,
    min_calls: int,
    min_seconds: float = 0.0,
    max_seconds: float,
    gap: float = 0.0,
) -> Float64[np.ndarray, " n"]:
    """Milliseconds of each call, until both least numbers are reached or `max_seconds` are over."""
    warm_up(call, min(WARM_UP_CALLS, min_calls))
    times = []
    start = time.perf_counter()
    while not _enough(len(times), start, min_calls, min_seconds, max_seconds):
        if gap:
            time.sleep(gap)
        times.append(_timed(call, len(times)))
    return np.array(times) * 1000


class Turns(NamedTuple):
    """Milliseconds of calls, and of a reference's in blocks about as long as one of them."""

    calls: Float64[np.ndarray, " n"]
    reference: Float64[np.ndarray, "m k"]


def time_in_turn(
    call: Callable[[int], Any],
    reference: Callable[[int], Any],
    *,
    min_calls: int,
    min_seconds: float = 0.0,
    max_seconds: float,
) -> Turns:
    """One call, then a block of the reference about as long, until there are enough of both."""
    count = min(WARM_UP_CALLS, min_calls)
    size = block_size(warm_up(call, count), warm_up(reference, count))
    times, blocks = [], []
    start = time.perf_counter()
    while not _enough(len(times), start, min_calls, min_seconds, max_seconds):
        times.append(_timed(call, len(times)))
        blocks.append(time_block(reference, size))
    return Turns(np.array(times) * 1000, np.array(blocks))


def block_size(times: Sequence[float], of_reference: Sequence[float]) -> int:
    """How many calls of the reference take about as long as one of the other."""
    return max(1, round(float(np.median(times) / np.median(of_reference))))


def time_block(reference: Callable[[int], Any], size: int) -> list[float]:
    """Milliseconds of so many calls in a row.

    One call before them is not counted: what ran last has left the caches cold.
    """
    jax.block_until_ready(reference(0))
    return [1000 * _timed(reference, number) for number in range(size)]


def warm_up(call: Callable[[int], Any], count: int) -> list[float]:
    """Seconds of calls before those that are counted; of slow ones fewer are enough."""
    first, start = _timed(call, 0), time.perf_counter()
    times = []
    for number in range(1, count):
        if time.perf_counter() - start >= WARM_UP_SECONDS:
            break
        times.append(_timed(call, number))
    return times or [first]


def _enough(
    calls: int, start: float, min_calls: int, min_seconds: float, max_seconds: float
) -> bool:
    spent = time.perf_counter() - start
    return calls > 0 and ((calls >= min_calls and spent >= min_seconds) or spent >= max_seconds)


def _timed(call: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    jax.block_until_ready(call(number))
    return time.perf_counter() - began


def device_lock() -> AbstractContextManager[object]:
    """Held by one process at a time on this machine: measurements disturb each other."""
    path = Path(tempfile.gettempdir()) / "flaxyolo-measure.lock"
    return held(path, what="a measurement on this machine to end")
